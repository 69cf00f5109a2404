"""The fake screen: black, and its VNC server says its version and then repeats what it hears."""

from __future__ import annotations

import asyncio
import struct
import zlib

GREETING = b"RFB 003.008\n"


def black(width: int, height: int) -> bytes:
    """A PNG of that size, one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = bytes(1 + (width + 7) // 8) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


class FakeViewer:
    """A Viewer; it ends with its machine, when `over` is set."""

    def __init__(self, over: asyncio.Event) -> None:
        self._said: asyncio.Queue[bytes] = asyncio.Queue()
        self._said.put_nowait(GREETING)
        self._over = over

    async def read(self) -> bytes:
        """See Viewer."""
        said, over = asyncio.create_task(self._said.get()), asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({said, over}, return_when=asyncio.FIRST_COMPLETED)
            return said.result() if said.done() else b""
        finally:
            said.cancel()
            over.cancel()
            await asyncio.gather(said, over, return_exceptions=True)

    async def write(self, data: bytes) -> None:
        """See Viewer."""
        self._said.put_nowait(data)

    async def close(self) -> None:
        """See Viewer."""
        self._said.put_nowait(b"")
