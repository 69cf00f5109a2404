"""Instances: list, create, read, change, power, delete."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, resolve, wire
from polyvisor.dialects.hypeman.encode import JSON, said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.healths import health_of
from polyvisor.dialects.hypeman.pulling import image_for, platform_for
from polyvisor.dialects.hypeman.states import ALREADY, LEGAL, no_way, word
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.translate import create_of, foreign_of
from polyvisor.dialects.hypeman.wishes import (
    at_rest,
    done,
    free,
    in_turn,
    kept_with,
    latest,
    list_text,
    made,
    one_at_a_time,
    show,
)
from polyvisor.engine.instances import Asked, Until
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Exists, Fault, Invalid, Unsupported
from polyvisor.model.ids import VolumeId
from polyvisor.model.instance import Instance, Mount
from polyvisor.model.units import Seconds

routes = Routes()
log = logging.getLogger("polyvisor.hypeman")
_PAGE = 1000
_STOP_GRACE = Seconds(5.0)
_DELETE_GRACE = Seconds(2.0)
_NOTHING_TO_CHANGE = (
    "invalid request: request must include env, auto_standby, health_check, restart_policy, ttl, and/or expires_at"
)


async def all_instances(call: Call, tags: dict[str, str] | None = None) -> list[Instance]:
    """Every instance that the caller may see, oldest first."""
    found: list[Instance] = []
    cursor: str | None = None
    while True:
        page = await call.core.instances.list(call.principal, cursor, _PAGE, tuple((tags or {}).items()))
        found += [one for one in page.items if face(one) is not Face.DELETING]
        cursor = page.next
        if cursor is None:
            return found


@routes.add("GET /instances", "instance:read", 200, list[wire.Instance], query=asks.ListInstances)
async def list_instances(call: Call) -> Response:
    """Every instance, or those in a state and with all of some tags."""
    query: asks.ListInstances = call.query
    found = await all_instances(call, query.tags)
    text = await list_text(call, [one for one in found if query.state in (None, word(one))])
    return Response(text.encode("utf-8", "replace"), media_type=JSON)


@routes.add("POST /instances", "instance:write", 201, wire.Instance, body=asks.CreateInstanceRequest)
async def create_instance(call: Call) -> Response:
    """A new instance, which is started. It is answered when its machine runs; its guest may still be coming up."""
    body: asks.CreateInstanceRequest = call.body
    policies.check_create(body)
    platform = platform_for(body.platform)
    mounts = await call.core.volumes.resolve(call.principal, await _mounts(call, body.volumes or []))
    name, image = await image_for(call, body.image)
    wanted = replace(create_of(body, image, mounts, datetime.now(UTC), platform), image=name)
    try:
        asked = await call.core.instances.create(call.principal, wanted)
    except Exists as fault:
        raise name_conflict(400, body.name) from fault
    except (Invalid, Unsupported) as fault:
        raise in_our_words(fault) from fault
    return said(await show(call, await made(call, asked)), 201)


_FIELDS = {"memory": "size", "disk": "overlay_size", "command": "cmd", "labels": "tags", "lifetime": "ttl"}
_LIMITS = {
    "disk_rate": "disk_io_bps", "download_rate": "bandwidth_download", "upload_rate": "bandwidth_upload",
}  # fmt: skip


def in_our_words(fault: Invalid | Unsupported) -> Refusal:
    """The fault, naming the field as this dialect does."""
    field = (_FIELDS | _LIMITS).get(fault.field or "")
    text = f"{field}: {fault.public.removeprefix(f'{fault.field}: ')}" if field else fault.public
    if fault.field in _LIMITS:
        return Refusal(400, f"invalid_{field}", text)
    return Refusal(400, "invalid_request" if isinstance(fault, Invalid) else "not_supported", text)


def name_conflict(status: int, name: str) -> Refusal:
    """The name is taken."""
    text = f"instance name '{name}' already exists, can't assign into same network: default"
    return Refusal(status, "name_conflict", f"instance name already exists: {text}")


async def _mounts(call: Call, volumes: list[asks.VolumeMount]) -> list[Mount]:
    found = []
    for one in volumes:
        try:
            volume = await resolve.find_volume(call, one.volume_id)
        except Refusal as refusal:
            raise Refusal(404, "not_found", f"volumes: no volume {one.volume_id}") from refusal
        overlay = policies.overlay_of(one)
        found.append(Mount(VolumeId(volume.id), volume.name, one.mount_path, one.readonly, overlay=overlay))
    return found


@routes.add("GET /instances/{id}", "instance:read", 200, wire.Instance, finder=resolve.instance)
async def get_instance(call: Call) -> Response:
    """One instance."""
    return said(await show(call, call.thing))


@routes.add(
    "PATCH /instances/{id}",
    "instance:write",
    200,
    wire.Instance,
    body=asks.UpdateInstanceRequest,
    finder=resolve.instance,
)
async def update_instance(call: Call) -> Response:
    """Lifetime and policies; what is not said stays."""
    body: asks.UpdateInstanceRequest = call.body
    if not body.model_fields_set & asks.UpdateInstanceRequest.model_fields.keys():
        raise Refusal(400, "invalid_request", _NOTHING_TO_CHANGE)
    if body.env is not None:
        name = next(iter(body.env))
        raise Refusal(400, "invalid_request", f"env: {name} is not the source of a credential of this instance")
    lifetime = policies.lifetime_of(body.ttl, body.expires_at, datetime.now(UTC))
    restart = policies.restart_of(body.restart_policy) if body.restart_policy is not None else None
    standby = policies.standby_of(body.auto_standby) if body.auto_standby is not None else None
    kept = policies.check_policies(body.auto_standby, body.health_check)
    instance: Instance = call.thing
    health = health_of(body.health_check, network=instance.spec.network)
    found = await call.core.instances.update(
        call.principal, instance.id, lifetime=lifetime, restart=restart, health=health,
        standby=standby, unchecked=body.health_check is not None,
    )  # fmt: skip
    if kept:
        more: dict[str, Any] = dict(await kept_with(call, instance.id)) | kept
        await call.core.foreigners.put(instance.project, instance.id, foreign_of(more))
    return said(await show(call, found))


@routes.add("DELETE /instances/{id}", "instance:delete", 204, None, query=asks.DeleteInstance, finder=resolve.instance)
@one_at_a_time
async def delete_instance(call: Call) -> Response:
    """The instance and its disk are gone, whatever it was doing. Its guest is asked first, for two seconds."""
    query: asks.DeleteInstance = call.query
    instance: Instance = call.thing
    if query.graceful_shutdown and face(instance) is Face.RUNNING and instance.observed.ready:
        try:
            await done(call, await call.core.power.stop(call.principal, instance.id, grace=_DELETE_GRACE))
        except Fault as fault:
            log.info("%s was not stopped first: %s", instance.id, fault.public)
    gone = await call.core.power.delete(call.principal, instance.id)
    await done(call, gone)
    return Response(status_code=204)


# -- power ---------------------------------------------------------------------------------------------------------


async def settled(call: Call, verb: str) -> Instance | None:
    """The instance once nothing is under way; None when it is so already. :raise Refusal: its state forbids it."""
    instance = await at_rest(call, call.thing)
    state = word(instance)
    if state in ALREADY[verb]:
        return None
    if state not in LEGAL[verb]:
        raise Refusal(409, "invalid_state", no_way(verb, state))
    return instance


async def as_it_is(call: Call) -> Response:
    """The instance now."""
    instance: Instance = call.thing
    return said(await show(call, await latest(call, instance.id)))


@routes.add(
    "POST /instances/{id}/standby",
    "instance:write",
    200,
    wire.Instance,
    body=asks.StandbyInstanceRequest,
    optional=True,
    finder=resolve.instance,
)
@one_at_a_time
async def standby_instance(call: Call) -> Response:
    """Its memory is saved and its machine ends."""
    body: asks.StandbyInstanceRequest = call.body
    packed = policies.compression_of(body.compression, "compression")
    delay = policies.delay_of(body.compression_delay, "invalid_compression_delay", "compression_delay")
    instance = await settled(call, "standby")
    if instance is None:
        if packed is None and delay is None:
            return await as_it_is(call)
        raise Refusal(409, "invalid_state", no_way("standby", "Standby"))
    id = instance.id

    async def suspend() -> Asked:
        return await call.core.power.suspend(call.principal, id, compression=packed, delay=delay)

    return said(await show(call, await in_turn(call, id, suspend)))


@routes.add("POST /instances/{id}/restore", "instance:write", 200, wire.Instance, finder=resolve.instance)
@one_at_a_time
async def restore_instance(call: Call) -> Response:
    """It goes on from its saved memory; answered once its guest does."""
    instance = await settled(call, "restore")
    if instance is None:
        return await as_it_is(call)
    id = instance.id
    asked = await free(call, id, lambda: call.core.power.resume(call.principal, id))
    return said(await show(call, await done(call, asked, Until.READY)))


@routes.add("POST /instances/{id}/stop", "instance:write", 200, wire.Instance, finder=resolve.instance)
@one_at_a_time
async def stop_instance(call: Call) -> Response:
    """Its guest is asked to end, and after five seconds it is not asked."""
    instance = await settled(call, "stop")
    if instance is None:
        return await as_it_is(call)
    id = instance.id
    asked = await free(call, id, lambda: call.core.power.stop(call.principal, id, grace=_STOP_GRACE))
    return said(await show(call, await done(call, asked)))


@routes.add(
    "POST /instances/{id}/start",
    "instance:write",
    200,
    wire.Instance,
    body=asks.StartInstanceRequest,
    finder=resolve.instance,
)
@one_at_a_time
async def start_instance(call: Call) -> Response:
    """It boots; with another entry point or command, which it keeps. An empty one is no other."""
    body: asks.StartInstanceRequest = call.body
    entrypoint, command = tuple(body.entrypoint or ()) or None, tuple(body.cmd or ()) or None
    instance = await settled(call, "start")
    if instance is None:
        if entrypoint is None and command is None:
            return await as_it_is(call)
        raise Refusal(409, "invalid_state", no_way("start", word(await latest(call, call.thing.id))))
    id = instance.id
    return said(
        await show(
            call,
            await in_turn(
                call, id, lambda: call.core.power.start(call.principal, id, entrypoint=entrypoint, command=command)
            ),
        )
    )
