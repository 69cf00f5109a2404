"""Schedules: snapshots that are taken by the clock, and removed by it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from polyvisor.access.grants import permit
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Fault, NotFound
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import InstanceId, SnapshotId
from polyvisor.model.instance import Instance
from polyvisor.model.operation import Operation, Outcome
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.snapshot import Schedule, SnapshotKind, after, check_schedule, outdated
from polyvisor.model.units import Seconds
from polyvisor.ports.store import Store, Unit

log = logging.getLogger("polyvisor.engine")
_PATIENCE = timedelta(seconds=60)  # so long a run may wait for another operation to end before it is left out
_WITH_MEMORY = frozenset({Face.RUNNING, Face.PAUSED, Face.SUSPENDED})
_STEM = 46  # characters of an instance's name that leave room for the time in a snapshot's


class SchedulesEngine:
    """Set, read, remove, and run those that are due.

    When the next run is due is written in the transaction that asks for the snapshot: after a crash no run is made
    twice. What became of a run is read from its operation, by who asks and by the clock: nobody has to wait for it.
    """

    def __init__(
        self, store: Store, clock: Callable[[], datetime], instances: InstancesEngine, snapshots: SnapshotsEngine
    ) -> None:
        self._store = store
        self._clock = clock
        self._instances = instances
        self._snapshots = snapshots

    async def set(  # noqa: PLR0913 - what a schedule says
        self, principal: Principal, key: str, interval: Seconds, kind: SnapshotKind | None = SnapshotKind.DISK, *,
        max_age: Seconds | None = None, max_count: int | None = None, prefix: str = "", foreign: Foreign | None = None,
    ) -> Schedule:  # fmt: skip
        """Give an instance a schedule, or another one. The first run is an interval from now; a schedule whose interval
        stays keeps its time. `kind` None: with memory whenever there is any.

        :raise Invalid: naming what is wrong. :raise NotFound:
        """
        check_schedule(interval, max_age, max_count)
        now = self._clock()
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            permit(principal, Action.SNAPSHOT_CREATE, instance.project, key)
            if max_age is not None or max_count is not None:
                permit(principal, Action.SNAPSHOT_DELETE, instance.project, key)
            try:
                was = await unit.schedules.get(instance.id)
            except NotFound:
                was = Schedule(instance.id, Seconds(0.0), kind, now, created=now)
            if was.interval != interval:
                was = replace(was, interval=interval, next_run=now + timedelta(seconds=interval))
            schedule = replace(
                was, kind=kind, max_age=max_age, max_count=max_count, prefix=prefix, foreign=foreign,
                updated=now,
            )  # fmt: skip
            await unit.schedules.put(schedule)
        return schedule

    async def get(self, principal: Principal, key: str) -> Schedule:
        """:raise NotFound: there is no such instance, or it has none."""
        async with self._store.read() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_VIEW)
            return await _told(unit, await _schedule(unit, instance))

    async def remove(self, principal: Principal, key: str) -> None:
        """No more snapshots are taken, nor removed. :raise NotFound:"""
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            await _schedule(unit, instance)
            await unit.schedules.remove(instance.id)

    # -- by the clock --------------------------------------------------------------------------------------------

    async def tick(self) -> int:
        """Ask for every snapshot that is due, and see to those that were asked for; how many there were."""
        async with self._store.read() as unit:
            due = await unit.schedules.due(self._clock())
        for schedule in due:
            try:
                await self._see_to(schedule.instance)
            except NotFound:
                continue  # the instance was deleted meanwhile
            except Fault as fault:
                log.warning("schedule of %s: %s %s", schedule.instance, fault.public, fault.private)
            except Exception:
                log.exception("the schedule of %s stumbled; the others go on", schedule.instance)
        return len(due)

    async def _see_to(self, id: InstanceId) -> None:
        async with self._store.read() as unit:
            schedule = await _told(unit, await unit.schedules.get(id))
        if schedule.operation is not None:
            return  # its last run is still under way
        async with self._store.write() as unit:
            schedule = await _told(unit, await unit.schedules.get(id))
            await unit.schedules.put(schedule)
        if schedule.next_run <= self._clock():
            try:
                await self._run(id)
            except Fault as fault:
                await self._left_out(id, fault)
        await self._tidy(id)

    async def _run(self, id: InstanceId) -> None:
        now = self._clock()
        async with self._store.write() as unit:
            schedule = await unit.schedules.get(id)
            instance = await unit.instances.get(id)
            name = await _free_name(unit, instance, schedule.prefix, now)
            kind = schedule.kind or (SnapshotKind.FULL if face(instance) in _WITH_MEMORY else SnapshotKind.DISK)
            taken = await self._snapshots.take(unit, instance, name, kind, scheduled=True, foreign=schedule.foreign)
            assert taken.asked is not None
            ran = replace(
                schedule, next_run=after(schedule, now), last_run=now, last_error="", operation=taken.asked.operation
            )
            await unit.schedules.put(ran)

    async def _left_out(self, id: InstanceId, fault: Fault) -> None:
        """The run was refused. Where another operation is under way, it is tried again until patience ends."""
        now = self._clock()
        async with self._store.write() as unit:
            schedule = await unit.schedules.get(id)
            waits = isinstance(fault, Busy) and now - schedule.next_run < _PATIENCE
            later = schedule.next_run if waits else after(schedule, now)
            last = schedule.last_run if waits else now
            said = replace(schedule, last_error=fault.public, next_run=later, last_run=last)
            if said != schedule:
                await unit.schedules.put(said)

    async def _tidy(self, id: InstanceId) -> None:
        """Remove what the schedule made and does not keep. What is needed at the moment is removed another time."""
        async with self._store.read() as unit:
            schedule = await unit.schedules.get(id)
            old = outdated(schedule, list(await unit.snapshots.of(id)), self._clock())
        for snapshot in old:
            with contextlib.suppress(NotFound, Busy):
                await self._snapshots.delete(SYSTEM, snapshot.id)


async def _schedule(unit: Unit, instance: Instance) -> Schedule:
    try:
        return await unit.schedules.get(instance.id)
    except NotFound as error:
        raise NotFound(f"{instance.name} has no schedule", subject=instance.id) from error


async def _told(unit: Unit, schedule: Schedule) -> Schedule:
    """What became of its last run, once that is over."""
    if schedule.operation is None:
        return schedule
    try:
        operation = await unit.operations.get(schedule.operation)
    except NotFound:
        return replace(schedule, operation=None)  # it is long over
    if operation.outcome is Outcome.OPEN:
        return schedule
    made = SnapshotId(operation.subject) if operation.outcome is Outcome.DONE else schedule.last_snapshot
    return replace(schedule, operation=None, last_error=_error(operation), last_snapshot=made)


def _error(operation: Operation) -> str:
    return "a later request took its place" if operation.outcome is Outcome.SUPERSEDED else operation.fault


async def _free_name(unit: Unit, instance: Instance, prefix: str, now: datetime) -> str:
    """`<instance>-<time>`, or `<prefix>-<time>`; none where that is taken: then its id is its name."""
    name = f"{instance.name[:_STEM].rstrip('._-')}-{now:%Y%m%dT%H%M%SZ}"
    if prefix:
        name = f"{prefix}-{now:%Y%m%d-%H%M%S}"
    try:
        await unit.snapshots.named(instance.project, name)
    except NotFound:
        return name
    return ""
