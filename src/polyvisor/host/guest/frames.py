"""Frames on a byte stream that may be cut anywhere: RFC 1055 stuffing around a header with a length.

A delimiter never appears inside a frame, so whoever joins in the middle is in step at the next one; the length tells
a whole frame from the rest of one. Everything here runs at the speed of `bytes.replace`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

PROTOCOL = 1
CHUNK = 32 * 1024  # bytes of a DATA payload that we send
WINDOW = 256 * 1024  # bytes of a stream that may be under way before the first CREDIT
MOST = 1024 * 1024  # bytes of a payload

DELIMITER = b"\xc0"
_ESCAPE = b"\xdb"
_ESCAPED_DELIMITER = b"\xdb\xdc"
_ESCAPED_ESCAPE = b"\xdb\xdd"
_HEADER = struct.Struct("<BBxxII")
_LONGEST = 2 * (MOST + _HEADER.size)


class Kind(IntEnum):
    """As in guest/agent.h, where each is explained."""

    HELLO = 1
    READY = 2
    PING = 3
    PONG = 4
    OPEN = 5
    DATA = 6
    END = 7
    CREDIT = 8
    RESULT = 9
    SIGNAL = 10
    RESIZE = 11
    CLOSE = 12


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `fd` is the stream of DATA, END and CREDIT; `channel` 0 is the connection itself."""

    kind: int
    channel: int = 0
    payload: bytes = b""
    fd: int = 0


def encode(frame: Frame) -> bytes:
    """The frame as it is sent, with its delimiter."""
    raw = _HEADER.pack(frame.kind, frame.fd, frame.channel, len(frame.payload)) + frame.payload
    return stuff(raw) + DELIMITER


def stuff(raw: bytes) -> bytes:
    """`raw` without a delimiter in it."""
    return raw.replace(_ESCAPE, _ESCAPED_ESCAPE).replace(DELIMITER, _ESCAPED_DELIMITER)


def unstuff(stuffed: bytes) -> bytes | None:
    """What was stuffed; None when it is not the work of `stuff`."""
    escapes = stuffed.count(_ESCAPE)
    if not escapes:
        return stuffed
    if escapes != stuffed.count(_ESCAPED_DELIMITER) + stuffed.count(_ESCAPED_ESCAPE):
        return None
    return stuffed.replace(_ESCAPED_DELIMITER, DELIMITER).replace(_ESCAPED_ESCAPE, _ESCAPE)


class Decoder:
    """Frames from pieces of the stream. What is no frame is passed over in silence: it is the rest of another talk."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        found = []
        *whole, rest = data.split(DELIMITER)
        for piece in whole:
            self._keep(piece)
            frame = self._take()
            if frame is not None:
                found.append(frame)
        self._keep(rest)
        return found

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= _LONGEST:
            self._parts.append(piece)
        else:
            self._parts.clear()  # too long for a frame: nothing of it is needed any more

    def _take(self) -> Frame | None:
        stuffed, too_long = b"".join(self._parts), self._size > _LONGEST
        self._parts.clear()
        self._size = 0
        raw = None if too_long else unstuff(stuffed)
        if raw is None or len(raw) < _HEADER.size:
            return None
        kind, fd, channel, length = _HEADER.unpack_from(raw)
        payload = raw[_HEADER.size :]
        return Frame(kind, channel, payload, fd) if length == len(payload) <= MOST else None
