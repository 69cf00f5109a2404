"""Files that a client of SFTP has open: its questions may come many at once, and are answered in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from asyncssh import SFTPAttrs

from polyvisor.engine.streams import Guest
from polyvisor.model.faults import Fault, Unsupported
from polyvisor.model.guest import Change

_AHEAD = 16  # pieces that are on their way to the guest


class Reading:
    """A file from the beginning on, in one go as long as the client reads on where it was."""

    def __init__(self, guest: Guest, path: str) -> None:
        self.guest = guest
        self.path = path
        self.position = 0
        self._chunks: AsyncIterator[bytes] | None = None
        self._came = bytearray()
        self._turn = asyncio.Lock()

    async def read(self, offset: int, size: int) -> bytes:
        """So much from there, or less at the end. :raise Fault:"""
        async with self._turn:
            if self._chunks is None or offset != self.position:
                await self._close()
                self._chunks, self.position = self.guest.read_file(self.path, offset), offset
                self._came.clear()
            while len(self._came) < size:
                try:
                    self._came += await anext(self._chunks)
                except StopAsyncIteration:
                    break
            piece = bytes(self._came[:size])
            del self._came[:size]
            self.position += len(piece)
            return piece

    async def _close(self) -> None:
        if self._chunks is not None and hasattr(self._chunks, "aclose"):
            await self._chunks.aclose()

    async def close(self) -> SFTPAttrs | None:
        """Done with it."""
        async with self._turn:
            await self._close()
        return None

    async def drop(self) -> None:
        """The client has left."""
        with suppress(Fault):
            await self.close()


class Writing:
    """A file that is written from its beginning to its end, and is there, whole, once it is closed. Of what it held,
    `kept` bytes are there still where nothing else is written. `later` is what is to be set at the end.
    """

    def __init__(self, guest: Guest, path: str, mode: int, owner: tuple[int, int], kept: int) -> None:
        self.guest = guest
        self.path = path
        self.position = 0
        self.later: SFTPAttrs | None = None
        self._owner = owner
        self._kept = kept
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._turn = asyncio.Lock()
        self._task = asyncio.create_task(guest.write_file(path, self._chunks(), mode=mode), name="sftp write")

    async def _chunks(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    async def write(self, offset: int, data: bytes) -> None:
        """The next piece. :raise Unsupported: it is another one. :raise Fault: it cannot be written."""
        async with self._turn:
            if offset < self.position or offset > max(self.position, self._kept):
                raise Unsupported("a file is written from its beginning to its end")
            await self._keep(offset)
            await self._put(data)
            self.position += len(data)

    async def _keep(self, end: int) -> None:
        """What it held, from where we are to there."""
        if self.position >= end:
            return
        old = self.guest.read_file(self.path, self.position)
        async for chunk in old:
            piece = chunk[: end - self.position]
            await self._put(piece)
            self.position += len(piece)
            if self.position >= end:
                break

    async def _put(self, piece: bytes | None) -> None:
        """Unless the guest has had enough of it."""
        putting = asyncio.ensure_future(self._pieces.put(piece))
        await asyncio.wait([putting, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not putting.done():
            putting.cancel()
        if self._task.done():
            self._task.result()

    async def close(self) -> SFTPAttrs | None:
        """It is there; what is to be set. :raise Fault: it is not."""
        async with self._turn:
            size = None if self.later is None else self.later.size
            await self._keep(self._kept if size is None else min(size, self._kept))
            await self._put(None)
            await self._task
            if self._owner != (0, 0):
                await self.guest.change(self.path, Change.CHOWN, f"{self._owner[0]}:{self._owner[1]}")
            return self.later

    async def drop(self) -> None:
        """The client has left: the guest keeps what it had."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
