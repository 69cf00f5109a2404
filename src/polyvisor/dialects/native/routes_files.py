"""Files, logs and events: streams over plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.describe import streamed, uploaded
from polyvisor.dialects.native.limits import body_of
from polyvisor.dialects.native.params import Key
from polyvisor.dialects.native.translate import event_to, stat_to
from polyvisor.model.event import Event
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.guest import JournalRecord
from polyvisor.wire import native as wire

router = APIRouter()
_KEEP_ALIVE = 15.0
_VMM_LOG = 64 * 1024
_BYTES, _TAR, _LINES, _EVENTS = (
    "application/octet-stream",
    "application/x-tar",
    "application/x-ndjson",
    "text/event-stream",
)
GuestPath = Annotated[str, Query(description="an absolute path in the guest")]
T = TypeVar("T")


def check_guest_path(path: str) -> str:
    """:raise Invalid: it is not an absolute path."""
    if not path.startswith("/") or "\0" in path or len(path) > 4096:
        raise Invalid("path: must be an absolute path", field="path")
    return path


@router.get("/instances/{key}/files", tags=["files"], response_class=StreamingResponse, responses=streamed(_BYTES))
async def read_file(key: Key, path: GuestPath, caller: Caller, core: Core) -> StreamingResponse:
    """The bytes of a regular file."""
    guest = await core.streams.guest(caller, key)
    stat = await guest.stat(check_guest_path(path), follow=True)
    if not stat.exists:
        raise NotFound(f"path: {path} does not exist", field="path")
    if stat.kind != "file":
        raise Invalid(f"path: {path} is a {stat.kind}, not a file", field="path")
    return StreamingResponse(await _begun(guest.read_file(path)), media_type=_BYTES)


@router.put("/instances/{key}/files", status_code=204, tags=["files"], openapi_extra=uploaded(_BYTES))
async def write_file(
    key: Key, path: GuestPath, request: Request, caller: Caller, core: Core, mode: str = "0644"
) -> Response:
    """Write the body to a file, whole or not at all. `mode` is octal."""
    if not re.fullmatch("0?[0-7]{1,4}", mode):
        raise Invalid("mode: must be octal digits such as 0644", field="mode")
    guest = await core.streams.guest(caller, key)
    await guest.write_file(check_guest_path(path), body_of(request), mode=int(mode, 8))
    return Response(status_code=204)


@router.get("/instances/{key}/stat", tags=["files"])
async def stat_file(key: Key, path: GuestPath, caller: Caller, core: Core, follow: bool = True) -> wire.FileStat:
    """What lies at a path."""
    guest = await core.streams.guest(caller, key)
    return stat_to(path, await guest.stat(check_guest_path(path), follow=follow))


@router.get("/instances/{key}/archive", tags=["files"], response_class=StreamingResponse, responses=streamed(_TAR))
async def read_archive(key: Key, path: GuestPath, caller: Caller, core: Core) -> StreamingResponse:
    """A file or directory as a tar stream; its members are named from the last part of `path` on."""
    guest = await core.streams.guest(caller, key)
    if not (await guest.stat(check_guest_path(path), follow=True)).exists:
        raise NotFound(f"path: {path} does not exist", field="path")
    return StreamingResponse(await _begun(guest.tar_out(path)), media_type=_TAR)


@router.put("/instances/{key}/archive", status_code=204, tags=["files"], openapi_extra=uploaded(_TAR))
async def write_archive(key: Key, path: GuestPath, request: Request, caller: Caller, core: Core) -> Response:
    """Extract a tar stream below a directory. Members that would land elsewhere are refused."""
    guest = await core.streams.guest(caller, key)
    await guest.tar_in(check_guest_path(path), body_of(request))
    return Response(status_code=204)


@router.get(
    "/instances/{key}/logs", tags=["logs"], response_class=StreamingResponse, responses=streamed(_LINES, "LogRecord")
)
async def logs(
    key: Key, caller: Caller, core: Core, follow: bool = False, tail: Annotated[int | None, Query(ge=0)] = None
) -> StreamingResponse:
    """The workload's output as NDJSON `LogRecord` lines. `tail`: only the last so many records before following."""
    skipped = 0
    if tail is not None:
        so_far = 0
        async for _ in await core.streams.journal(caller, key, follow=False):
            so_far += 1
        skipped = max(0, so_far - tail)
    records = await core.streams.journal(caller, key, follow=follow)
    return StreamingResponse(_lines(_without(records, skipped)), media_type=_LINES)


async def _without(records: AsyncIterator[JournalRecord], count: int) -> AsyncIterator[JournalRecord]:
    async for record in records:
        if count > 0:
            count -= 1
        else:
            yield record


async def _begun(source: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same stream once its first piece is here: until then a fault can still be told with a status."""
    first = await anext(source, None)

    async def whole() -> AsyncIterator[T]:
        if first is not None:
            yield first
            async for piece in source:
                yield piece

    return whole()


async def _lines(records: AsyncIterator[JournalRecord]) -> AsyncIterator[bytes]:
    async for record in records:
        line = wire.LogRecord(
            at=record.at, stream=record.stream, data=base64.b64encode(record.data).decode(), code=record.code,
            signal=record.signal,
        )  # fmt: skip
        yield line.model_dump_json(exclude_none=True).encode() + b"\n"


@router.get("/instances/{key}/vmm-log", tags=["logs"])
async def vmm_log(key: Key, caller: Caller, core: Core) -> PlainTextResponse:
    """The hypervisor's own words, the last 64 KiB."""
    path = await core.streams.log_file(caller, key)
    return PlainTextResponse((await asyncio.to_thread(_end_of, path)).decode(errors="replace"))


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _VMM_LOG))
            return file.read(_VMM_LOG)
    except FileNotFoundError:
        return b""


@router.get("/events", tags=["events"], response_class=StreamingResponse, responses=streamed(_EVENTS, "Event"))
async def events(
    caller: Caller,
    core: Core,
    after: Annotated[
        int | None, Query(ge=0, le=wire.LARGEST, description="resume behind this number; absent: from now on")
    ] = None,
    follow: bool = True,
    last_event_id: Annotated[int | None, Header(ge=0, le=wire.LARGEST)] = None,
) -> StreamingResponse:
    """Server-sent events. Each carries its number as `id`, so that a client resumes with `Last-Event-ID`."""
    start = last_event_id if last_event_id is not None else after
    seq = start if start is not None else await core.events.last(caller)
    if not follow:
        found = await core.events.after(caller, seq)
        return StreamingResponse(iter([_sse(e) for e in found]), media_type=_EVENTS)
    return StreamingResponse(_kept_alive(core.events.follow(caller, seq), seq), media_type=_EVENTS)


def _sse(event: Event) -> bytes:
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {event_to(event).model_dump_json()}\n\n".encode()


async def _kept_alive(source: AsyncIterator[Event], seq: int) -> AsyncIterator[bytes]:
    """Events, and a comment now and then, so that a proxy or a dead peer is noticed.

    The first word is a number without an event: who loses the connection before the first event can resume too.
    """
    yield f"id: {seq}\n: hello\n\n".encode()
    coming = asyncio.ensure_future(anext(source))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=_KEEP_ALIVE)
            if not done:
                yield b": still here\n\n"
                continue
            yield _sse(coming.result())
            coming = asyncio.ensure_future(anext(source))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
