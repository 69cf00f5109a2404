"""Instances over HTTP."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import TypeAdapter
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import DEFAULT_WAIT, Cursor, IdempotencyKey, Key, Limit, PageSize, Wait
from polyvisor.dialects.native.states import FACES
from polyvisor.dialects.native.translate import (
    compression_of,
    create_of,
    delay_of,
    egress_of,
    health_of,
    health_to,
    instance_to,
    labels_of,
    mounts_of,
    operation_to,
    policy_of,
    standby_of,
)
from polyvisor.engine.instances import Asked, InstancesEngine, Until
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Invalid
from polyvisor.model.instance import Bus, Instance
from polyvisor.model.units import Seconds, parse_duration
from polyvisor.wire import native as wire

router = APIRouter(prefix="/instances", tags=["instances"])
_ITEM = TypeAdapter(wire.Instance)
_NEXT = TypeAdapter(str | None)


async def _answer(engine: InstancesEngine, asked: Asked, until: str, limit: float) -> wire.Instance:
    return instance_to(await engine.settle(asked, Until(until), limit))


@router.post("", status_code=201, response_model=wire.Instance)
async def create(
    body: wire.CreateInstance,
    caller: Caller,
    core: Core,
    wait: Wait = "accepted",
    timeout: Limit = DEFAULT_WAIT,
    idempotency_key: IdempotencyKey = "",
) -> wire.Instance:
    """Create an instance from an image or a snapshot, and start it unless `power` is `off`.

    With an `Idempotency-Key`, a repeat makes no second.
    """
    wanted = create_of(body, await core.volumes.resolve(caller, mounts_of(body)))
    asked = await core.instances.create(caller, wanted, idempotency_key)
    return await _answer(core.instances, asked, wait, timeout)


@router.get("", response_model=wire.InstancePage)
async def list_instances(
    caller: Caller,
    core: Core,
    cursor: Cursor = None,
    limit: PageSize = 100,
    label: Annotated[list[str] | None, Query(max_length=64, description="`key=value`, all must match")] = None,
) -> Response:
    """A page of instances, oldest first."""
    page = await core.instances.list(caller, cursor, limit, labels_of(label or []))
    items = b",".join(map(_said, page.items))
    body = b'{"items":[%b],"next":%b}' % (items, _NEXT.dump_json(page.next))
    return Response(body, media_type="application/json")


@lru_cache(16_384)
def _said(instance: Instance) -> bytes:
    """An item of a page. Most have not changed since the last one, and are said in the same bytes."""
    return _ITEM.dump_json(instance_to(instance))


@router.get("/{key}", response_model=wire.Instance)
async def get(key: Key, caller: Caller, core: Core) -> wire.Instance:
    """One instance, by id or name."""
    return instance_to(await core.instances.get(caller, key))


@router.get("/{key}/health", response_model=wire.Health)
async def health(key: Key, caller: Caller, core: Core) -> wire.Health:
    """How its workload is, as its health check has it."""
    return health_to(core.health.status(await core.instances.get(caller, key)))


@router.patch("/{key}", response_model=wire.Instance)
async def update(key: Key, body: wire.UpdateInstance, caller: Caller, core: Core) -> wire.Instance:
    """Name, labels, lifetime, and the policies of compression, standby and health; or what it may reach."""
    if body.egress is not None:
        if body.model_fields_set != {"egress"}:
            raise Invalid("egress: it is changed alone", field="egress")
        policy = None if isinstance(body.egress, str) else egress_of(body.egress)
        return instance_to(await core.egress.set(caller, key, policy))
    lifetime: Seconds | None = None if body.lifetime is None else parse_duration(body.lifetime, "lifetime")
    changed = await core.instances.update(
        caller, key, name=body.name, labels=body.labels, lifetime=lifetime, policy=policy_of(body),
        standby=standby_of(body.standby),
        health=health_of(body.health), unchecked=body.health is not None,
    )  # fmt: skip
    return instance_to(changed)


@router.delete("/{key}", status_code=202, response_model=wire.Instance)
async def delete(
    key: Key, caller: Caller, core: Core, force: bool = False, wait: Wait = "accepted", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """Delete it and its disk; volumes stay. One that runs is refused without `force`."""
    asked = await core.power.delete(caller, key, force=force)
    return await _answer(core.instances, asked, wait, timeout)


@router.post("/{key}/start", response_model=wire.Instance)
async def start(
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.StartInstance | None = None,
    wait: Wait = "accepted",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Power on; with another entry point or command, which it keeps."""
    how = body or wire.StartInstance()
    entrypoint = None if how.entrypoint is None else tuple(how.entrypoint)
    command = None if how.command is None else tuple(how.command)
    asked = await core.power.start(caller, key, entrypoint=entrypoint, command=command)
    return await _answer(core.instances, asked, wait, timeout)


