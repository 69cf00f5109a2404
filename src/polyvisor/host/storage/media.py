"""Media: volumes of raw bytes, made empty or received from somebody, and the pools that they are in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from polyvisor.host.durable import full, sync
from polyvisor.host.paths import Paths
from polyvisor.host.sparse import copy_sparse
from polyvisor.host.storage.files import firmly, sparse
from polyvisor.model.faults import Internal, Invalid, NoCapacity
from polyvisor.model.host import Disk
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import DEFAULT_POOL, Pool, whole_sectors

RESERVE = 512 * MIB
"""What uploads leave free in the data directory: machines and records live there too."""
_RESERVE_ELSEWHERE = 16 * MIB
_PIECE = MIB
_ZEROS = bytes(_PIECE)


class Media:
    """Files that are there whole or not at all."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._promised: Counter[str] = Counter()  # bytes that uploads under way have still to send, by pool

    def pools(self) -> tuple[Pool, ...]:
        """The data directory first."""
        found = [Pool(DEFAULT_POOL, 0, str(self._paths.root), *_room(self._paths.volumes))]
        for place in self._paths.pools:
            found.append(Pool(place.name, place.number, str(place.path), *_room(place.folder)))
        return tuple(found)

    async def blank(self, disk: Disk) -> None:
        """Zeros: no block of it is there. :raise NoCapacity: the file system cannot hold a file of that size."""
        path = self._paths.volume(disk.volume, disk.pool)
        part = path.with_suffix(".part")
        self._need_room(disk.pool, 0)
        try:
            await firmly(sparse, part, disk.size)
            part.rename(path)
            await firmly(sync, path.parent)
        except OSError as error:
            raise full(error) from error
        finally:
            part.unlink(missing_ok=True)

    async def receive(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """Exactly `length` bytes, as they come; little of them is in our memory at any time.

        :raise Invalid: there are more of them, or fewer. :raise NoCapacity: they do not fit, or stopped to.
        """
        path = self._paths.volume(disk.volume, disk.pool)
        part = path.with_suffix(".part")
        self._need_room(disk.pool, length)
        self._promised[disk.pool] += length
        left = length
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                async for piece in _pieces(chunks):
                    if len(piece) > left:
                        raise Invalid(f"body: there are more than {length} bytes in it", field="body")
                    await firmly(_put, fd, piece, length - left)
                    left -= len(piece)
                    self._promised[disk.pool] -= len(piece)
                if left:
                    raise Invalid(f"body: it ended after {length - left} of {length} bytes", field="body")
                await firmly(_finish, fd, whole_sectors(length))
            finally:
                os.close(fd)
            part.rename(path)
            await firmly(sync, path.parent)
        except OSError as error:
            raise full(error) from error
        finally:
            self._promised[disk.pool] -= left
            part.unlink(missing_ok=True)

    async def put(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """Bytes into a file that is there already, from that place on; how many there were.

        :raise Invalid: they would go beyond its end. :raise NoCapacity: the disk is full.
        """
        fd = os.open(self._paths.volume(disk.volume, disk.pool), os.O_WRONLY | os.O_CLOEXEC)
        place = at
        try:
            async for piece in _pieces(chunks):
                if place + len(piece) > disk.size:
                    raise Invalid(f"body: it goes beyond the end at {disk.size} bytes", field="body")
                await firmly(_put_all, fd, piece, place)
                place += len(piece)
        except OSError as error:
            raise full(error) from error
        finally:
            os.close(fd)
        return place - at

    async def read(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """The first bytes of a file, as many as that."""
        fd = os.open(self._paths.volume(disk.volume, disk.pool), os.O_RDONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < length:
                piece = await asyncio.to_thread(os.pread, fd, min(_PIECE, length - at), at)
                if not piece:
                    raise Internal("the volume's file is shorter than it was")
                yield piece
                at += len(piece)
        finally:
            os.close(fd)

    async def adopt(self, disk: Disk, file: Path) -> None:
        """That file becomes the volume's. :raise NoCapacity: it has to be copied, and does not fit."""
        path = self._paths.volume(disk.volume, disk.pool)
        part = path.with_suffix(".part")
        try:
            try:
                file.rename(part)
            except OSError as error:  # a pool may be on another file system
                if error.errno != errno.EXDEV:
                    raise
                await asyncio.to_thread(copy_sparse, file, part)
            part.chmod(0o600)
            part.rename(path)
            await firmly(sync, path)
            await firmly(sync, path.parent)
        except OSError as error:
            raise full(error) from error
        finally:
            part.unlink(missing_ok=True)

    def used(self, disk: Disk) -> Bytes:
        """What a file takes of the pool's room; nothing where there is none."""
        try:
            return Bytes(self._paths.volume(disk.volume, disk.pool).stat().st_blocks * 512)
        except OSError:
            return Bytes(0)

    async def copy(self, source: Disk, target: Disk) -> None:
        """What is in another one's file, holes as holes. :raise NoCapacity: it does not fit."""
        old, path = (self._paths.volume(disk.volume, disk.pool) for disk in (source, target))
        part = path.with_suffix(".part")
        stopped = threading.Event()
        try:
            self._need_room(target.pool, old.stat().st_blocks * 512)
            with _set_at_the_end(stopped):
                await asyncio.to_thread(copy_sparse, old, part, stopped)
            part.rename(path)
            await firmly(sync, path.parent)
        except OSError as error:
            raise full(error) from error
        finally:
            part.unlink(missing_ok=True)

    def _need_room(self, pool: str, more: int) -> None:
        """:raise NoCapacity:"""
        reserve = _RESERVE_ELSEWHERE if pool else RESERVE
        if _room(self._paths.pool(pool))[0] - self._promised[pool] - more < (reserve if more else 0):
            raise NoCapacity("body: the pool has no room for it", field="body")


@contextlib.contextmanager
def _set_at_the_end(stopped: threading.Event) -> Iterator[None]:
    """A thread that nobody waits for any more must not go on copying."""
    try:
        yield
    finally:
        stopped.set()


def _room(folder: Path) -> tuple[Bytes, Bytes]:
    usage = os.statvfs(folder)
    return Bytes(usage.f_bavail * usage.f_frsize), Bytes(usage.f_blocks * usage.f_frsize)


async def _pieces(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: a thread is asked for each."""
    gathered = bytearray()
    async for chunk in chunks:
        for at in range(0, len(chunk), _PIECE):
            gathered += chunk[at : at + _PIECE]
            if len(gathered) >= _PIECE:
                yield bytes(gathered[:_PIECE])
                del gathered[:_PIECE]
    if gathered:
        yield bytes(gathered)


def _put(fd: int, piece: bytes, at: int) -> None:
    """Zeros are left out: a hole is read as such."""
    if piece != _ZEROS[: len(piece)]:
        _put_all(fd, piece, at)


def _put_all(fd: int, piece: bytes, at: int) -> None:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written


def _finish(fd: int, size: int) -> None:
    os.truncate(fd, size)
    os.fsync(fd)
