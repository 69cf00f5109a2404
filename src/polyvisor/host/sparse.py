"""Sparse files: where their data lies, copies that keep their holes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 4 * 1024 * 1024


def data_runs(fd: int) -> Iterator[tuple[int, int]]:
    """(start, end) of what a sparse file holds."""
    at, size = 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # holes up to the end
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def copy_data(source: int, target: int, stopped: threading.Event | None = None) -> None:
    """What one sparse file holds into another, at the same places.

    :raise InterruptedError: it was `stopped`. :raise OSError: the disk is full.
    """
    for start, end in data_runs(source):
        os.lseek(target, start, os.SEEK_SET)
        at = start
        while at < end:
            if stopped is not None and stopped.is_set():
                raise InterruptedError("nobody wants the copy any more")
            done = os.sendfile(target, source, at, min(_CHUNK, end - at))
            if not done:
                raise OSError(errno.EIO, "the file became shorter")
            at += done


def copy_sparse(source: Path, target: Path, stopped: threading.Event | None = None) -> None:
    """A copy with the same holes, on disk when this returns. :raise OSError: as for `copy_data`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    with source.open("rb", buffering=0) as file:
        into = os.open(target, flags, 0o600)
        try:
            os.truncate(into, os.fstat(file.fileno()).st_size)
            copy_data(file.fileno(), into, stopped)
            os.fsync(into)
        finally:
            os.close(into)
