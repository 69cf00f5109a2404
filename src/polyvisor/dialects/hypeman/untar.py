"""A tar stream taken apart as it comes: what our own agent writes, ustar with pax headers (`guest/tar.c`).

It comes from a guest, so nothing in it is believed: names are told to the caller as they are, sizes are bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from polyvisor.model.faults import Upstream

_BLOCK = 512
_LONGEST_PAX = 64 * 1024
_NUMBERS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148))  # mode, uid, gid, size, time


@dataclass(frozen=True, slots=True)
class Entry:
    """A member's header. `kind` is tar's letter: 0 file, 1 hard link, 2 symlink, 5 directory."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: str


class Reader:
    """Bytes of a stream in the amounts that are wanted."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._rest = b""

    async def exactly(self, size: int) -> bytes:
        """That many bytes. :raise Upstream: there are not so many."""
        parts = b""
        while len(parts) < size:
            parts += await self.some(size - len(parts))
        return parts

    async def some(self, most: int) -> bytes:
        """One byte at least. :raise Upstream: there is none."""
        if not self._rest:
            self._rest = await anext(self._source, b"")
        if not self._rest:
            raise Upstream("the guest's archive ended early")
        piece, self._rest = self._rest[:most], self._rest[most:]
        return piece


class Archive:
    """The members of a stream, one after the other."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._reader = Reader(source)
        self._left = 0  # bytes of the present member's content, with its padding
        self._padding = 0

    async def next(self) -> Entry | None:
        """The next member; None at the end. What was not read of the one before is passed over."""
        async for _ in self.content():
            pass
        told: dict[str, str] = {}
        while True:
            block = await self._reader.exactly(_BLOCK)
            if not any(block):
                return None
            entry = _parse(block)
            if entry.kind != "x":
                break
            told |= _pax(await self._whole(entry.size))
        entry = _corrected(entry, told)
        self._left = entry.size if entry.kind == "0" else 0
        self._padding = -self._left % _BLOCK
        return entry

    async def content(self) -> AsyncIterator[bytes]:
        """What is left of the present member's bytes."""
        while self._left:
            piece = await self._reader.some(self._left)
            self._left -= len(piece)
            yield piece
        if self._padding:
            padding, self._padding = self._padding, 0
            await self._reader.exactly(padding)

    async def _whole(self, size: int) -> bytes:
        if size > _LONGEST_PAX:
            raise Upstream("the guest's archive has too long a header")
        return (await self._reader.exactly(size + -size % _BLOCK))[:size]


def _parse(block: bytes) -> Entry:
    """:raise Upstream: it is no header."""
    try:
        mode, uid, gid, size, mtime = (int(block[start:end].strip(b"\0 ") or b"0", 8) for start, end in _NUMBERS)
    except ValueError as error:
        raise Upstream("the guest's archive cannot be read") from error
    return Entry(_text(block[:100]), chr(block[156]), mode, uid, gid, size, mtime, _text(block[157:257]))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records of a pax header. :raise Upstream: it is none."""
    found = {}
    while data:
        length, space, rest = data.partition(b" ")
        if not space or not length.isdigit() or not len(length) + 1 < int(length) <= len(data):
            raise Upstream("the guest's archive cannot be read")
        record = rest[: int(length) - len(length) - 1]
        key, _, value = record.removesuffix(b"\n").partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return found


def _corrected(entry: Entry, told: dict[str, str]) -> Entry:
    """The entry with what its pax header says."""
    try:
        return replace(
            entry, name=told.get("path", entry.name), link=told.get("linkpath", entry.link),
            size=int(told.get("size", entry.size)), uid=int(told.get("uid", entry.uid)),
            gid=int(told.get("gid", entry.gid)),
        )  # fmt: skip
    except ValueError as error:
        raise Upstream("the guest's archive cannot be read") from error
