"""Following a file that somebody else appends to.

QEMU itself writes the console to a file, attached or not, so watching is reading that file: any number of watchers,
none can slow the guest down, and nothing is lost while nobody watches.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

_CHUNK = 64 * 1024
_PAUSE = 0.02
_BLOCK = 4096
_PUNCH_KEEPING_SIZE = 0x3


async def follow_file(path: Path, running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The file's bytes from where they begin, then those to come, until `running()` is false and all is read."""
    offset = await asyncio.to_thread(first_byte, path)
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


def first_byte(path: Path) -> int:
    """Where data begins: the oldest part of a file that only grows may have been given back."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return os.lseek(fd, 0, os.SEEK_DATA)
    except OSError:  # no data at all
        return 0
    finally:
        os.close(fd)


def trim(path: Path, keep: int) -> None:
    """Give all but about the last `keep` bytes of a file back, while somebody appends to it.

    Offsets stay what they are: the file begins with a hole. Where holes cannot be made the file is left as it is.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        facts = os.fstat(fd)
        end = (facts.st_size - keep) // _BLOCK * _BLOCK
        if facts.st_blocks * 512 > 2 * keep and end > 0:
            _libc.fallocate(fd, _PUNCH_KEEPING_SIZE, ctypes.c_long(0), ctypes.c_long(end))
    finally:
        os.close(fd)


_libc = ctypes.CDLL(None)


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
    except FileNotFoundError:
        return b""
