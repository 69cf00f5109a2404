"""Volumes over HTTP: their own life, and their attachments to instances that are there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.resolve import DIALECT, VOLUME_ID
from polyvisor.dialects.hypeman.routes_instances import all_instances
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.translate import Kept, foreign_of, kept_of
from polyvisor.dialects.hypeman.wishes import at_rest, in_turn, show
from polyvisor.engine.instances import Asked
from polyvisor.model.faults import Busy, Exists, Invalid, NotFound
from polyvisor.model.instance import Instance
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import Volume, VolumeState

routes = Routes()
_PAGE = 1000
_LONGEST = 255


async def _all_volumes(call: Call) -> list[Volume]:
    found: list[Volume] = []
    cursor: str | None = None
    while True:
        page = await call.core.volumes.list(call.principal, cursor, _PAGE)
        found += [one for one in page.items if one.state is not VolumeState.DELETING]
        cursor = page.next
        if cursor is None:
            return found


async def show_volumes(call: Call, volumes: list[Volume]) -> list[wire.Volume]:
    """Volumes for their reader, with where each of them is mounted."""
    ids = [one.id for one in volumes]
    texts = await call.core.foreigners.remainders(DIALECT, ids)
    aliases = await call.core.foreigners.aliases(DIALECT, VOLUME_ID, ids)
    held = {id for one in volumes for id in one.attached}
    holders = [one for one in await all_instances(call) if one.id in held] if held else []
    return [
        volume_to(one, kept_of(texts.get(one.id)), aliases.get(one.id, one.id), _attachments(one, holders))
        for one in volumes
    ]


def _attachments(volume: Volume, holders: list[Instance]) -> list[wire.VolumeAttachment]:
    return [
        wire.VolumeAttachment(instance_id=holder.id, mount_path=mount.path, readonly=mount.read_only)
        for holder in holders
        for mount in holder.mounts
        if mount.volume == volume.id
    ]


def volume_to(volume: Volume, kept: Kept, id: str, attachments: list[wire.VolumeAttachment]) -> wire.Volume:
    """A volume for its reader; `id` is the one that it was made with, where it was given one."""
    return wire.Volume(
        id=id, name=kept.get("name", volume.name), size_gb=-(-volume.size // GIB), tags=kept.get("tags"),
        attachments=attachments or None, created_at=volume.created,
    )  # fmt: skip


@routes.add("GET /volumes", "volume:read", 200, list[wire.Volume], query=asks.ListTagged)
async def list_volumes(call: Call) -> Response:
    """Every volume, or those with all of some tags."""
    query: asks.ListTagged = call.query
    wanted = (query.tags or {}).items()
    found = await show_volumes(call, await _all_volumes(call))
    return said([one for one in found if wanted <= dict(one.tags or {}).items()])


@routes.add("POST /volumes", "volume:write", 201, wire.Volume, body=asks.CreateVolumeRequest)
async def create_volume(call: Call) -> Response:
    """An empty ext4 file system of that many gigabytes."""
    body: asks.CreateVolumeRequest = call.body
    policies.check_tags(body.tags)
    if body.size_gb < 1:
        raise Refusal(400, "invalid_request", "size_gb must be at least 1")
    check_volume_id(body.id)
    volume = await made_volume(call, body.name, Bytes(body.size_gb * GIB), body.id, body.tags)
    return said((await show_volumes(call, [volume]))[0], 201)


@routes.add("POST /volumes/from-archive", "volume:write", 201, wire.Volume, query=asks.VolumeFromArchive)
async def create_volume_from_archive(call: Call) -> Response:
    """A file system with what is in the body, a tar.gz archive."""
    query: asks.VolumeFromArchive = call.query
    policies.check_tags(query.tags)
    if query.size_gb < 1:
        raise Refusal(400, "invalid_field", "size_gb must be at least 1")
    check_volume_id(query.id)
    size = Bytes(query.size_gb * GIB)
    if int(call.request.headers.get("content-length") or "0") > size:
        raise too_large()
    try:
        volume = await made_volume(call, query.name, size, query.id, query.tags, call.request.stream())
    except Invalid as fault:
        if "fits" in fault.public or "larger" in fault.public:
            raise too_large() from fault
        raise
    return said((await show_volumes(call, [volume]))[0], 201)


def too_large() -> Refusal:
    """There is more in an archive than the volume has room for."""
    return Refusal(400, "archive_too_large", "archive does not fit into the volume")


async def made_volume(
    call: Call,
    name: str,
    size: Bytes,
    id: str | None,
    tags: dict[str, str] | None,
    archive: AsyncIterator[bytes] | None = None,
) -> Volume:
    """A new volume. Its name here need not be unique: ours is the same where that can be. :raise Refusal:"""
    if not 0 < len(name) <= _LONGEST or "\0" in name:
        raise Refusal(400, "invalid_request", f"name must have 1 to {_LONGEST} characters")
    kept: dict[str, Any] = {"name": name, "tags": tags}
    foreign = foreign_of(kept, (VOLUME_ID, id) if id else None)
    if id is not None and await _is_taken(call, id):
        raise already_there()
    volumes = call.core.volumes
    if archive is not None:  # it comes once, so there is one attempt
        try:
            return await volumes.create_from(call.principal, "", size, _pieces(archive), foreign=foreign)
        except Exists as fault:
            raise already_there() from fault
    for called in (name, ""):
        try:
            return await volumes.create(call.principal, called, size, foreign=foreign)
        except Exists as fault:
            if fault.field == "alias" or not called:
                raise already_there() from fault
        except Invalid as fault:
            if fault.field != "name" or not called:
                raise
    raise AssertionError("one of the two is an answer")


async def _pieces(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Without the empty one at the end."""
    async for piece in source:
        if piece:
            yield piece


