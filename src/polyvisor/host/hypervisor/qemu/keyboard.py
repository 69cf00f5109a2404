"""The console's input: one connection, kept while it is used.

A client that writes and hangs up loses most of what it wrote, because the guest takes a serial port's bytes one at a
time. What the machine says comes from the console file; here it is only drained.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from polyvisor.host.sockets import connect_unix
from polyvisor.model.faults import Unavailable

_CHUNK = 64 * 1024


class Keyboard:
    """Keys for one machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._draining: asyncio.Task[None] | None = None

    async def press(self, data: bytes) -> None:
        """Bytes, in the order of the calls. Waits while the guest does not take them. :raise Unavailable:"""
        async with self._turn:
            try:
                writer = await self._connected()
                writer.write(data)
                await writer.drain()
            except OSError as error:
                await self.close()
                raise Unavailable("the console cannot be reached", private=str(error)) from error

    async def _connected(self) -> asyncio.StreamWriter:
        if self._writer is None or self._writer.is_closing():
            reader, self._writer = await asyncio.open_unix_connection(sock=connect_unix(self._path))
            self._draining = asyncio.create_task(_drain(reader, self._writer))
        return self._writer

    async def close(self) -> None:
        """Let go of it."""
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.gather(self._draining, return_exceptions=True)
        if self._writer is not None:
            self._writer.close()
        self._draining = self._writer = None


async def _drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(_CHUNK):
            pass
    writer.close()
