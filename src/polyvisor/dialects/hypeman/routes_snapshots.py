"""Snapshots over HTTP, and their schedules."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import show_duration
from polyvisor.dialects.hypeman.routes_copies import refuse_volumes, steered
from polyvisor.dialects.hypeman.snapshots import KINDS, all_snapshots, find_snapshot, qemu_only, show_snapshots, take
from polyvisor.dialects.hypeman.states import word
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.translate import foreign_of, kept_of
from polyvisor.dialects.hypeman.wishes import at_rest, free, in_turn, kept_with, one_at_a_time, show
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.instance import Instance
from polyvisor.model.snapshot import Schedule, Snapshot, SnapshotKind
from polyvisor.model.units import Seconds

routes = Routes()
_LEGAL = {"Standby": frozenset({"Running", "Standby"}), "Stopped": frozenset({"Stopped"})}
_PREFIX = "scheduled"


@routes.add(
    "POST /instances/{id}/snapshots",
    "snapshot:write",
    201,
    wire.Snapshot,
    body=asks.CreateSnapshotRequest,
    finder=resolve.instance,
    also=(501,),
)
async def create_snapshot(call: Call) -> Response:
    """A snapshot: of disk and memory of an instance that has memory, of the disk of one that is stopped."""
    body: asks.CreateSnapshotRequest = call.body
    policies.check_tags(body.tags)
    if body.kind == "Stopped" and body.compression is not None:
        raise Refusal(400, "invalid_request", "compression is only supported for standby snapshots")
    packed = policies.compression_of(body.compression, "compression")
    instance = await at_rest(call, call.thing)
    state = word(instance)
    if state not in _LEGAL[body.kind]:
        raise Refusal(409, "conflict", f"cannot create {body.kind} snapshot from state {state}")
    await refuse_volumes(call, instance, "snapshot instance")
    kept: dict[str, Any] = {"instance": dict(await kept_with(call, instance.id))}
    kept |= {"name": body.name, "tags": body.tags} if body.name else {"tags": body.tags}
    try:
        taken = await free(call, instance.id, lambda: take(call, instance, KINDS[body.kind], body.name, kept, packed))
    except Exists as fault:
        raise Refusal(409, "conflict", f'snapshot name "{body.name}" already exists for this instance') from fault
    return said((await show_snapshots(call, [taken]))[0], 201)


@routes.add(
    "POST /instances/{id}/snapshots/{snapshot}/restore",
    "snapshot:write",
    200,
    wire.Instance,
    body=asks.RestoreSnapshotRequest,
    finder=resolve.instance,
    also=(501,),
)
@one_at_a_time
async def restore_snapshot(call: Call) -> Response:
    """The instance is what the snapshot kept. What it has now is gone."""
    body: asks.RestoreSnapshotRequest = call.body
    snapshot = await find_snapshot(call, call.path("snapshot"))
    instance = await at_rest(call, call.thing)
    if snapshot.source != instance.id:
        raise Refusal(400, "invalid_request", "snapshot does not belong to this instance")
    qemu_only(body.target_hypervisor, snapshot)
    if word(instance) == "Running":
        raise Refusal(409, "invalid_state", "cannot restore snapshot while source is Running")
    standby = snapshot.kind is SnapshotKind.FULL
    target = body.target_state or ("Running" if standby else "Stopped")
    return said(await show(call, await _gone_back(call, instance, snapshot, target)))


async def _gone_back(call: Call, instance: Instance, snapshot: Snapshot, target: str) -> Instance:
    """To stand still it is stopped. Memory that is not to be used is taken up first: only so can it be given up."""
    id, principal = instance.id, call.principal
    if word(instance) != "Stopped":
        instance = await in_turn(call, id, lambda: call.core.power.stop(principal, id, force=True))
    instance = await in_turn(call, id, lambda: call.core.snapshots.revert(principal, id, snapshot.id))
    if target == "Stopped" and snapshot.kind is SnapshotKind.FULL:
        instance = await steered(call, await steered(call, instance, "Standby"), "Stopped")
    return await steered(call, instance, target)


@routes.add("GET /snapshots", "snapshot:read", 200, list[wire.Snapshot], query=asks.ListSnapshots)
async def list_snapshots(call: Call) -> Response:
    """Every snapshot that fits."""
    query: asks.ListSnapshots = call.query
    found = await show_snapshots(call, await all_snapshots(call, query.source_instance_id))
    wanted = (query.tags or {}).items()
    return said(
        [
            one
            for one in found
            if query.kind in (None, one.kind)
            and query.name in (None, one.name)
            and wanted <= dict(one.tags or {}).items()
        ]
    )


@routes.add("GET /snapshots/{id}", "snapshot:read", 200, wire.Snapshot)
async def get_snapshot(call: Call) -> Response:
    """One snapshot."""
    return said((await show_snapshots(call, [await find_snapshot(call, call.path("id"))]))[0])


@routes.add("DELETE /snapshots/{id}", "snapshot:delete", 204, None)
async def delete_snapshot(call: Call) -> Response:
    """It is gone; what instances were made of it stay."""
    snapshot = await find_snapshot(call, call.path("id"))
    await call.core.snapshots.delete(call.principal, snapshot.id)
    return Response(status_code=204)


# -- schedules -----------------------------------------------------------------------------------------------------


@routes.add(
    "GET /instances/{id}/snapshot-schedule", "snapshot:read", 200, wire.SnapshotSchedule, finder=resolve.instance
)
async def get_schedule(call: Call) -> Response:
    """The schedule of an instance."""
    return said(_schedule_to(call.thing, await _schedule(call)))


@routes.add(
    "PUT /instances/{id}/snapshot-schedule",
    "snapshot:write",
    200,
    wire.SnapshotSchedule,
    body=asks.SetSnapshotScheduleRequest,
    finder=resolve.instance,
)
async def set_schedule(call: Call) -> Response:
    """Snapshots by the clock, of what the instance has at the time: its memory too, where it has any."""
    body: asks.SetSnapshotScheduleRequest = call.body
    instance: Instance = call.thing
    policies.check_tags(body.metadata)
    interval = policies.duration_of(body.interval, "invalid_request", "interval")
    if interval < 60:
        raise Refusal(400, "invalid_request", "interval must be at least 1m0s")
    keep = body.retention
    if keep.max_count is None and keep.max_age is None:
        raise Refusal(400, "invalid_request", "retention must include max_count or max_age")
    max_age = None
    if keep.max_age is not None:
        max_age = policies.duration_of(keep.max_age, "invalid_request", "retention.max_age")
    kept: dict[str, Any] = {"instance": dict(await kept_with(call, instance.id))}
    kept |= {"tags": body.metadata, "prefix": body.name_prefix, "max_count": keep.max_count}
    found = await call.core.schedules.set(
        call.principal, instance.id, Seconds(interval), None, max_age=max_age or None, max_count=keep.max_count or None,
        prefix=body.name_prefix or _PREFIX, foreign=foreign_of(kept),
    )  # fmt: skip
    return said(_schedule_to(instance, found))


@routes.add("DELETE /instances/{id}/snapshot-schedule", "snapshot:delete", 204, None, finder=resolve.instance)
async def delete_schedule(call: Call) -> Response:
    """No more of them."""
    await _schedule(call)
    await call.core.schedules.remove(call.principal, call.thing.id)
    return Response(status_code=204)


async def _schedule(call: Call) -> Schedule:
    try:
        return await call.core.schedules.get(call.principal, call.thing.id)
    except NotFound as fault:
        raise Refusal(404, "not_found", "snapshot schedule not found") from fault


def _schedule_to(instance: Instance, schedule: Schedule) -> wire.SnapshotSchedule:
    kept = kept_of(schedule.foreign.remainder if schedule.foreign else None)
    return wire.SnapshotSchedule(
        instance_id=schedule.instance, interval=show_duration(schedule.interval), name_prefix=kept.get("prefix"),
        metadata=kept.get("tags") or None,
        retention=wire.SnapshotScheduleRetention(
            max_count=kept.get("max_count", schedule.max_count),
            max_age=None if schedule.max_age is None else show_duration(schedule.max_age),
        ),
        next_run_at=schedule.next_run, last_run_at=schedule.last_run, last_snapshot_id=schedule.last_snapshot,
        last_error=schedule.last_error or None, created_at=schedule.created or instance.created,
        updated_at=schedule.updated or schedule.created or instance.created,
    )  # fmt: skip
