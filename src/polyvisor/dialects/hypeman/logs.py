"""Logs as lines: what the workload wrote, what the hypervisor wrote, what was asked of the instance."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

from polyvisor.dialects.hypeman import asks
from polyvisor.dialects.hypeman.encode import moment_text
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.table import Call
from polyvisor.model.event import Event
from polyvisor.model.instance import Instance
from polyvisor.model.operation import Operation
from polyvisor.model.spec import Shape

_LONGEST = 64 * 1024  # bytes of a line; a longer one is cut in pieces
_PIECE = 64 * 1024
_OPERATIONS = 1000
_MOST = 1_000_000  # lines that a tail may have
_POLL = 0.2
Lines = AsyncIterator[str]


class _Splitter:
    """Lines from pieces of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > _LONGEST:
            whole.append(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        return [_text(line) for line in whole]

    def end(self) -> list[str]:
        """The last line, which had no end."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")


async def lines_of(call: Call, instance: Instance, query: asks.Logs) -> Lines:
    """The last lines of a log, then, with `follow`, those to come. :raise Refusal: there is no such log yet."""
    if query.source == "hypeman":
        return _spoken(call, instance, query)
    if not instance.observed.incarnation:
        raise Refusal(404, "log_not_found", "requested log file does not exist yet")
    if query.source == "vmm":
        path = await call.core.streams.log_file(call.principal, instance.id)
        return _tailed(_file(path), _grown(call, instance, path), query)
    if instance.spec.shape is Shape.FULL:
        return _tailed(_console(call, instance, follow=False), _console(call, instance, follow=True), query)
    return _tailed(_written(call, instance, follow=False), _written(call, instance, follow=True), query)


async def _tailed(so_far: AsyncIterator[bytes], all_of_it: AsyncIterator[bytes], query: asks.Logs) -> Lines:
    """The last lines of `so_far`; with `follow` what `all_of_it` has from there on."""
    last: deque[str] = deque(maxlen=min(query.tail, _MOST))
    count, splitter = 0, _Splitter()
    async for data in so_far:
        for line in splitter.feed(data):
            last.append(line)
            count += 1
    if not query.follow:
        last.extend(splitter.end())
    for line in last:
        yield line
    if query.follow:
        splitter = _Splitter()
        async for data in all_of_it:
            for line in splitter.feed(data):
                if count:
                    count -= 1
                else:
                    yield line
        for line in splitter.end():
            yield line


async def _written(call: Call, instance: Instance, *, follow: bool) -> AsyncIterator[bytes]:
    async for record in await call.core.streams.journal(call.principal, instance.id, follow=follow):
        if record.data:
            yield record.data


async def _console(call: Call, instance: Instance, *, follow: bool) -> AsyncIterator[bytes]:
    """The console has no end while the machine runs, so what it said so far is what comes without waiting."""
    source = await call.core.streams.console(call.principal, instance.id, attended=False)
    coming = asyncio.ensure_future(anext(source, None))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=None if follow else _POLL)
            if not done or (data := coming.result()) is None:
                return
            yield data
            coming = asyncio.ensure_future(anext(source, None))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _file(path: Path, start: int = 0) -> AsyncIterator[bytes]:
    while data := await asyncio.to_thread(_piece, path, start):
        start += len(data)
        yield data


async def _grown(call: Call, instance: Instance, path: Path) -> AsyncIterator[bytes]:
    """The file, and what is added while the machine runs."""
    at = 0
    while True:
        now = await call.core.instances.get(call.principal, instance.id)
        async for data in _file(path, at):
            at += len(data)
            yield data
        if now.observed.run is None:
            return
        await asyncio.sleep(_POLL)


def _piece(path: Path, start: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(_PIECE)
    except FileNotFoundError:
        return b""


async def _spoken(call: Call, instance: Instance, query: asks.Logs) -> Lines:
    """What was asked of it, oldest first; with `follow`, events about it as they come."""
    seq = await call.core.events.last(call.principal)
    asked = await call.core.instances.operations(call.principal, instance.id, _OPERATIONS)
    lines = [line for operation in reversed(asked) for line in _told(operation)]
    for line in lines[len(lines) - query.tail :] if query.tail < len(lines) else lines:
        yield line
    if not query.follow:
        return
    async for event in call.core.events.follow(call.principal, seq):
        if event.subject == instance.id:
            yield _said(event)
            if event.kind == "instance.deleted":
                return


def _told(operation: Operation) -> list[str]:
    lines = [f"{moment_text(operation.created)} {operation.verb} asked"]
    if operation.finished is not None:
        why = f": {operation.fault}" if operation.fault else ""
        lines.append(f"{moment_text(operation.finished)} {operation.verb} {operation.outcome}{why}")
    return lines


def _said(event: Event) -> str:
    more = "".join(f" {key}={value}" for key, value in sorted(event.data.items()) if key != "name")
    return f"{moment_text(event.at)} {event.kind}{more}"


async def as_events(lines: Lines) -> AsyncIterator[bytes]:
    """Server-sent events: each line is a JSON text, and nothing else is said."""
    async for line in lines:
        yield b"data: " + json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
