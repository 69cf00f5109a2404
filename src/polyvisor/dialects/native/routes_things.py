"""Images, hosts, operations and the caller, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from polyvisor import __version__
from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.describe import streamed, uploaded
from polyvisor.dialects.native.limits import UPLOAD_LIMIT, body_of
from polyvisor.dialects.native.params import Key, PageSize
from polyvisor.dialects.native.translate import (
    error_to,
    host_to,
    image_to,
    nic_to,
    operation_to,
    reclaimed_to,
    wanted_of,
)
from polyvisor.engine.images import Pull
from polyvisor.model.faults import Fault, Internal
from polyvisor.wire import native as wire

router = APIRouter()
_LINES = "application/x-ndjson"
_TELL_EVERY = 0.5
ImageName = Annotated[str, Path(max_length=512, pattern=r"^[^\x00]+$")]


@router.get("/images", tags=["images"])
async def list_images(caller: Caller, core: Core) -> wire.ImageList:
    """Images the caller may use."""
    return wire.ImageList(items=[image_to(i) for i in await core.images.list(caller)])


@router.post(
    "/images/pull", tags=["images"], response_class=StreamingResponse, responses=streamed(_LINES, "PullProgress")
)
async def pull_image(body: wire.PullImage, caller: Caller, core: Core) -> StreamingResponse:
    """Fetch an image. The answer is NDJSON: `PullProgress` lines, the last with the image or the error."""
    pull = await core.images.pull(caller, body.name)
    return StreamingResponse(_progress(pull), media_type=_LINES)


async def _progress(pull: Pull) -> AsyncIterator[bytes]:
    told: tuple[str, float | None] | None = None
    while not pull.task.done():
        if told != (pull.text, pull.fraction):
            told = (pull.text, pull.fraction)
            yield _line(wire.PullProgress(text=pull.text, fraction=pull.fraction))
        await asyncio.wait({pull.task}, timeout=_TELL_EVERY)
    error = asyncio.CancelledError() if pull.task.cancelled() else pull.task.exception()
    if error is None:
        yield _line(wire.PullProgress(image=image_to(pull.task.result())))
    else:
        fault = error if isinstance(error, Fault) else Internal()
        yield _line(wire.PullProgress(error=error_to(fault.kind, fault.public)))


def _line(progress: wire.PullProgress) -> bytes:
    return progress.model_dump_json(exclude_none=True).encode() + b"\n"


@router.put("/images", status_code=201, tags=["images"], openapi_extra=uploaded("application/octet-stream"))
async def import_image(
    request: Request, name: Annotated[str, Query(max_length=512)], caller: Caller, core: Core
) -> wire.Image:
    """Import the request's body under `name`: a `docker save` tar, an OCI layout tar, a qcow2 or raw disk."""
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else 0
    return image_to(await core.images.take(caller, name, body_of(request), UPLOAD_LIMIT, length))


@router.get("/images/{name:path}", tags=["images"])
async def get_image(name: ImageName, caller: Caller, core: Core) -> wire.Image:
    """One image, by name or digest."""
    return image_to(await core.images.get(caller, name))


@router.delete("/images/{name:path}", status_code=204, tags=["images"])
async def delete_image(name: ImageName, caller: Caller, core: Core) -> Response:
    """Delete an image. Refused while instances are made from it."""
    await core.images.delete(caller, name)
    return Response(status_code=204)


@router.get("/operations/{id}", tags=["operations"])
async def get_operation(id: Key, caller: Caller, core: Core) -> wire.Operation:
    """One operation."""
    return operation_to(await core.instances.operation(caller, id))


@router.get("/operations", tags=["operations"])
async def list_operations(caller: Caller, core: Core, limit: PageSize = 100) -> wire.OperationList:
    """The latest operations, newest first."""
    return wire.OperationList(items=[operation_to(o) for o in await core.instances.operations(caller, None, limit)])


@router.get("/hosts", tags=["hosts"])
async def list_hosts(caller: Caller, core: Core) -> wire.HostList:
    """The hosts and what they can do."""
    return wire.HostList(items=[host_to(h) for h in await core.hosts.list(caller)])


@router.get("/nics", tags=["hosts"])
async def list_nics(caller: Caller, core: Core) -> wire.HostNicList:
    """Networks of the operator's that instances may have a NIC on."""
    return wire.HostNicList(items=[nic_to(n) for n in await core.nics.list(caller)])


@router.post("/hosts/reclaim", tags=["hosts"])
async def reclaim_memory(body: wire.ReclaimMemory, caller: Caller, core: Core) -> wire.Reclaimed:
    """Let guests lend the host memory for a while. Operators only. A later call takes the place of an earlier one."""
    return reclaimed_to(await core.reclaim.reclaim(caller, wanted_of(body)))


@router.get("/about", tags=["hosts"])
async def about(caller: Caller) -> wire.About:
    """Who answers, and who asked."""
    return wire.About(
        name="polyvisor", version=__version__, project=caller.project, principal=caller.name, operator=caller.operator
    )
