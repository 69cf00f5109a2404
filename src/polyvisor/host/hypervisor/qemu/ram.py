"""The RAM of a QEMU process from outside: which pages are its own, reading them, putting saved ones in their place.

A process that maps its memory file privately gets a copy of each page it writes. The kernel's page map tells those
copies from pages of the file, so what a machine has become since is known without the machine's help.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.paths import MEMFD_NAME, RAM_SUFFIX
from polyvisor.host.sparse import data_runs
from polyvisor.model.faults import Unsupported

PAGE = os.sysconf("SC_PAGE_SIZE")
_CHUNK = 4 * 1024 * 1024
_ENTRY = 8  # bytes of the page map for each page, see the kernel's pagemap.rst
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20  # in the last byte of an entry
_OWN = re.compile(
    b"["
    + b"".join(re.escape(bytes([b])) for b in range(256) if b & (_PRESENT | _SWAPPED) and not b & _OF_FILE)
    + b"]+",
    re.DOTALL,
)
_MAPPING = re.compile(
    r"([0-9a-f]+)-([0-9a-f]+) rw.[ps] ([0-9a-f]+) \S+ \d+ +"
    rf"(?:.*{re.escape(RAM_SUFFIX)}|/memfd:{MEMFD_NAME})(?: \(deleted\))?"
)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a memory file in the address space of a process."""

    address: int
    length: int
    offset: int


def regions(pid: int) -> list[Region]:
    """Where the process has its memory file mapped. :raise Unsupported: it has none."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if match := _MAPPING.fullmatch(line):
            start, end, offset = (int(word, 16) for word in match.groups())
            found.append(Region(start, end - start, offset))
    if not found:
        raise Unsupported("the machine's memory is not backed by a file")
    return found


def held_by(pid: int) -> Path | None:
    """Where the memory that a process has open can be opened; None: it has none."""
    with contextlib.suppress(OSError):  # it may end meanwhile
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if f"memfd:{MEMFD_NAME}" in str(link.readlink()):
                return link
    return None


def own_runs(pid: int) -> Iterator[tuple[int, int, int]]:
    """(address, offset in the file, length) of each run of pages that are the process's own copies."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
        for region in regions(pid):
            first, count = region.address // PAGE, region.length // PAGE
            kinds = _read_at(pagemap.fileno(), first * _ENTRY, count * _ENTRY)[_ENTRY - 1 :: _ENTRY]
            for run in _OWN.finditer(kinds):
                at, length = run.start() * PAGE, (run.end() - run.start()) * PAGE
                yield region.address + at, region.offset + at, length


def _read_at(fd: int, at: int, length: int) -> bytes:
    pieces = []
    while length > 0:
        piece = os.pread(fd, length, at)
        if not piece:
            raise EOFError("the page map ends early")
        pieces.append(piece)
        at, length = at + len(piece), length - len(piece)
    return b"".join(pieces)


def dump(pid: int, target: int) -> None:
    """Write the process's own pages into the file, each at its place. :raise OSError: the disk is full."""
    buffer = memoryview(bytearray(_CHUNK))
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for address, offset, length in own_runs(pid):
            for at in range(0, length, _CHUNK):
                piece = buffer[: min(_CHUNK, length - at)]
                _exactly(os.preadv(memory.fileno(), [piece], address + at), piece)
                _exactly(os.pwrite(target, piece, offset + at), piece)


def put(pid: int, source: int) -> None:
    """The data of a sparse file in place of the same pages of the process, which is not running its machine yet."""
    buffer = memoryview(bytearray(_CHUNK))
    places = regions(pid)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for start, end in data_runs(source):
            at = start
            while at < end:
                region = next(r for r in places if r.offset <= at < r.offset + r.length)
                most = min(_CHUNK, end - at, region.offset + region.length - at)
                piece = buffer[:most]
                _exactly(os.preadv(source, [piece], at), piece)
                _exactly(os.pwrite(memory.fileno(), piece, region.address + at - region.offset), piece)
                at += most


def _exactly(done: int, piece: memoryview) -> None:
    if done != len(piece):
        raise OSError(f"only {done} of {len(piece)} bytes were copied")
