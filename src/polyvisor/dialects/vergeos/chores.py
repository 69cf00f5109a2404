"""What time does here: snapshots expire, profiles take new ones, and what a dead server left behind is cleared away.

Each is safe to repeat, and one that fails does not keep the others from being done (ADR 43).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import COPY, DIALECT, Kept, data_of
from polyvisor.dialects.vergeos.tables import drives, profiles, snapshots
from polyvisor.dialects.vergeos.tables.vms import copies_of
from polyvisor.dialects.vergeos.unasked import Unasked
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import SYSTEM, Action
from polyvisor.model.snapshot import SnapshotState

log = logging.getLogger("polyvisor.vergeos")
_EVERY = 5  # seconds between two looks
_SWEEP = 600  # seconds between two looks for what nobody needs
_MAKING = 60  # seconds after which a snapshot that is said to be made has a job, or is a dead server's
LATE = 3600  # seconds that a profile's snapshot may be late at most; later it is left out


class Chores:
    """Those of one application."""

    def __init__(self, unasked: Unasked) -> None:
        self._unasked = unasked
        self._began = self._call().now
        self._looked = self._swept = 0

    async def tick(self) -> None:
        """What is due."""
        now = self._call().now
        if now - self._looked >= _EVERY or now < self._looked:
            self._looked = now
            await self._try(self.expire(), "expiry of snapshots")
            await self._try(self.take(), "snapshot profiles")
        if now - self._swept >= _SWEEP or now < self._swept:
            self._swept = now
            await self._try(self.recover(), "unfinished snapshots")
            await self._try(self.finish(), "unfinished restores")
            await self._try(self.sweep(), "copies of nobody's")

    def _call(self) -> Call:
        return self._unasked.call(SYSTEM)

    async def _try(self, work: Awaitable[object], what: str) -> bool:
        try:
            await work
        except Refusal as refusal:
            log.warning("%s: %s", what, refusal.text)
        except Fault as fault:
            log.warning("%s: %s %s", what, fault.public, fault.private)
        except Exception:
            log.exception("%s stumbled; the others go on", what)
        else:
            return True
        return False

    # -- expiry --------------------------------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Remove every snapshot whose time is over (vergeos.md §3.4), but the latest that a period wants kept."""
        call = self._call()
        rows = await call.core.rows.of(DIALECT, [snapshots.KIND])
        gone = _expired(rows, call.now, {one.key: one.data for one in await profiles.periods(call.world)})
        if not gone:
            return
        for snap in await call.world.snaps():
            if snap.row.key in gone:
                async with call.locks.of(snap.row.subject):
                    await self._try(snapshots.remove(call, snap), f"snapshot {snap.name}")

    # -- profiles ------------------------------------------------------------------------------------------------------

    async def take(self) -> None:
        """The snapshots that periods of profiles are due for. Their names say when they were due, so none is taken
        twice; the period's next time is written down when all are there."""
        call = self._call()
        for period in await profiles.periods(call.world):
            due = int(period.data.get("next", 0))
            if not due or due > call.now:
                continue
            if call.now - due <= LATE:
                await self._of_period(call, period, due)
            row = replace(period.row, data=json.dumps({**period.data, "next": profiles.next_of(period.data, call.now)}))
            with contextlib.suppress(NotFound):
                await call.core.rows.save(SYSTEM, [row], Action.INSTANCE_OPERATE)

    async def _of_period(self, call: Call, period: Kept, due: int) -> None:
        name = f"{period.data['name'][:100]} {datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M}"
        kept = int(period.data["retention"])
        for vm in await call.world.live():
            if vm.kept.get("snapshot_profile") != period.data["profile"]:
                continue
            if any(one.source_machine == vm.machine and one.name == name for one in await call.world.snaps()):
                continue
            told = {"name": name, "expires": call.now + kept if kept else 0, "created_manually": False}
            await self._try(snapshots.take(call, vm, {**told, "period": period.key}), f"snapshot of {vm.name}")

    # -- what was left behind ------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Remove the rows of snapshots that a server which is gone was making, with what there is of them."""
        call = self._call()
        for row in await call.core.rows.of(DIALECT, [snapshots.KIND]):
            kept = data_of(row)
            if kept.get("state") != "creating" or call.jobs.has(snapshots.job_of(row)):
                continue
            created = int(kept.get("created", 0))
            if created < self._began or call.now - created > _MAKING:
                await self._try(_forget(call, row), f"snapshot {kept.get('name', '')}")

    async def finish(self) -> None:
        """Take the drives of before from VMs that a server which is gone was turning back to a snapshot."""
        call = self._call()
        rows = await call.core.rows.of(DIALECT, [drives.KIND])
        for id in {InstanceId(row.subject) for row in rows if data_of(row).get("leaving")}:
            here = call.about(id)
            async with call.locks.of(id):
                for drive in await here.world.all_drives():
                    if drive.leaves:
                        await self._try(drives.remove(here, drive), f"drive {drive.kept.get('name', '')}")

    async def sweep(self) -> None:
        """Remove copies of disks that no snapshot tells of."""
        call = self._call()
        if call.jobs.has(snapshots.JOB):  # what is being copied is told of when that is over
            return
        copies = [one for one in await call.core.numbers.volumes() if one.kind == COPY]
        if not copies:
            return
        rows = await call.core.rows.of(DIALECT, [snapshots.KIND])
        if call.jobs.has(snapshots.JOB):
            return
        known = {id for row in rows for id in copies_of(data_of(row))}
        for volume in copies:
            if volume.id not in known:
                await self._try(call.core.volumes.delete(SYSTEM, volume.id), f"copy {volume.id}")


def _expired(rows: Sequence[Row], now: int, periods: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """The keys of those that may go: of a period, not the latest so many."""
    told = [(row, data_of(row)) for row in rows]
    ready = [(row, kept) for row, kept in told if kept.get("state", "ready") == "ready"]
    left = Counter((row.subject, kept["period"]) for row, kept in ready if kept.get("period"))
    gone = set()
    for row, kept in sorted(ready, key=lambda pair: int(pair[1].get("created", 0))):
        if not 0 < int(kept.get("expires") or 0) < now:
            continue
        if period := kept.get("period"):
            least = periods.get(period, {}).get("min_snapshots", 0)
            if left[row.subject, period] <= int(least):
                continue
            left[row.subject, period] -= 1
        gone.add(row.key)
    return gone


async def _forget(call: Call, row: Row) -> None:
    """With the engine's snapshot that was taken for it; its copies are found by `sweep`."""
    taken = [one for one in await call.world.engine_snapshots() if one.source == row.subject]
    notes = await call.core.foreigners.remainders(DIALECT, [one.id for one in taken])
    for one in taken:
        if json.loads(notes.get(one.id, "{}")).get("of") == row.name and one.state is SnapshotState.READY:
            await call.core.snapshots.delete(SYSTEM, one.id)
    hidden = [one for one in await call.core.rows.of(DIALECT, ["vms", "machines"]) if one.name == f"snap/{row.name}"]
    await call.core.rows.remove(SYSTEM, [*hidden, row], Action.SNAPSHOT_DELETE)
