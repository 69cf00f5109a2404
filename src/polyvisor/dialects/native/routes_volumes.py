"""Volumes, media and pools, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.describe import uploaded
from polyvisor.dialects.native.limits import body_of
from polyvisor.dialects.native.params import Cursor, IdempotencyKey, Key, PageSize
from polyvisor.dialects.native.translate import pool_to, volume_to
from polyvisor.model.faults import Invalid
from polyvisor.model.units import parse_size
from polyvisor.model.volume import DATA, DEFAULT_POOL
from polyvisor.wire import native as wire

router = APIRouter(tags=["volumes"])
Word = Annotated[str, Query(max_length=64, pattern=r"^[^\x00]*$")]


@router.post("/volumes", status_code=201)
async def create_volume(
    body: wire.CreateVolume, caller: Caller, core: Core, idempotency_key: IdempotencyKey = ""
) -> wire.Volume:
    """Create a volume with an empty ext4 file system, or of zeros. With an `Idempotency-Key`, a repeat of the former
    makes no second."""
    size = parse_size(body.size, "size")
    if body.kind != DATA:
        if idempotency_key:
            raise Invalid("Idempotency-Key: only for volumes of kind data", field="Idempotency-Key")
        return volume_to(await core.media.create_blank(caller, body.name, size, kind=body.kind, pool=body.pool))
    if body.pool not in ("", DEFAULT_POOL):
        raise Invalid("pool: volumes of kind data are in the default pool", field="pool")
    return volume_to(await core.volumes.create(caller, body.name, size, idempotency_key))


@router.get("/volumes")
async def list_volumes(caller: Caller, core: Core, cursor: Cursor = None, limit: PageSize = 100) -> wire.VolumePage:
    """A page of volumes, oldest first."""
    page = await core.volumes.list(caller, cursor, limit)
    return wire.VolumePage(items=[volume_to(v) for v in page.items], next=page.next)


@router.get("/volumes/{key}")
async def get_volume(key: Key, caller: Caller, core: Core) -> wire.Volume:
    """One volume, by id or name."""
    return volume_to(await core.volumes.get(caller, key))


@router.patch("/volumes/{key}")
async def resize_volume(key: Key, body: wire.ResizeVolume, caller: Caller, core: Core) -> wire.Volume:
    """Grow a volume; a running holder sees the new size at once."""
    return volume_to(await core.volumes.resize(caller, key, parse_size(body.size, "size")))


@router.delete("/volumes/{key}", status_code=204)
async def delete_volume(key: Key, caller: Caller, core: Core) -> Response:
    """Delete a volume. Refused while it is attached."""
    await core.volumes.delete(caller, key)
    return Response(status_code=204)


@router.put("/media", status_code=201, openapi_extra=uploaded("application/octet-stream"))
async def upload_medium(  # noqa: PLR0913 - what a medium is
    request: Request, caller: Caller, core: Core, name: Word, kind: Word = "disk", pool: Word = "",
    read_only: bool = False,
) -> wire.Volume:  # fmt: skip
    """Make a volume of the request's body, byte for byte: a raw disk, an ISO. `Content-Length` must say how long it is.

    A `read_only` one is never attached writable.
    """
    announced = request.headers.get("content-length", "")
    if not announced.isdecimal() or len(announced) > 20:
        raise Invalid("Content-Length: the size of a medium must be known before it comes", field="Content-Length")
    made = await core.media.upload(
        caller, name, body_of(request), int(announced), kind=kind, pool=pool, read_only=read_only
    )
    return volume_to(made)


@router.get("/pools")
async def list_pools(caller: Caller, core: Core) -> wire.PoolList:
    """Where volumes can be."""
    return wire.PoolList(items=[pool_to(p) for p in await core.pools.list(caller)])
