"""Snapshots and their schedules, over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import DEFAULT_WAIT, Cursor, IdempotencyKey, Key, Limit, PageSize, Wait
from polyvisor.dialects.native.translate import compression_of, fork_of, instance_to, schedule_to, snapshot_to
from polyvisor.engine.instances import Until
from polyvisor.model.snapshot import SnapshotKind
from polyvisor.model.units import parse_duration
from polyvisor.wire import native as wire

router = APIRouter(tags=["snapshots"])


@router.post("/instances/{key}/snapshots", status_code=201)
async def create_snapshot(  # noqa: PLR0913 - what a request may say
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.CreateSnapshot | None = None,
    wait: Wait = "launched",
    timeout: Limit = DEFAULT_WAIT,
    idempotency_key: IdempotencyKey = "",
) -> wire.Snapshot:
    """Take a snapshot of an instance. What is in volumes is not a part of it; with memory, none may be writable.

    Answered when it is ready unless `wait` is `accepted`; one that fails leaves none. With an `Idempotency-Key`, a
    repeat makes no second.
    """
    wanted = body or wire.CreateSnapshot()
    kind = SnapshotKind(wanted.kind)
    packing = compression_of(wanted.compression)
    taken = await core.snapshots.create(
        caller, key, wanted.name or "", kind, receipt=idempotency_key, compression=packing
    )
    return snapshot_to(await core.snapshots.settle(taken, Until(wait), timeout))


@router.get("/instances/{key}/snapshots")
async def list_instance_snapshots(
    key: Key, caller: Caller, core: Core, cursor: Cursor = None, limit: PageSize = 100
) -> wire.SnapshotPage:
    """A page of the snapshots that were taken of an instance, oldest first."""
    page = await core.snapshots.list(caller, cursor, limit, key)
    return wire.SnapshotPage(items=[snapshot_to(s) for s in page.items], next=page.next)


@router.post("/instances/{key}/fork", status_code=201)
async def fork(  # noqa: PLR0913 - what a request may say
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.ForkInstance | None = None,
    wait: Wait = "launched",
    timeout: Limit = DEFAULT_WAIT,
    idempotency_key: IdempotencyKey = "",
) -> wire.Instance:
    """A new instance that is what this one is now: memory, processes, disk. It has a name, addresses, host keys and
    random numbers of its own before it meets the network. The source goes on after a pause of milliseconds."""
    wanted = body or wire.ForkInstance()
    kind = None if wanted.kind is None else SnapshotKind(wanted.kind)
    asked = await core.forks.fork(
        caller, key, fork_of(wanted), kind, without=frozenset(wanted.without), receipt=idempotency_key
    )
    return instance_to(await core.instances.settle(asked, Until(wait), timeout))


@router.post("/instances/{key}/revert")
async def revert(
    key: Key,
    body: wire.RevertInstance,
    caller: Caller,
    core: Core,
    wait: Wait = "launched",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Let a stopped instance be what it was when one of its snapshots was taken. What it has now is gone."""
    asked = await core.snapshots.revert(caller, key, body.snapshot)
    return instance_to(await core.instances.settle(asked, Until(wait), timeout))


@router.get("/snapshots")
async def list_snapshots(caller: Caller, core: Core, cursor: Cursor = None, limit: PageSize = 100) -> wire.SnapshotPage:
    """A page of snapshots, oldest first; of instances that are gone, too."""
    page = await core.snapshots.list(caller, cursor, limit)
    return wire.SnapshotPage(items=[snapshot_to(s) for s in page.items], next=page.next)


@router.get("/snapshots/{key}")
async def get_snapshot(key: Key, caller: Caller, core: Core) -> wire.Snapshot:
    """One snapshot, by id or name."""
    return snapshot_to(await core.snapshots.get(caller, key))


@router.delete("/snapshots/{key}", status_code=204)
async def delete_snapshot(key: Key, caller: Caller, core: Core) -> Response:
    """Delete a snapshot. Instances that were made from it stay; refused while one is being made."""
    await core.snapshots.delete(caller, key)
    return Response(status_code=204)


@router.put("/instances/{key}/schedule")
async def set_schedule(key: Key, body: wire.SetSchedule, caller: Caller, core: Core) -> wire.Schedule:
    """Take a snapshot every so often, the first one an interval from now. There is one schedule for an instance."""
    interval = parse_duration(body.interval, "interval")
    age = None if body.max_age is None else parse_duration(body.max_age, "max_age")
    kind = SnapshotKind(body.kind)
    found = await core.schedules.set(caller, key, interval, kind, max_age=age, max_count=body.max_count)
    return schedule_to(found)


@router.get("/instances/{key}/schedule")
async def get_schedule(key: Key, caller: Caller, core: Core) -> wire.Schedule:
    """When the next snapshot is taken, and what became of the last run."""
    return schedule_to(await core.schedules.get(caller, key))


@router.delete("/instances/{key}/schedule", status_code=204)
async def delete_schedule(key: Key, caller: Caller, core: Core) -> Response:
    """Take no more snapshots by the clock. Those that were taken stay."""
    await core.schedules.remove(caller, key)
    return Response(status_code=204)
