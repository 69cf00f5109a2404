"""Forks: new instances that are what another one is, or what a snapshot kept."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.resolve import DIALECT, VOLUME_ID
from polyvisor.dialects.hypeman.routes_instances import name_conflict
from polyvisor.dialects.hypeman.snapshots import find_snapshot, qemu_only
from polyvisor.dialects.hypeman.states import no_way, word
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.translate import Kept, foreign_of
from polyvisor.dialects.hypeman.wishes import at_rest, done, free, in_turn, kept_with, made, show
from polyvisor.engine.instances import Asked, Until
from polyvisor.model.faults import Exists, Fault, Unavailable
from polyvisor.model.instance import Instance, Power
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotKind

routes = Routes()
_FORKABLE = frozenset({"Running", "Standby", "Stopped"})


@routes.add(
    "POST /instances/{id}/fork",
    "instance:write",
    201,
    wire.Instance,
    body=asks.ForkInstanceRequest,
    finder=resolve.instance,
    also=(501,),
)
async def fork_instance(call: Call) -> Response:
    """A new instance from this one, in the state that is asked for. The source goes on as it was."""
    body: asks.ForkInstanceRequest = call.body
    source = await at_rest(call, call.thing)
    state = word(source)
    if state == "Running" and not body.from_running:
        text = f"{no_way('fork', state)} (set from_running=true to allow standby+restore flow)"
        raise Refusal(409, "invalid_state", text)
    if state not in _FORKABLE:
        raise Refusal(409, "invalid_state", no_way("fork", state))
    target = body.target_state or state
    with_memory = state != "Stopped" and target != "Stopped"
    await refuse_volumes(call, source, "fork instance")
    kept = await kept_with(call, source.id)
    wanted = Create(name=body.name, power=Power.OFF if target == "Stopped" else Power.ON, foreign=foreign_of(kept))
    kind = SnapshotKind.FULL if with_memory else SnapshotKind.DISK

    async def fork() -> Asked:
        return await call.core.forks.fork(call.principal, source.id, wanted, kind)

    try:
        asked = await free(call, source.id, fork)
    except Exists as fault:
        raise name_conflict(409, body.name) from fault
    return said(await show(call, await brought(call, asked, target)), 201)


@routes.add(
    "POST /snapshots/{id}/fork", "snapshot:write", 201, wire.Instance, body=asks.ForkSnapshotRequest, also=(501,)
)
async def fork_snapshot(call: Call) -> Response:
    """A new instance from a snapshot, in the state that is asked for."""
    body: asks.ForkSnapshotRequest = call.body
    snapshot = await find_snapshot(call, call.path("id"))
    qemu_only(body.target_hypervisor, snapshot)
    standby = snapshot.kind is SnapshotKind.FULL
    target = body.target_state or ("Running" if standby else "Stopped")
    kept = await kept_with(call, snapshot.id)
    asked = await _created(call, body.name, snapshot, _first_power(target, standby=standby), kept)
    found = await brought(call, asked, target)
    return said(await show(call, found), 201)


def _first_power(target: str, *, standby: bool) -> Power:
    """Where a new instance begins: with memory that is not to be used, in it, from where it can be given up."""
    if target == "Running":
        return Power.ON
    if standby:
        return Power.SUSPENDED
    return Power.OFF if target == "Stopped" else Power.ON


async def _created(call: Call, name: str, snapshot: Snapshot, power: Power, kept: Kept) -> Asked:
    of_instance: Kept = kept.get("instance", {})
    wanted = Create(name=name, snapshot=snapshot.id, power=power, foreign=foreign_of(of_instance))
    try:
        return await call.core.instances.create(call.principal, wanted)
    except Exists as fault:
        raise name_conflict(409, name) from fault


async def brought(call: Call, asked: Asked, target: str) -> Instance:
    """A new instance once it is in its state; one that does not get there is gone. :raise Fault: why not."""
    found = await made(call, asked, Until.READY if asked.instance.intent.power is Power.ON else Until.LAUNCHED)
    try:
        return await steered(call, found, target)
    except Fault:
        await done(call, await call.core.power.delete(call.principal, found.id))
        raise


async def steered(call: Call, instance: Instance, target: str) -> Instance:
    """An instance once it is `Running`, `Standby` or `Stopped`, whichever it is now. :raise Fault: it cannot."""
    power, principal, id = call.core.power, call.principal, instance.id
    state = word(instance)
    if target == "Running" and state in ("Stopped", "Standby"):
        asked = await free(call, id, lambda: power.start(principal, id))
        instance = await done(call, asked, Until.READY)
    elif target == "Standby" and state != "Standby":
        if state == "Stopped":
            instance = await steered(call, instance, "Running")
        if not instance.observed.ready:
            raise Unavailable("its guest did not come up")
        instance = await in_turn(call, id, lambda: power.suspend(principal, id))
    elif target == "Stopped" and state != "Stopped":
        instance = await in_turn(call, id, lambda: power.stop(principal, id, force=True))
    return instance


async def refuse_volumes(call: Call, source: Instance, what: str) -> None:
    """:raise Refusal: a volume is in the way: one that is written to has one writer."""
    written = [mount for mount in source.mounts if not mount.read_only]
    if not written:
        return
    ids = await call.core.foreigners.aliases(DIALECT, VOLUME_ID, [mount.volume for mount in written])
    mount = written[0]
    text = f'cannot {what} with writable volume "{ids.get(mount.volume, mount.volume)}" mounted at "{mount.path}"'
    raise Refusal(501, "not_supported", f"{text}; use readonly+overlay for safe concurrent forks")
