"""Snapshots: what an instance was at a moment. Taken and gone back to by the reconciler, removed here."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from polyvisor.access.grants import permit, require, require_somewhere, scope
from polyvisor.access.quotas import admit_more
from polyvisor.engine.instances import Asked, InstancesEngine, Until
from polyvisor.engine.origins import find_snapshot, require_ready
from polyvisor.engine.packing import snapshot_compression
from polyvisor.model.compression import Compression, Packed, Packing, PackState
from polyvisor.model.event import Event
from polyvisor.model.face import face
from polyvisor.model.faults import Busy, Fault, Invalid, NotFound, Unsupported, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.identity import Quotas
from polyvisor.model.ids import SnapshotId, check_name, mint
from polyvisor.model.instance import Instance
from polyvisor.model.operation import Verb, admit, admit_memory
from polyvisor.model.principal import Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.snapshot import Snapshot, SnapshotKind, SnapshotState, TemplateFor
from polyvisor.model.units import Bytes
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit

log = logging.getLogger("polyvisor.engine")
_LONGEST_FORK = timedelta(hours=1)  # a snapshot made for one new instance only is not left lying longer than that


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that is being made, and the operation that makes it: None when a repeat found it made already."""

    snapshot: Snapshot
    asked: Asked | None


class SnapshotsEngine:
    """Create, read, revert to, delete."""

    def __init__(
        self, store: Store, host: Host, clock: Callable[[], datetime], instances: InstancesEngine, packing: Packing
    ) -> None:
        self._packing = packing  # where neither the caller nor the instance has a word of its own
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._files = asyncio.Lock()  # one removal at a time, with its record
        self.orphans: frozenset[SnapshotId] = frozenset()  # made for forks that nobody waits for any more

    async def create(  # noqa: PLR0913 - what a snapshot may be for
        self, principal: Principal, key: str, name: str = "", kind: SnapshotKind | None = None, *, receipt: str = "",
        transient: bool = False, template: TemplateFor = TemplateFor.NOBODY, compression: Compression | None = None,
        foreign: Foreign | None = None,
    ) -> Taken:  # fmt: skip
        """A snapshot of an instance, accepted; of its disk unless told otherwise. Without a name its id is its name.

        `compression` is this one's, instead of the instance's or the server's. `receipt` is an idempotency key: a
        repeat answers with the first one's snapshot.
        :raise NotFound, Invalid, Exists, WrongState, Busy: with nothing written.
        """
        require(principal, Action.SNAPSHOT_CREATE)
        if name:
            check_name(name)
        kind = kind or SnapshotKind.DISK
        if compression is not None and kind is not SnapshotKind.FULL:
            raise Invalid("compression: only a snapshot with memory has any to compress", field="compression")
        asked = ("snapshot", key, name, kind, *([] if compression is None else [str(compression)]))
        digest = hashlib.sha256(repr(asked).encode()).hexdigest()
        async with self._store.write(lasting=not transient) as unit:
            if receipt:
                found = await self._repeated(unit, principal, receipt, digest)
                if found is not None:
                    return found
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_OPERATE)
            permit(principal, Action.SNAPSHOT_CREATE, instance.project, key)
            taken = await self.take(
                unit, instance, name, kind, transient=transient, template=template, compression=compression,
                foreign=foreign,
            )  # fmt: skip
            if receipt:
                await unit.receipts.add(principal.project, receipt, digest, taken.snapshot.id, self._clock())
        return taken

    async def take(  # noqa: PLR0913 - as above
        self, unit: Unit, instance: Instance, name: str, kind: SnapshotKind, *, scheduled: bool = False,
        transient: bool = False, template: TemplateFor = TemplateFor.NOBODY, compression: Compression | None = None,
        foreign: Foreign | None = None,
    ) -> Taken:  # fmt: skip
        """As `create`, for an instance that was found, in the caller's transaction.

        The record comes first, so that nothing on a host is ever without one.
        """
        require_disk(instance)
        await self._admit(unit, instance, Verb.SNAPSHOT)
        if kind is SnapshotKind.FULL:
            admit_memory(face(instance))
            _require_read_only(instance)
            require_no_tpm(instance)
        id = SnapshotId(mint())
        wanted = snapshot_compression(compression, instance.spec, self._packing)
        if kind is not SnapshotKind.FULL or transient or template:  # forks and templates are there to be quick
            wanted = Compression()
        packed = Packed(PackState.COMPRESSING) if wanted else Packed()
        snapshot = Snapshot(
            id, instance.project, name or id, kind, SnapshotState.CREATING, instance.id, instance.name,
            replace(instance.spec, origin=""), Bytes(0), instance.host, self._clock(), scheduled, transient,
            template, instance.mounts if kind is SnapshotKind.FULL else (), wanted, packed,
        )  # fmt: skip
        if not transient and template is not TemplateFor.ALL:  # one for all is the operator's
            await admit_more(unit, instance.project, Quotas(snapshots=1))
        await unit.snapshots.add(snapshot)
        if foreign is not None:
            await unit.foreigners.put(snapshot.project, id, foreign)
        operation = await self._instances.open(unit, instance, Verb.SNAPSHOT, id)
        unit.wake(instance.id)
        return Taken(snapshot, Asked(instance, operation.id))

    async def _repeated(self, unit: Unit, principal: Principal, receipt: str, digest: str) -> Taken | None:
        found = await unit.receipts.find(principal.project, receipt)
        if found is None:
            return None
        if found[0] != digest:
            raise Invalid("the idempotency key was used for another request", field="Idempotency-Key")
        try:
            snapshot = await unit.snapshots.get(SnapshotId(found[1]))
        except NotFound as error:
            raise NotFound("what this idempotency key asked for failed, or was deleted", subject=found[1]) from error
        for operation in await unit.operations.about(snapshot.id):
            if operation.verb is Verb.SNAPSHOT:
                return Taken(snapshot, Asked(await unit.instances.get(operation.instance), operation.id))
        return Taken(snapshot, None)

    async def settle(self, taken: Taken, until: Until, limit: float | None) -> Snapshot:
        """The snapshot, ready unless only its acceptance is asked for. The work goes on when the caller does not wait.

        :raise Fault: the one it failed with. :raise TimedOut: :raise Stale: a later request took its place.
        """
        if until is Until.ACCEPTED or taken.asked is None:
            return taken.snapshot
        await self._instances.settle(taken.asked, Until.LAUNCHED, limit)
        async with self._store.read() as unit:
            return await unit.snapshots.get(taken.snapshot.id)

    async def get(self, principal: Principal, key: str) -> Snapshot:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            return await find_snapshot(unit, principal, key, Action.SNAPSHOT_VIEW)

    async def list(
        self, principal: Principal, cursor: str | None, limit: int, instance: str | None = None
    ) -> Page[Snapshot]:
        """A page of one instance's or of all, oldest first."""
        require_somewhere(principal, Action.SNAPSHOT_VIEW)
        seen = scope(principal, Action.SNAPSHOT_VIEW)
        async with self._store.read() as unit:
            source = await self._instances.find(unit, principal, instance, Action.INSTANCE_VIEW) if instance else None
            return await unit.snapshots.page(seen, cursor, limit, source.id if source else None)

    async def held(self, principal: Principal) -> Bytes:
        """What the caller's snapshots take on disk together; everybody's for the operator."""
        require_somewhere(principal, Action.SNAPSHOT_VIEW)
        async with self._store.read() as unit:
            return await unit.snapshots.held(scope(principal, Action.SNAPSHOT_VIEW))

    async def revert(self, principal: Principal, key: str, snapshot: str) -> Asked:
        """A stopped instance becomes what it was. What it has now is gone.

        :raise Invalid: the snapshot is another instance's. :raise WrongState, Busy, NotFound:
        """
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_OPERATE)
            found = require_ready(await find_snapshot(unit, principal, snapshot, Action.SNAPSHOT_VIEW))
            if found.source != instance.id:
                raise Invalid(f"snapshot: {found.name} was not taken of {instance.name}", field="snapshot")
            await self._admit(unit, instance, Verb.REVERT)
            if found.kind is SnapshotKind.FULL:
                _require_same_volumes(instance, found)
            operation = await self._instances.open(unit, instance, Verb.REVERT, found.id)
            unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def _admit(self, unit: Unit, instance: Instance, verb: Verb) -> None:
        under_way = await unit.operations.current(instance.id)
        admit(verb, face(instance), under_way.verb if under_way else None)

    # -- removing ------------------------------------------------------------------------------------------------

    async def delete(self, principal: Principal, key: str) -> None:
        """:raise Busy: it is being made, gone back to, or an instance is being made from it."""
        async with self._files:
            async with self._store.write() as unit:
                snapshot = await find_snapshot(unit, principal, key, Action.SNAPSHOT_DELETE)
                under_way = [operation.verb for operation in await unit.operations.about(snapshot.id)]
                if under_way or snapshot.state is SnapshotState.CREATING:  # or superseded, and being cleared away
                    text = f"snapshot {snapshot.name} is in use ({', '.join(under_way) or snapshot.state})"
                    raise Busy(text, field="snapshot", subject=snapshot.id, retry_after=1.0)
                await unit.snapshots.save(snapshot.id, SnapshotState.DELETING, snapshot.size)
            await self._remove(snapshot)

    async def discard(self, id: SnapshotId) -> None:
        """Remove one that was made for a new instance only, when that is there or will not be. Safe to repeat."""
        async with self._files:
            async with self._store.write(lasting=False) as unit:
                try:
                    snapshot = await unit.snapshots.get(id)
                except NotFound:
                    return
                if await unit.operations.about(id) or snapshot.state is SnapshotState.CREATING:
                    return
                await unit.snapshots.save(id, SnapshotState.DELETING, snapshot.size)
            await self._remove(snapshot)

    async def _remove(self, snapshot: Snapshot) -> None:
        await self._host.remove_snapshot(snapshot.id)
        async with self._store.write(lasting=not snapshot.transient) as unit:
            with contextlib.suppress(NotFound):  # somebody else was quicker
                await unit.snapshots.forget(snapshot.id)
                if snapshot.size and not snapshot.transient:  # of one that never was there is nothing to tell
                    await unit.events.append(_deleted(snapshot, self._clock()))

    async def follow(self) -> None:
        """Write down what has become of the memory of snapshots that is being compressed."""
        async with self._store.read() as unit:
            waiting = [s for s in await unit.snapshots.packing() if s.state is SnapshotState.READY]
        for snapshot in waiting:
            try:
                packed, size = await self._host.packed(snapshot.id)
            except NotFound:
                packed, size = Packed(PackState.ERROR, "its files are not on this host"), snapshot.size
            if packed.state is PackState.COMPRESSING:
                continue
            async with self._store.write() as unit:
                with contextlib.suppress(NotFound):  # it was deleted meanwhile
                    await unit.snapshots.packed(snapshot.id, packed, size)
                    await unit.events.append(_compressed(snapshot, packed, self._clock()))

    async def recover(self) -> None:
        """After a crash: finish deletes, and remove what was made for an instance that is there or never will be.

        Called once, at the server's start, when the reconciler has begun to resume what was under way.
        """
        async with self._store.read() as unit:
            self.orphans = frozenset(s.id for s in await unit.snapshots.all() if s.transient)
        await self.collect()

    async def collect(self) -> int:
        """Remove what nobody will come back for; how many there were. What fails is tried again by the next call."""
        gone = 0
        async with self._files:
            async with self._store.write() as unit:
                left = [s for s in await unit.snapshots.all() if await self._is_left(unit, s)]
                for snapshot in left:
                    await unit.snapshots.save(snapshot.id, SnapshotState.DELETING, snapshot.size)
            for snapshot in left:
                try:
                    await self._remove(snapshot)
                    gone += 1
                except Fault as fault:
                    log.warning("snapshot %s: %s %s", snapshot.id, fault.public, fault.private)
            if self.orphans:
                async with self._store.read() as unit:
                    self.orphans &= {snapshot.id for snapshot in await unit.snapshots.all()}
        return gone

    async def _is_left(self, unit: Unit, snapshot: Snapshot) -> bool:
        """One that is being made is left when nothing is under way at its source that would make it, or clear it."""
        if snapshot.state is SnapshotState.DELETING:
            return True
        if snapshot.state is SnapshotState.CREATING:
            return await unit.operations.current(snapshot.source) is None
        old = snapshot.id in self.orphans or self._clock() - snapshot.created >= _LONGEST_FORK
        return snapshot.transient and old and not await unit.operations.about(snapshot.id)


