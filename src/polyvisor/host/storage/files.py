"""Sparse files, and work on files that is not left half done."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from polyvisor.host.durable import full

P = ParamSpec("P")
T = TypeVar("T")
_CLUSTER = 64 * 1024


async def firmly(call: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """In a thread and to its end, even when cancelled: a lock that is held meanwhile is not let go before."""
    job = asyncio.ensure_future(asyncio.to_thread(call, *args, **more))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        while not job.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([job])
        job.exception()  # looked at: whoever asked is told that it was cancelled
        raise


def sparse(path: Path, size: int) -> None:
    """A new file of that size without a block."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
    finally:
        os.close(fd)


def write_sparse(data: bytes, path: Path) -> None:
    """A file of those bytes, durable, with holes where they are zero. :raise NoCapacity: the disk is full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.truncate(fd, len(data))
        for at in range(0, len(data), _CLUSTER):
            piece = data[at : at + _CLUSTER].rstrip(b"\0")
            if piece and os.pwrite(fd, piece, at) != len(piece):
                raise OSError(errno.ENOSPC, "a short write")
        os.fdatasync(fd)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise full(error) from error
    finally:
        os.close(fd)
