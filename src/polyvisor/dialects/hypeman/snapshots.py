"""Snapshots as this dialect knows them: found by id, with a name that is one's own only within its source instance.

Ours have names that are unique in a project. So a snapshot's name here is an alias, `<source id>/<name>`, and ours is
the same name where that is free.
"""

from __future__ import annotations

from polyvisor.dialects.hypeman import wire
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.resolve import DIALECT
from polyvisor.dialects.hypeman.table import Call
from polyvisor.dialects.hypeman.translate import Kept, foreign_of, kept_of
from polyvisor.dialects.hypeman.wishes import PATIENCE
from polyvisor.engine.instances import Until
from polyvisor.engine.snapshots import Taken
from polyvisor.model.compression import Compression
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.instance import Instance
from polyvisor.model.snapshot import Snapshot, SnapshotKind, SnapshotState

NAME = "snapshot-name"  # the kind of alias
KINDS = {"Standby": SnapshotKind.FULL, "Stopped": SnapshotKind.DISK}
_WORDS = {kind: word for word, kind in KINDS.items()}
_PAGE = 1000


async def find_snapshot(call: Call, key: str) -> Snapshot:
    """By id. :raise Refusal: there is none, or it is not there yet."""
    try:
        found = await call.core.snapshots.get(call.principal, key)
    except NotFound as fault:
        raise Refusal(404, "not_found", "snapshot not found") from fault
    if found.state is not SnapshotState.READY or key != found.id:
        raise Refusal(404, "not_found", "snapshot not found")
    return found


async def take(
    call: Call, instance: Instance, kind: SnapshotKind, name: str | None, kept: Kept, packed: Compression | None
) -> Snapshot:
    """A snapshot that is there. :raise Exists: the instance has one of that name. :raise Fault:"""
    alias = (NAME, f"{instance.id}/{name}") if name else None

    async def begin(called: str) -> Taken:
        return await call.core.snapshots.create(
            call.principal, instance.id, called, kind, foreign=foreign_of(kept, alias), compression=packed
        )

    try:
        taken = await begin(name or "")
    except Exists as fault:
        if fault.field == "alias":
            raise
        taken = await begin("")
    return await call.core.snapshots.settle(taken, Until.LAUNCHED, PATIENCE)


async def all_snapshots(call: Call, source: str | None = None) -> list[Snapshot]:
    """Those that are there, of one instance or of all, oldest first. The source need not exist any more."""
    found: list[Snapshot] = []
    cursor: str | None = None
    while True:
        page = await call.core.snapshots.list(call.principal, cursor, _PAGE)
        found += [one for one in page.items if one.state is SnapshotState.READY and source in (None, one.source)]
        cursor = page.next
        if cursor is None:
            return found


async def show_snapshots(call: Call, snapshots: list[Snapshot]) -> list[wire.Snapshot]:
    """Snapshots for their reader."""
    texts = await call.core.foreigners.remainders(DIALECT, [one.id for one in snapshots])
    return [snapshot_to(one, kept_of(texts.get(one.id))) for one in snapshots]


def snapshot_to(snapshot: Snapshot, kept: Kept) -> wire.Snapshot:
    """A snapshot for its reader."""
    packed, wanted, how = snapshot.packed, snapshot.compression, None
    if wanted:
        how = wire.SnapshotCompressionConfig.model_validate(
            {"enabled": True, "algorithm": str(wanted.algorithm), "level": wanted.level}
        )
    called = kept.get("name") or (snapshot.name if snapshot.name != snapshot.id else None)
    return wire.Snapshot(
        id=snapshot.id, name=called, kind=_WORDS[snapshot.kind],  # type: ignore[arg-type]  # one of those words
        tags=kept.get("tags") or None, source_instance_id=snapshot.source,
        source_instance_name=snapshot.source_name, source_hypervisor="qemu", created_at=snapshot.created,
        size_bytes=snapshot.size, compression_state=packed.state.value, compression_error=packed.error or None,
        compression=how, compressed_size_bytes=packed.packed or None, uncompressed_size_bytes=packed.plain or None,
    )  # fmt: skip


def qemu_only(asked: str | None, snapshot: Snapshot) -> None:
    """:raise Refusal: another hypervisor is asked for, or any for saved memory."""
    if asked is None:
        return
    if snapshot.kind is SnapshotKind.FULL:
        raise Refusal(400, "invalid_request", "target_hypervisor is only allowed for Stopped snapshots")
    if asked != "qemu":
        raise Refusal(400, "invalid_request", f'target_hypervisor: "{asked}" is not installed here (qemu is)')
