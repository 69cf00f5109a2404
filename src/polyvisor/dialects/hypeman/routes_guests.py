"""Into a guest, and about it: what lies at a path, its logs, what it takes, and standby by idleness."""

from __future__ import annotations

from starlette.responses import Response, StreamingResponse

from polyvisor.dialects.hypeman import asks, logs, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import show_duration
from polyvisor.dialects.hypeman.sockets import not_running
from polyvisor.dialects.hypeman.states import word
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.model.faults import Invalid, WrongState
from polyvisor.model.instance import Instance
from polyvisor.model.network import NetworkMode
from polyvisor.model.standby import Stand, StandbyStatus

routes = Routes()
_STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@routes.add("GET /instances/{id}/stat", "instance:read", 200, wire.PathInfo, query=asks.Stat, finder=resolve.instance)
async def stat_path(call: Call) -> Response:
    """What lies at a path in the guest. That there is nothing is an answer, too."""
    query: asks.Stat = call.query
    instance: Instance = call.thing
    if (state := word(instance)) != "Running":
        raise not_running(state)
    if not query.path.startswith("/") or "\0" in query.path or len(query.path) > 4096:
        raise Refusal(400, "invalid_request", "path must be an absolute path")
    guest = await call.core.streams.guest(call.principal, instance.id)
    try:
        stat = await guest.stat(query.path, follow=query.follow_links)
    except Invalid as fault:  # it cannot be looked at, and why
        return said(wire.PathInfo(exists=False, error=fault.public))
    if not stat.exists:
        return said(wire.PathInfo(exists=False, is_dir=False, is_file=False, is_symlink=False, mode=0, size=0))
    link = stat.kind == "link"
    return said(
        wire.PathInfo(
            exists=True, is_dir=stat.kind == "directory", is_file=stat.kind == "file", is_symlink=link,
            link_target=stat.target if link else "", mode=stat.mode & 0o7777, size=stat.size,
        )
    )  # fmt: skip


@routes.add(
    "GET /instances/{id}/logs", "instance:read", 200, str, query=asks.Logs, finder=resolve.instance,
    media="text/event-stream",
)  # fmt: skip
async def stream_logs(call: Call) -> Response:
    """The last lines of a log, and with `follow` those to come: each a JSON text as a server-sent event."""
    query: asks.Logs = call.query
    lines = await logs.lines_of(call, call.thing, query)
    return StreamingResponse(logs.as_events(lines), media_type="text/event-stream", headers=_STREAM)


@routes.add("GET /instances/{id}/stats", "instance:read", 200, wire.InstanceStats, finder=resolve.instance)
async def instance_stats(call: Call) -> Response:
    """What it takes of its host now; nothing while it does not run."""
    instance: Instance = call.thing
    taken = await call.core.hosts.taken(call.principal, instance)
    memory = instance.spec.memory
    stats = wire.InstanceStats(
        instance_id=instance.id, instance_name=instance.name, cpu_seconds=taken.cpu, memory_rss_bytes=taken.resident,
        memory_vms_bytes=taken.virtual, network_rx_bytes=taken.received, network_tx_bytes=taken.sent,
        allocated_vcpus=instance.spec.vcpus, allocated_memory_bytes=memory,
        memory_utilization_ratio=taken.resident / memory if memory else None,
    )  # fmt: skip
    return said(stats)


# -- standby by idleness -------------------------------------------------------------------------------------------


def _status(call: Call, found: StandbyStatus) -> Response:
    """It as upstream says it; our words are the same."""
    policy = found.policy
    return said(
        wire.AutoStandbyStatus(
            supported=True, configured=policy is not None, enabled=policy is not None and policy.enabled,
            eligible=found.stand in _ELIGIBLE,
            status=found.stand.value,
            reason=found.why.value,
            active_inbound_connections=found.active,
            idle_timeout=None if policy is None or policy.idle is None else show_duration(policy.idle),
            idle_since=found.idle_since, last_inbound_activity_at=found.last, next_standby_at=found.due,
            hold_until=found.held, countdown_remaining=None if found.left is None else show_duration(found.left),
            tracking_mode=_TRACKING[call.core.standby.mode],
        )
    )  # fmt: skip


_TRACKING = {NetworkMode.USER: "forwarded_v4_tcp", NetworkMode.BRIDGE: "conntrack_v4_tcp"}
_ELIGIBLE = frozenset({Stand.ACTIVE, Stand.COUNTDOWN, Stand.READY, Stand.REQUESTED})


@routes.add(
    "GET /instances/{id}/auto-standby/status",
    "instance:read",
    200,
    wire.AutoStandbyStatus,
    finder=resolve.instance,
)
async def auto_standby_status(call: Call) -> Response:
    """Where standby by idleness stands."""
    return _status(call, await call.core.standby.status(call.principal, call.thing.id))


@routes.add(
    "POST /instances/{id}/auto-standby/hold",
    "instance:write",
    200,
    wire.AutoStandbyStatus,
    finder=resolve.instance,
)
async def auto_standby_hold(call: Call) -> Response:
    """Nothing is held off where nothing is done; an instance in standby must be restored first."""
    try:
        return _status(call, await call.core.standby.hold(call.principal, call.thing.id))
    except WrongState as fault:
        raise Refusal(409, "instance_in_standby", fault.public) from fault
