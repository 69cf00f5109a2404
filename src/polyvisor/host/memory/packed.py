"""Packed pages: the data of a sparse file, compressed, with a table of where each run of it belongs.

The tools' own way of keeping holes will not do: they make holes of zeros, and in an image that lies on another a page
of zeros says something else than a hole does.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, BinaryIO

from polyvisor.host.durable import full, sync
from polyvisor.host.run import draw, pour
from polyvisor.host.sparse import data_runs
from polyvisor.model.compression import Algorithm, Compression
from polyvisor.model.faults import Internal, NoCapacity
from polyvisor.model.units import Bytes

_MAGIC = b"pvpages1"
_HEAD = struct.Struct("<8sQQ")  # magic, size of the file, number of runs
_RUN = struct.Struct("<QQ")  # start, end
_CHUNK = 1024 * 1024
_MOST_RUNS = 2**28  # a run is a page at least: a tebibyte has no more
_LIMIT = 6 * 3600.0  # nobody waits for it; the slowest level packs some MiB a second
_SUFFIXES = {Algorithm.ZSTD: ".zst", Algorithm.LZ4: ".lz4"}
_OPEN = {".zst": ("zstd", "-d", "-q", "-c"), ".lz4": ("lz4", "-d", "-q", "-c")}
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="packing")
SUFFIXES = tuple(_OPEN)


def packed_name(plain: Path, algorithm: Algorithm) -> Path:
    """What the packed form of that file is called."""
    return plain.with_name(plain.name + _SUFFIXES[algorithm])


async def pack(plain: Path, compression: Compression) -> tuple[Path, Bytes]:
    """The packed form of that sparse file, under a name of its own that counts for nothing yet, and on disk; and how
    many bytes of data are in it. It takes one core that nobody else wants. Cancelled, it leaves nothing.

    :raise NoCapacity: the disk is full. :raise Unsupported: the tool is not there. Nothing is left then.
    """
    part = packed_name(plain, compression.algorithm).with_suffix(".part")
    _require_room(plain)
    part.unlink(missing_ok=True)  # never what a process of a server that died may still be writing to
    level = f"-{compression.level}"
    argv: tuple[str, ...]
    if compression.algorithm is Algorithm.ZSTD:
        argv = ("zstd", "-q", "-f", level, "-T1", "-o", str(part), "-")
    else:
        argv = ("lz4", "-q", "-f", level, "-", str(part))
    counted: list[int] = []
    try:
        done = await pour(
            ("nice", "-n", "19", *argv), lambda out: counted.append(_write(plain, out)), threads=_THREADS,
            timeout=_LIMIT,
        )  # fmt: skip
        if done.code:
            words = f"{argv[0]}: exit {done.code}: {done.err[-500:].decode(errors='replace').strip()}"
            raise _no_room(words) if "Write error" in words else Internal(private=words)
        await asyncio.get_running_loop().run_in_executor(_THREADS, sync, part)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError | Internal):
            raise full(error) from error
        raise
    return part, Bytes(counted[0])


def _require_room(plain: Path) -> None:
    """What does not shrink at all must fit as well: a disk that was filled for this would stop guests."""
    room, needed = os.statvfs(plain.parent), plain.stat().st_blocks * 512
    if room.f_bavail * room.f_frsize < needed:
        raise _no_room(f"{needed} bytes may be needed")


def _no_room(words: str) -> NoCapacity:
    return NoCapacity("the host's disk has no room to compress the memory in", private=words)


def _write(plain: Path, out: BinaryIO) -> int:
    with plain.open("rb", buffering=0) as source:
        fd = source.fileno()
        runs = list(data_runs(fd))
        out.write(_HEAD.pack(_MAGIC, os.fstat(fd).st_size, len(runs)))
        out.write(b"".join(_RUN.pack(*run) for run in runs))
        for at, end in _pieces(runs):
            out.write(_exactly(os.pread(fd, end - at, at), end - at))
    return sum(end - start for start, end in runs)


def _pieces(runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in runs:
        for at in range(start, end, _CHUNK):
            yield at, min(end, at + _CHUNK)


def _exactly(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise OSError("the file is shorter than it says")
    return data


def unpack(packed: Path, target: int) -> None:
    """What is in it, put into that sparse file at the same places; what the file holds elsewhere stays. It blocks.

    :raise NoCapacity: there is no room. :raise Internal: it is damaged, or the tool is not there.
    """
    try:
        with packed.open("rb", buffering=0) as source:
            draw(_OPEN[packed.suffix], source.fileno(), lambda out: _read(out, target), timeout=_LIMIT)
    except OSError as error:
        raise full(error) from error


def _read(out: IO[bytes], target: int) -> None:
    magic, size, count = _HEAD.unpack(_exactly(out.read(_HEAD.size), _HEAD.size))
    if magic != _MAGIC or count > _MOST_RUNS:
        raise Internal(private="these are no packed pages")
    table = _exactly(out.read(count * _RUN.size), count * _RUN.size)
    runs = [(int(start), int(end)) for start, end in _RUN.iter_unpack(table)]
    if os.fstat(target).st_size < size:
        os.truncate(target, size)
    for at, end in _pieces(runs):
        data = _exactly(out.read(end - at), end - at)
        if os.pwrite(target, data, at) != len(data):
            raise OSError("not all of it could be written")
