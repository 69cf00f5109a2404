"""Connections to a guest, by whatever leads there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from polyvisor.model.faults import Unavailable
from polyvisor.model.guest import Output
from polyvisor.ports.guest import Process

CHUNK = 256 * 1024
_LIMIT = 5.0


class Link(Protocol):
    """A stream each way. Whatever breaks it is raised as `Unavailable` or `OSError`."""

    async def read(self) -> bytes:
        """What the guest says next; empty at its end."""

    async def write(self, data: bytes) -> None:
        """Bytes to the guest; waits while it does not take them."""

    async def close(self) -> None:
        """Done with it, whatever was under way."""


class ByAgent:
    """Through the guest's agent."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.write = process.write
        self.close = process.close

    async def read(self) -> bytes:
        """See Link. :raise Unavailable: nothing listens, or the agent is gone."""
        said = await self._process.read()
        return said.data if isinstance(said, Output) else b""


class BySocket:
    """By TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See Link."""
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        """See Link."""
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """See Link."""
        self._writer.close()
        with contextlib.suppress(OSError):
            self._writer.transport.abort()


async def by_socket(where: tuple[str, int]) -> BySocket:
    """:raise Unavailable: nothing listens, or nobody answers."""
    try:
        async with asyncio.timeout(_LIMIT):
            return BySocket(*await asyncio.open_connection(*where, limit=CHUNK))
    except (OSError, TimeoutError) as error:
        raise Unavailable("nothing answers at that port", field="port") from error
