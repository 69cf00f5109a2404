"""A running command and a console, each on a WebSocket of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyvisor.client.errors import Refused, unreachable
from polyvisor.client.link import Link, part
from polyvisor.wire.native import ExecOrder, ExecRequest, ExecResult, Problem
from polyvisor.wire.streams import CHUNK, STDIN, pack, unpack

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command said; `channel` is `wire.streams.STDOUT` or `STDERR`."""

    channel: int
    data: bytes


class Exec:
    """A command in a guest. Iterate over its output; then `result` is how it ended."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._result: ExecResult | None = None

    async def write(self, data: bytes) -> None:
        """Bytes to its stdin; waits while it does not take them. Lost once it has ended."""
        for start in range(0, len(data), CHUNK):
            await self._send(pack(STDIN, data[start : start + CHUNK]))

    async def eof(self) -> None:
        """Its stdin ends."""
        await self._order(ExecOrder(eof=True))

    async def resize(self, rows: int, cols: int) -> None:
        """Its terminal has another size."""
        await self._order(ExecOrder(resize=(max(1, rows), max(1, cols))))

    async def signal(self, number: int) -> None:
        """A signal to it and its children."""
        await self._order(ExecOrder(signal=number))

    async def _order(self, order: ExecOrder) -> None:
        await self._send(order.model_dump_json(exclude_defaults=True))

    async def _send(self, message: str | bytes) -> None:
        with contextlib.suppress(ConnectionError, _closed()):  # the end is told to whoever reads
            await self._socket.send(message)

    async def __aiter__(self) -> AsyncIterator[Output]:
        async for message in _messages(self._socket):
            if isinstance(message, bytes):
                channel, data = unpack(message)
                yield Output(channel, data)
            else:
                self._result = ExecResult.model_validate_json(message)
                return
        raise unreachable("the connection ended before the command did")

    async def result(self) -> ExecResult:
        """How it ended; output that nobody has read is dropped. :raise Refused:"""
        if self._result is None:
            async for _ in self:
                pass
        assert self._result is not None
        return self._result


class Console:
    """A serial console. Iterate over what it says, until the machine ends."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def write(self, data: bytes) -> None:
        """Keystrokes. Lost once the machine has ended."""
        with contextlib.suppress(ConnectionError, _closed()):
            await self._socket.send(data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in _messages(self._socket):
            if isinstance(message, bytes):
                yield message


def _closed() -> type[Exception]:
    from websockets.exceptions import ConnectionClosed

    return ConnectionClosed


async def _messages(socket: ClientConnection) -> AsyncIterator[str | bytes]:
    """What comes, until the socket closes. :raise Refused: the server says why it goes no further."""
    with contextlib.suppress(ConnectionError, _closed()):
        async for message in socket:
            if isinstance(message, str) and "kind" in json.loads(message):
                raise Refused(Problem.model_validate_json(message))
            yield message


@asynccontextmanager
async def open_exec(link: Link, key: str, request: ExecRequest) -> AsyncIterator[Exec]:
    """A command under way; leaving ends it if it still runs. :raise Refused:"""
    async with await link.socket(f"/instances/{part(key)}/exec") as socket:
        await socket.send(request.model_dump_json(exclude_none=True))
        yield Exec(socket)


@asynccontextmanager
async def open_console(link: Link, key: str) -> AsyncIterator[Console]:
    """An open console. :raise Refused:"""
    async with await link.socket(f"/instances/{part(key)}/console") as socket:
        yield Console(socket)
