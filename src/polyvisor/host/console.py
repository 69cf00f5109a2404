"""Following a file that somebody else appends to.

QEMU itself writes the console to a file, attached or not, so watching is reading that file: any number of watchers,
none can slow the guest down, and nothing is lost while nobody watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_CHUNK = 64 * 1024
_PAUSE = 0.02


async def follow_file(path: Path, running: Callable[[], bool], start: int = 0) -> AsyncIterator[bytes]:
    """The file's bytes from `start`, then those to come, until `running()` is false and all is read."""
    offset = start
    while True:
        live = running()  # asked before reading, so that the last bytes are not missed
        data = await asyncio.to_thread(_read, path, offset)
        if data:
            offset += len(data)
            yield data
        elif not live:
            return
        else:
            await asyncio.sleep(_PAUSE)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except FileNotFoundError:
        return b""
