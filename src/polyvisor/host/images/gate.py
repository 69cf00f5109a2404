"""The one way out of a fetch that a tenant asked for: a fetcher without a network, and this door in its wall.

A registry may answer with a redirect, or name a place to log in at, or change what its name stands for after it was
looked at. So each connection is judged here, by the address that it is then made to.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from polyvisor.host.images.addresses import public_addresses, split
from polyvisor.host.run import Completed, enclosed, run

Judge = Callable[[str, int], Awaitable[Sequence[str]]]
_LIMIT = 15.0
_CHUNK = 64 * 1024


async def run_enclosed(
    argv: Sequence[str], judge: Judge = public_addresses, *, fds: Sequence[int] = (), **how: object
) -> Completed:
    """As `run`, but all that `argv` can reach is what `judge` has addresses for, by HTTPS and this proxy."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        door = asyncio.create_task(_stand(ours, judge))
        try:
            return await run(enclosed(argv, theirs.fileno()), fds=[theirs.fileno(), *fds], **how)  # type: ignore[arg-type]  # passed on
        finally:
            door.cancel()
            await asyncio.gather(door, return_exceptions=True)


async def _stand(ours: socket.socket, judge: Judge) -> None:
    """Take over the listener that was made inside, and let through what may pass, until cancelled."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        loop.remove_reader(ours)
        ready.set_result(None)

    loop.add_reader(ours, arrived)
    try:
        await ready
    finally:
        loop.remove_reader(ours)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        return  # it could not be enclosed, and says so itself
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            await _pass(reader, writer, judge)
        finally:
            talks.discard(task)
            writer.close()

    server = await asyncio.start_server(talk, sock=socket.socket(fileno=fds[0]))
    try:
        await loop.create_future()
    finally:
        server.close()
        for task in list(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, judge: Judge) -> None:
    with contextlib.suppress(OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_LIMIT):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split("\r\n", 1)[0].split(" ")
            host, port = split(target)
            found = await judge(host, port) if method == "CONNECT" else []
        if not found:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        async with _connected(found, port) as (far, out):
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(_pump(reader, out), _pump(far, writer))


@asynccontextmanager
async def _connected(
    found: Sequence[str], port: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the first address that answers. :raise OSError: none does."""
    for number, address in enumerate(found):
        try:
            async with asyncio.timeout(_LIMIT):
                far, out = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            if number == len(found) - 1:
                raise
            continue
        try:
            yield far, out
        finally:
            out.close()
        return


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
