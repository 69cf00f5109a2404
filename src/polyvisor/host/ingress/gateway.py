"""The doors that Caddy knocks at: a unix socket for each rule, and behind it the way to the rule's instance.

Caddy makes a connection for each request. Whoever is behind the door is found when somebody knocks, woken where it
sleeps, and from then on bytes are passed and not looked at. Before, of a rule whose host name is a pattern, the name
that is asked for is read: Caddy writes it in the second line of a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from time import monotonic

from polyvisor.host.ingress.document import door_name
from polyvisor.host.links import CHUNK, Link
from polyvisor.host.sockets import listen_unix
from polyvisor.model.faults import Busy, Fault, NotFound, Unavailable
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.ingress import Route
from polyvisor.ports.proxy import Switch

log = logging.getLogger("polyvisor.host")
Connect = Callable[[Blueprint, int], AbstractAsyncContextManager[Link]]
_HELD = 120.0  # seconds that a request waits for its instance
_TRY_AGAIN = 0.05
_HEAD_LIMIT = 10.0
_HEAD_MOST = 1024 * 1024 + 4096  # Caddy's limit of a request's head is a mebibyte
_BACKLOG = 1024
_MOST = 4096  # requests at a time, each of which takes two descriptors of ours
_MOST_OF_ONE = 200  # of one instance: its agent takes some more
_DRAIN = 5.0


class Gateway:
    """From the event loop only."""

    def __init__(self, folder: Path, gid: int | None, connect: Connect) -> None:
        self._folder = folder
        self._gid = gid
        self._connect = connect
        self._switch: Switch | None = None
        self._doors: dict[str, tuple[Route, asyncio.Server]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: Counter[InstanceId] = Counter()

    def follow(self, switch: Switch) -> None:
        """Who knocks is led by that."""
        self._switch = switch

    async def stand(self, routes: Sequence[Route]) -> None:
        """There is a door for each of these, beside those that there are. :raise OSError:"""
        for route in routes:
            name = door_name(route.ingress, route.number)
            if name not in self._doors:
                sock = self._bound(name)
                server = await asyncio.start_unix_server(self._serve(name), sock=sock, limit=CHUNK)
                self._doors[name] = route, server
        self._mean(routes)

    def _mean(self, routes: Sequence[Route]) -> None:
        """Doors that stay lead where these say: an ingress may have other rules than before."""
        for route in routes:
            name = door_name(route.ingress, route.number)
            if name in self._doors:
                self._doors[name] = route, self._doors[name][1]

    def _bound(self, name: str) -> socket.socket:
        path = self._folder / name
        sock = listen_unix(path, _BACKLOG)
        if self._gid is not None:
            os.chown(path, 0, self._gid)
        path.chmod(0o660)
        return sock

    def keep(self, routes: Sequence[Route]) -> None:
        """No other doors than these are left."""
        self._mean(routes)
        wanted = {door_name(route.ingress, route.number) for route in routes}
        for name in self._doors.keys() - wanted:
            self._doors.pop(name)[1].close()
        if self._folder.exists():
            for left in {path.name for path in self._folder.iterdir()} - wanted:
                (self._folder / left).unlink(missing_ok=True)

    async def close(self) -> None:
        """The server goes: who asks meanwhile finds nobody, and is made to wait by Caddy."""
        for _, server in self._doors.values():
            server.close()
        self._doors.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one request -------------------------------------------------------------------------------------------------

    def _serve(self, name: str):  # type: ignore[no-untyped-def]  # as asyncio wants it
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task is None or len(self._tasks) >= _MOST or name not in self._doors:
                writer.transport.abort()
                return
            route = self._doors[name][0]
            self._tasks.add(task)
            try:
                await self._answer(route, reader, writer)
            except (OSError, asyncio.CancelledError) as error:
                log.debug("ingress %s: %r", route.ingress, error)
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        return serve

    async def _answer(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, host = b"", ""
        if route.rule.pattern:
            head = await _first_lines(reader)
            host = host_of(head)
        async with contextlib.AsyncExitStack() as stack:
            try:
                link = await self._reach(stack, route, host)
                await _pass(head, reader, writer, link)
            except Fault as fault:
                log.debug("ingress %s: %s (%s)", route.ingress, fault.public, fault.private)
                await _say(reader, writer, fault)

    async def _reach(self, stack: contextlib.AsyncExitStack, route: Route, host: str) -> Link:
        """A link to the instance, which ends with `stack`. :raise Fault: there will be none."""
        end = monotonic() + _HELD
        while True:
            if self._switch is None:
                raise Unavailable("the server is starting")
            blueprint, port = await self._switch(route.ingress, route.number, host)
            if self._busy[blueprint.id] < _MOST_OF_ONE:
                try:
                    link = await stack.enter_async_context(self._connect(blueprint, port))
                except Busy as busy:  # it is being put into standby, or has just come up
                    last: Fault = busy
                else:
                    self._busy[blueprint.id] += 1
                    stack.callback(self._done_with, blueprint.id)
                    return link
            else:
                last = Busy("the instance has too many requests")
            if monotonic() > end:
                raise Unavailable(last.public)
            await asyncio.sleep(_TRY_AGAIN)

    def _done_with(self, id: InstanceId) -> None:
        self._busy[id] -= 1
        if not self._busy[id]:
            del self._busy[id]


async def _pass(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link) -> None:
    """Bytes both ways until one side ends. Caddy never ends its own before it has all: where it does, nobody asks any
    more. :raise Unavailable: nothing was said, for nothing listens."""
    spoken = asyncio.Event()
    up, down = asyncio.create_task(_up(head, reader, link)), asyncio.create_task(_down(link, writer, spoken))
    try:
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        if not down.done() and up.exception() is not None:
            await asyncio.wait((down,), timeout=_DRAIN)
        if down.done() and (error := down.exception()) is not None:
            if spoken.is_set():
                return
            raise Unavailable("nothing answers at that port", field="port") from error
        if down.done():
            writer.write_eof()
            await asyncio.wait((up,), timeout=_DRAIN)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _up(head: bytes, reader: asyncio.StreamReader, link: Link) -> None:
    if head:
        await link.write(head)
    while data := await reader.read(CHUNK):
        await link.write(data)


async def _down(link: Link, writer: asyncio.StreamWriter, spoken: asyncio.Event) -> None:
    while data := await link.read():
        spoken.set()
        writer.write(data)
        await writer.drain()


async def _first_lines(reader: asyncio.StreamReader) -> bytes:
    """What there is up to the end of the second line. :raise OSError: it does not come."""
    head = b""
    try:
        async with asyncio.timeout(_HEAD_LIMIT):
            while head.count(b"\n") < 2 and len(head) < _HEAD_MOST:
                data = await reader.read(CHUNK)
                if not data:
                    break
                head += data
    except TimeoutError as error:
        raise ConnectionAbortedError("no request came") from error
    return head


def host_of(head: bytes) -> str:
    """The host name in the second line of a request, without its port; empty: there is none."""
    lines = head.split(b"\r\n", 2)
    name, _, value = (lines[1] if len(lines) > 1 else b"").partition(b":")
    if name.lower() != b"host":
        return ""
    host = value.strip().decode("latin-1")
    return host.partition(":")[0]


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
    """Why there is no answer of the guest's, in our own words and with none of its name."""
    status, phrase = (404, "Not Found") if isinstance(fault, NotFound) else (503, "Service Unavailable")
    if isinstance(fault, Unavailable) and fault.field == "port":
        status, phrase = 502, "Bad Gateway"
    text = f"{fault.public}\n".encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + text)
    writer.write_eof()
    with contextlib.suppress(TimeoutError):  # what is still on its way would be an error to who sends it
        async with asyncio.timeout(_DRAIN):
            while await reader.read(CHUNK):
                pass
