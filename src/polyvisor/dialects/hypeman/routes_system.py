"""The server itself: health, capabilities, resources, and what it has none of."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor import __version__
from polyvisor.dialects.hypeman import asks, policies, wire
from polyvisor.dialects.hypeman.describe import API_VERSION
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.pulling import HOST_PLATFORM
from polyvisor.dialects.hypeman.routes_instances import all_instances
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.model.faults import Invalid
from polyvisor.model.instance import Instance
from polyvisor.model.reclaim import Action, Wanted
from polyvisor.model.units import Bytes

routes = Routes()
_MOST = 2**50
_FEATURES = ["builds", "exec", "images", "ingress", "instances", "logs", "volumes"]
_RUNTIME_FEATURES = ["balloon-control", "fork", "snapshots", "standby"]


@routes.add("GET /health", None, 200, wire.Health)
async def health(call: Call) -> Response:
    """The server answers."""
    return said(wire.Health())


@routes.add("GET /capabilities", "resource:read", 200, wire.Capabilities)
async def capabilities(call: Call) -> Response:
    """What this server can do, which is what it does."""
    host = (await call.core.hosts.list(call.principal))[0]
    os, _, arch = HOST_PLATFORM.partition("/")
    return said(
        wire.Capabilities(
            server=wire.CapabilitiesServer(version=__version__, api_version=API_VERSION),
            host=wire.CapabilitiesHost(os=os, arch=arch),
            default_runtime=wire.CapabilitiesDefaultRuntime(name="qemu", available=host.ok),
            runtimes=[wire.CapabilitiesRuntime(name="qemu", available=host.ok, features=_RUNTIME_FEATURES)],
            network=wire.CapabilitiesNetwork(
                model="bridge" if host.network == "bridge" else "nat", guest_to_guest=host.network == "bridge"
            ),
            images=wire.CapabilitiesImages(platforms=[HOST_PLATFORM], default_platform=HOST_PLATFORM),
            features=_FEATURES,
        )
    )


@routes.add("GET /resources", "resource:read", 200, wire.Resources)
async def resources(call: Call) -> Response:
    """What the host has, and which instance has what of it."""
    host = (await call.core.hosts.list(call.principal))[0]
    usage = await call.core.hosts.usage(call.principal)
    instances = await all_instances(call)
    return said(
        wire.Resources(
            cpu=_status("cpu", host.cpus, usage.vcpus),
            memory=_status("memory", host.memory, usage.memory),
            disk=_status("disk", host.disk_free, usage.disk),
            network=_status("network", 0, 0),
            allocations=[_allocation(one) for one in instances],
        )
    )


def _status(kind: str, capacity: int, allocated: int) -> wire.ResourceStatus:
    return wire.ResourceStatus(
        type=kind, capacity=capacity, effective_limit=capacity, allocated=allocated,
        available=max(0, capacity - allocated), oversub_ratio=1.0, source="detected",
    )  # fmt: skip


def _allocation(instance: Instance) -> wire.ResourceAllocation:
    spec = instance.spec
    return wire.ResourceAllocation(
        instance_id=instance.id, instance_name=instance.name, cpu=spec.vcpus, memory_bytes=spec.memory,
        disk_bytes=spec.disk,
    )  # fmt: skip


@routes.add(
    "POST /resources/memory/reclaim",
    "resource:write",
    200,
    wire.MemoryReclaimResponse,
    body=asks.MemoryReclaimRequest,
)
async def reclaim_memory(call: Call) -> Response:
    """Guests lend the host memory for a while."""
    body: asks.MemoryReclaimRequest = call.body
    hold = policies.duration_of(body.hold_for, "bad_request", "hold_for")
    if body.reclaim_bytes > _MOST:
        raise Refusal(400, "bad_request", "reclaim_bytes: no host has so much")
    wanted = Wanted(Bytes(body.reclaim_bytes), hold, body.dry_run, body.reason or "")
    try:
        done = await call.core.reclaim.reclaim(call.principal, wanted)
    except Invalid as fault:
        raise Refusal(400, "bad_request", fault.public.replace("hold:", "hold_for:")) from fault
    return said(
        wire.MemoryReclaimResponse(
            requested_reclaim_bytes=done.requested, planned_reclaim_bytes=done.planned,
            applied_reclaim_bytes=done.applied, hold_until=done.hold_until, host_available_bytes=done.available,
            host_pressure_state=done.pressure.value, actions=[_share(action) for action in done.actions],
        )
    )  # fmt: skip


def _share(action: Action) -> wire.MemoryReclaimAction:
    return wire.MemoryReclaimAction(
        instance_id=action.id, instance_name=action.name, hypervisor="qemu", assigned_memory_bytes=action.assigned,
        protected_floor_bytes=action.floor, previous_target_guest_memory_bytes=action.previous,
        planned_target_guest_memory_bytes=action.planned, target_guest_memory_bytes=action.target,
        applied_reclaim_bytes=action.applied, status=action.outcome.value, error=action.error or None,
    )  # fmt: skip


@routes.add("GET /devices", "device:read", 200, list[wire.Error])
async def list_devices(call: Call) -> Response:
    """There are none."""
    return said([])


@routes.add("GET /devices/available", "device:read", 200, list[wire.Error])
async def list_available_devices(call: Call) -> Response:
    """There are none."""
    return said([])


@routes.add("POST /devices", "device:write", 201, None)
async def create_device(call: Call) -> Response:
    """This host passes no devices through."""
    raise Refusal(404, "device_not_found", "this server passes no devices through")


@routes.add("GET /devices/{id}", "device:read", 200, None)
async def get_device(call: Call) -> Response:
    """There are none."""
    raise Refusal(404, "not_found", "device not found")


@routes.add("DELETE /devices/{id}", "device:delete", 204, None)
async def delete_device(call: Call) -> Response:
    """There are none."""
    raise Refusal(404, "not_found", "device not found")