async def _is_taken(call: Call, id: str) -> bool:
    """Whether it is the id of a volume that was given none."""
    try:
        return (await call.core.volumes.get(call.principal, id)).id == id
    except NotFound:
        return False


def already_there() -> Refusal:
    """The id is taken."""
    return Refusal(409, "already_exists", "volume with this ID already exists")


def check_volume_id(id: str | None) -> None:
    """:raise Refusal: it is no single part of a path, or upstream's own."""
    if id is None:
        return
    if not id or len(id) > _LONGEST or "/" in id or "\\" in id or "\0" in id or id in (".", ".."):
        raise Refusal(400, "invalid_request", "id must be a single path component")
    if id.startswith("builder-disk-"):
        raise Refusal(400, "invalid_request", 'id must not begin with "builder-disk-"')


@routes.add("GET /volumes/{id}", "volume:read", 200, wire.Volume, finder=resolve.volume)
async def get_volume(call: Call) -> Response:
    """One volume."""
    return said((await show_volumes(call, [call.thing]))[0])


@routes.add("DELETE /volumes/{id}", "volume:delete", 204, None, finder=resolve.volume)
async def delete_volume(call: Call) -> Response:
    """It and what is on it are gone."""
    if await call.core.builders.holds(call.thing.id):
        raise Refusal(409, "conflict", "volume is the disk of a builder")
    try:
        await call.core.volumes.delete(call.principal, call.thing.id)
    except Busy as fault:
        raise Refusal(409, "conflict", "volume is in use by an instance") from fault
    return Response(status_code=204)


# -- attachments ---------------------------------------------------------------------------------------------------


async def _named_volume(call: Call) -> Volume:
    try:
        return await resolve.find_volume(call, call.path("volume"))
    except Refusal as refusal:
        text = "volume not found" if refusal.status == 404 else refusal.message
        raise Refusal(refusal.status, refusal.code, text) from refusal


@routes.add(
    "POST /instances/{id}/volumes/{volume}",
    "volume:write",
    200,
    wire.Instance,
    body=asks.AttachVolumeRequest,
    finder=resolve.instance,
)
async def attach_volume(call: Call) -> Response:
    """A volume for an instance: at once when it runs, at its next start when it does not."""
    body: asks.AttachVolumeRequest = call.body
    volume = await _named_volume(call)
    instance = await at_rest(call, call.thing)
    if not body.mount_path:
        raise Refusal(400, "invalid_request", "mount_path must be an absolute path")
    if any(mount.volume == volume.id for mount in instance.mounts):
        raise Refusal(409, "conflict", "volume is already attached to this instance")
    if volume.attached and not await _is_only_read(call, volume, body.readonly):
        raise Refusal(409, "conflict", "volume is in use by an instance")

    async def attach() -> Asked:
        return await call.core.volumes.attach(
            call.principal, instance.id, volume.id, path=body.mount_path, read_only=body.readonly
        )

    return said(await show(call, await in_turn(call, instance.id, attach)))


async def _is_only_read(call: Call, volume: Volume, read_only: bool) -> bool:
    holders = await all_instances(call)
    return read_only and all(m.read_only for one in holders for m in one.mounts if m.volume == volume.id)


@routes.add("DELETE /instances/{id}/volumes/{volume}", "volume:write", 200, wire.Instance, finder=resolve.instance)
async def detach_volume(call: Call) -> Response:
    """The volume is the instance's no more; it stays as it is."""
    volume = await _named_volume(call)
    instance = await at_rest(call, call.thing)
    if all(mount.volume != volume.id for mount in instance.mounts):
        raise Refusal(404, "not_found", "volume is not attached to this instance")
    found = await in_turn(call, instance.id, lambda: call.core.volumes.detach(call.principal, instance.id, volume.id))
    return said(await show(call, found))
