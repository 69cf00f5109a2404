"""Memory without a name in any directory: that of a machine, or what several map, sealed so that none can change it.

A hypervisor opens its memory file to write, also where it maps it privately. A sealed memfd lets it do so and refuses
every write, whoever holds it. It lives as long as a process has it; what must outlive them is a file as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from polyvisor.host.memory.packed import SUFFIXES, unpack
from polyvisor.host.paths import MEMFD_NAME
from polyvisor.host.sparse import copy_data, data_runs
from polyvisor.model.faults import Unavailable
from polyvisor.ports.hypervisor import LiveVm

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_PIECE = 8 * 1024 * 1024
_HANDS = 2  # memory is copied by as many threads: more would wait for the same bus


def empty(size: int) -> int:
    """A descriptor of memory for one machine. No mount's size bounds it, as that of a tmpfs would."""
    fd = os.memfd_create(MEMFD_NAME, os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return fd


class Draft:
    """Memory that is being copied, twice: while its machine runs, which takes its time, and once it stands still.

    The first copy is of many moments and counts for nothing, but by then every page has its place.
    """

    def __init__(self, source: Path) -> None:
        self._source = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        self._fd = os.memfd_create(MEMFD_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = os.fstat(self._source).st_size
        os.truncate(self._fd, size)
        private = mmap.MAP_PRIVATE  # or ctypes would not take it; nothing is written there
        self._from = mmap.mmap(self._source, size, flags=private, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._to = mmap.mmap(self._fd, size)

    def copy(self) -> None:
        """What the memory holds now."""
        out, into = ctypes.c_char.from_buffer(self._from), ctypes.c_char.from_buffer(self._to)
        here, there = ctypes.addressof(out), ctypes.addressof(into)
        pieces = [
            (at, min(_PIECE, end - at)) for start, end in data_runs(self._source) for at in range(start, end, _PIECE)
        ]
        with ThreadPoolExecutor(_HANDS) as hands:
            list(hands.map(lambda p: ctypes.memmove(there + p[0], here + p[0], p[1]), pieces))

    def seal(self) -> int:
        """No change any more; the descriptor is the caller's."""
        self._to.close()
        return sealed(os.dup(self._fd))

    def close(self) -> None:
        """Let go of what is still held."""
        self._to.close()
        self._from.close()
        os.close(self._source)
        os.close(self._fd)


def sealed(fd: int) -> int:
    """The same memfd, which nobody can change from now on."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


class Bases:
    """Sealed memory by the image that it is of."""

    def __init__(self) -> None:
        self._fds: dict[str, int] = {}
        self._lock = threading.Lock()

    def put(self, image: str, fd: int) -> None:
        """From now on this is the image's memory."""
        self._fds[image] = fd

    def has(self, image: str) -> bool:
        """Whether it is at hand without a file."""
        return image in self._fds

    def of(self, image: str, file: Path | None) -> int:
        """The descriptor, made of the image's file, plain or compressed, where it is not at hand.

        :raise Unavailable: there is neither.
        """
        with self._lock:
            if image not in self._fds:
                if file is None:
                    raise Unavailable("the saved memory is not there any more")
                self._fds[image] = _load(file)
            return self._fds[image]

    def recover(self, image: str, vm: LiveVm) -> None:
        """After a restart of ours: a machine that maps the image still has it. Nothing if it does not."""
        if image in self._fds:
            return
        link = vm.ram()
        with contextlib.suppress(OSError):  # it may end meanwhile
            if link is not None:
                self._fds[image] = os.open(link, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, image: str, file: Path) -> None:
        """A file of what is at hand. :raise OSError: the disk is full. :raise Unavailable: it is not at hand."""
        if image not in self._fds:
            raise Unavailable("the memory that the machine was made of cannot be found")
        part = file.with_suffix(".part")
        with part.open("wb", buffering=0) as into:
            os.truncate(into.fileno(), os.fstat(self._fds[image]).st_size)
            copy_data(self._fds[image], into.fileno())
        part.rename(file)

    def forget(self, image: str) -> None:
        """It goes once no process has it."""
        if image in self._fds:
            os.close(self._fds.pop(image))

    def known(self) -> set[str]:
        """The images at hand."""
        return set(self._fds)


def _load(file: Path) -> int:
    with file.open("rb", buffering=0) as source:
        fd = os.memfd_create(MEMFD_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            if file.suffix in SUFFIXES:
                unpack(file, fd)
            else:
                os.truncate(fd, os.fstat(source.fileno()).st_size)
                copy_data(source.fileno(), fd)
            return sealed(fd)
        except BaseException:
            os.close(fd)
            raise