def require_disk(instance: Instance) -> None:
    """:raise Unsupported: what a snapshot of a blank machine would keep is not in it."""
    if instance.spec.blank:
        raise Unsupported("a machine without a disk of its own has nothing to take a snapshot of", field="instance")


def _require_read_only(instance: Instance) -> None:
    """:raise WrongState: what memory knows of a volume would not fit what the volume holds by then."""
    for mount in instance.mounts:
        if not mount.read_only:
            text = f"volumes: {mount.name} can be written, so a snapshot's memory would not fit it later; detach it"
            raise WrongState(text, field="volumes", subject=mount.volume)


def require_no_tpm(instance: Instance) -> None:
    """:raise Unsupported: what its devices are has the TPM's secrets in it, which are those of one machine."""
    if instance.spec.has_tpm:
        text = (
            "tpm: a copy with memory would have its secrets as well; one of the disk (kind disk) gets a TPM of its own"
        )
        raise Unsupported(text, field="tpm")


def _require_same_volumes(instance: Instance, snapshot: Snapshot) -> None:
    """:raise WrongState: the memory knows of other volumes."""
    there, wanted = ({(m.volume, m.path, m.read_only) for m in of.mounts} for of in (instance, snapshot))
    if there != wanted:
        names = ", ".join(f"{m.name} at {m.path}" if m.path else m.name for m in snapshot.mounts) or "none"
        raise WrongState(f"volumes: {snapshot.name} is of other ones (read-only: {names})", field="volumes")


def _compressed(snapshot: Snapshot, packed: Packed, now: datetime) -> Event:
    data = {"name": snapshot.name, "instance": str(snapshot.source), "state": str(packed.state)}
    if packed.error:
        data["fault"] = packed.error
    return Event("snapshot.compression", snapshot.project, snapshot.id, now, data)


def _deleted(snapshot: Snapshot, now: datetime) -> Event:
    data = {"name": snapshot.name, "instance": str(snapshot.source)}
    return Event("snapshot.deleted", snapshot.project, snapshot.id, now, data)
