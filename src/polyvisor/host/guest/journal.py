"""A workload's journal: records that the agent writes to a port of its own and the hypervisor keeps as a file.

Only the agent holds that port, so neither output nor exit code can be forged from the console. The file is only
ever appended to, and begins with a hole once its oldest part was given back to the file system (see `host.console`).
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Literal

from polyvisor.host.console import follow_file
from polyvisor.host.guest.frames import DELIMITER, unstuff
from polyvisor.model.guest import JournalRecord

_HEADER = struct.Struct("<BxxxIq")
_EXIT = struct.Struct("<ii")
_STREAMS: tuple[Literal["start", "stdout", "stderr", "exit"], ...] = ("start", "stdout", "stderr", "exit")
_TAIL = 256 * 1024  # an exit is the last thing that a run says
_LONGEST = 1024 * 1024


class Reader:
    """Records from pieces of the file."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[JournalRecord]:
        """The records that `data` completes; what is none is passed over."""
        *whole, rest = (self._rest + data).split(DELIMITER)
        self._rest = rest if len(rest) <= _LONGEST else b""
        for piece in whole:
            record = _record(piece)
            if record is not None:
                yield record


def _record(piece: bytes) -> JournalRecord | None:
    raw = unstuff(piece)
    if raw is None or len(raw) < _HEADER.size:
        return None
    kind, length, micros = _HEADER.unpack_from(raw)
    data = raw[_HEADER.size :]
    if kind >= len(_STREAMS) or length != len(data):
        return None
    stream, at = _STREAMS[kind], micros / 1e6
    if stream != "exit":
        return JournalRecord(at, stream, data)
    if length != _EXIT.size:
        return None
    code, signal = _EXIT.unpack(data)
    return JournalRecord(at, stream, code=None if signal else code, signal=signal or None)


async def follow_journal(path: Path, running: Callable[[], bool]) -> AsyncIterator[JournalRecord]:
    """The records so far, then those to come, until `running()` is false and all is read."""
    reader = Reader()
    async for data in follow_file(path, running):
        for record in reader.feed(data):
            yield record


def last_exit(path: Path, since: int) -> JournalRecord | None:
    """How the workload ended in the run whose records begin at byte `since`; None when it did not say."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(since, size - _TAIL))
            data = file.read(_TAIL)
    except FileNotFoundError:
        return None
    exits = [record for record in Reader().feed(DELIMITER + data) if record.stream == "exit"]
    return exits[-1] if exits else None
