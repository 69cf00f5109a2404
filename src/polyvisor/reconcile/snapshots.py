"""What operations mean for the records of snapshots: written in the transaction that closes them."""

from __future__ import annotations

from datetime import datetime

from polyvisor.model.compression import Packing
from polyvisor.model.event import Event
from polyvisor.model.faults import Fault
from polyvisor.model.ids import SnapshotId
from polyvisor.model.instance import Instance
from polyvisor.model.operation import Operation, Verb
from polyvisor.model.snapshot import SnapshotKind, SnapshotState
from polyvisor.model.units import Bytes
from polyvisor.ports.store import Unit
from polyvisor.reconcile.steps import Keeping

_ABOUT = {Verb.SNAPSHOT, Verb.REVERT}
_ENDING = {Verb.STOP, Verb.DELETE}  # what may have taken the place of a snapshot that was being made


def subject(operation: Operation | None) -> SnapshotId | None:
    """The snapshot that the steps of an operation are about."""
    return SnapshotId(operation.subject) if operation is not None and operation.verb in _ABOUT else None


async def kind(unit: Unit, operation: Operation) -> Keeping:
    """What is kept of the instance, and for how long. :raise NotFound:"""
    snapshot = await unit.snapshots.get(SnapshotId(operation.subject))
    return Keeping(snapshot.kind is SnapshotKind.FULL, not snapshot.transient, Packing(snapshot.compression))


async def made(unit: Unit, operation: Operation, size: Bytes) -> None:
    """The host has it; whether it is to stay is decided when the operation is closed."""
    await unit.operations.save(operation)
    await unit.snapshots.save(SnapshotId(operation.subject), SnapshotState.CREATING, size)


async def closed(
    unit: Unit, operation: Operation, fault: Fault | None, now: datetime, size: Bytes | None = None
) -> None:
    """It is ready, or there never was one: the undo has removed what there was of it. `size`: the record has none."""
    if operation.verb is not Verb.SNAPSHOT:
        return
    snapshot = await unit.snapshots.get(SnapshotId(operation.subject))
    if fault is not None:
        await unit.snapshots.forget(snapshot.id)
        return
    await unit.snapshots.save(snapshot.id, SnapshotState.READY, snapshot.size if size is None else size)
    if not snapshot.transient:
        data = {"name": snapshot.name, "instance": str(snapshot.source)}
        await unit.events.append(Event("snapshot.created", snapshot.project, snapshot.id, now, data))


async def left_behind(unit: Unit, instance: Instance, operation: Operation | None) -> list[SnapshotId]:
    """Snapshots of the instance that were being made when their operation was superseded: from now on `deleting`."""
    if operation is not None and operation.verb not in _ENDING:
        return []
    left = [s for s in await unit.snapshots.of(instance.id) if s.state is SnapshotState.CREATING]
    for snapshot in left:
        await unit.snapshots.save(snapshot.id, SnapshotState.DELETING, snapshot.size)
    return [snapshot.id for snapshot in left]