@router.post("/{key}/stop", response_model=wire.Instance)
async def stop(
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.StopInstance | None = None,
    wait: Wait = "accepted",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Power off: the guest is asked first."""
    how = body or wire.StopInstance()
    grace = None if how.grace is None else parse_duration(how.grace, "grace")
    asked = await core.power.stop(caller, key, force=how.force, grace=grace)
    return await _answer(core.instances, asked, wait, timeout)


@router.post("/{key}/restart", response_model=wire.Instance)
async def restart(
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.RestartInstance | None = None,
    wait: Wait = "accepted",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Stop, then start."""
    asked = await core.power.restart(caller, key, force=bool(body and body.force))
    return await _answer(core.instances, asked, wait, timeout)


@router.post("/{key}/reset", response_model=wire.Instance)
async def reset(
    key: Key, caller: Caller, core: Core, wait: Wait = "accepted", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """The reset button."""
    return await _answer(core.instances, await core.power.reset(caller, key), wait, timeout)


@router.post("/{key}/press", response_model=wire.Instance)
async def press(key: Key, caller: Caller, core: Core) -> wire.Instance:
    """The power button, and no more: the guest may obey or not."""
    return instance_to(await core.power.press(caller, key))


@router.post("/{key}/pause", response_model=wire.Instance)
async def pause(
    key: Key, caller: Caller, core: Core, wait: Wait = "accepted", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """Stop the vCPUs."""
    return await _answer(core.instances, await core.power.pause(caller, key), wait, timeout)


@router.post("/{key}/resume", response_model=wire.Instance)
async def resume(
    key: Key, caller: Caller, core: Core, wait: Wait = "accepted", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """Let the vCPUs go on."""
    return await _answer(core.instances, await core.power.resume(caller, key), wait, timeout)


@router.post("/{key}/standby", response_model=wire.Instance)
async def standby(
    key: Key,
    caller: Caller,
    core: Core,
    body: wire.StandbyInstance | None = None,
    wait: Wait = "accepted",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Save its memory and end its process: it is `suspended` and uses none of the host's RAM."""
    how = body or wire.StandbyInstance()
    packing, delay = compression_of(how.compression), delay_of(how.compression_delay)
    asked = await core.power.suspend(caller, key, compression=packing, delay=delay)
    return await _answer(core.instances, asked, wait, timeout)


@router.post("/{key}/restore", response_model=wire.Instance)
async def restore(
    key: Key, caller: Caller, core: Core, wait: Wait = "accepted", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """Go on where it was suspended (or paused)."""
    return await _answer(core.instances, await core.power.resume(caller, key), wait, timeout)


@router.get("/{key}/stats")
async def stats(key: Key, caller: Caller, core: Core) -> wire.Stats:
    """What it takes of its host now."""
    taken = await core.hosts.taken(caller, await core.instances.get(caller, key))
    return wire.Stats(
        cpu=taken.cpu, resident=taken.resident, virtual=taken.virtual, received=taken.received, sent=taken.sent
    )


@router.get("/{key}/wait", response_model=wire.Instance)
async def wait_for(
    key: Key,
    caller: Caller,
    core: Core,
    state: Annotated[list[str] | None, Query(description="any of these; `ready` and `ended` too")] = None,
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Wait for a state. Answers at once when it is there already; 408 when not in time; 404 once it is deleted."""
    wanted = frozenset(state or ["ended"])
    if unknown := wanted - FACES.keys() - {"ready", "ended"}:
        raise Invalid(f"state: {sorted(unknown)[0]!r} is not a state", field="state")
    found = await core.instances.wait(caller, key, lambda i: _is_in(i, wanted), timeout)
    return instance_to(found if found is not None else await core.instances.get(caller, key))


def _is_in(instance: Instance, wanted: frozenset[str]) -> bool:
    now = face(instance)
    if "ended" in wanted and now in (Face.STOPPED, Face.FAILED) and instance.observed.restart_at is None:
        return True
    return now.value in wanted or ("ready" in wanted and instance.observed.ready)


@router.put("/{key}/volumes", response_model=wire.Instance)
async def attach(
    key: Key,
    body: wire.AttachVolume,
    caller: Caller,
    core: Core,
    wait: Wait = "launched",
    timeout: Limit = DEFAULT_WAIT,
) -> wire.Instance:
    """Attach a volume: at once when it runs, at its next start when it does not."""
    bus = Bus(body.bus)
    asked = await core.volumes.attach(caller, key, body.volume, path=body.path, read_only=body.read_only, bus=bus)
    return await _answer(core.instances, asked, wait, timeout)


@router.delete("/{key}/volumes/{volume}", response_model=wire.Instance)
async def detach(
    key: Key, volume: Key, caller: Caller, core: Core, wait: Wait = "launched", timeout: Limit = DEFAULT_WAIT
) -> wire.Instance:
    """Unmount and unplug a volume. It stays as it is."""
    return await _answer(core.instances, await core.volumes.detach(caller, key, volume), wait, timeout)


@router.get("/{key}/operations", response_model=wire.OperationList)
async def operations(key: Key, caller: Caller, core: Core, limit: PageSize = 100) -> wire.OperationList:
    """What was asked of it, newest first."""
    found = await core.instances.operations(caller, key, limit)
    return wire.OperationList(items=[operation_to(o) for o in found])
