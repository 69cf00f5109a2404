"""What a picture of a screen holds: PNG, read with what Python has."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Picture:
    """Eight bits a channel, three or four channels a pixel."""

    width: int
    height: int
    pixels: bytes

    def lit(self) -> int:
        """How many pixels are not black."""
        return sum(any(self.pixels[at : at + 3]) for at in range(0, len(self.pixels), 3))

    def bars(self) -> list[int]:
        """The heights of what is lit over most of the width, from the top: a menu is a thin, a thick and a thin one."""
        found: list[int] = []
        row, before = self.width * 3, False
        for at in range(0, len(self.pixels), row):
            bar = Picture(self.width, 1, self.pixels[at : at + row]).lit() > self.width * 0.8
            if bar and before:
                found[-1] += 1
            elif bar:
                found.append(1)
            before = bar
        return found


def keep(name: str, png: bytes) -> None:
    """Put it where people look for what tests have seen: `artifacts/`, below the checkout."""
    folder = Path(__file__).parents[2] / "artifacts"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(png)


def picture(png: bytes) -> Picture:
    """The pixels of a PNG as QEMU writes them: RGB, not interlaced."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n"), png[:20]
    at, data, head = 8, b"", b""
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        body = png[at + 8 : at + 8 + length]
        head = body if kind == b"IHDR" else head
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    assert (depth, colours, interlaced) == (8, 2, 0)
    return Picture(width, height, _unfiltered(zlib.decompress(data), width * 3, height))


def _unfiltered(raw: bytes, row: int, height: int) -> bytes:
    """Each row says how it is told by the pixel to its left and by the row above."""
    found, above = bytearray(), bytearray(row)
    for y in range(height):
        kind, line = raw[y * (row + 1)], bytearray(raw[y * (row + 1) + 1 : (y + 1) * (row + 1)])
        if kind == 2 and not any(line):
            line = bytearray(above)
        elif kind:
            for x in range(row):
                left = line[x - 3] if x >= 3 else 0
                corner = above[x - 3] if x >= 3 else 0
                line[x] = (line[x] + _told(kind, left, above[x], corner)) & 255
        found += line
        above = line
    return bytes(found)


def _told(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 4:  # Paeth
        guess = left + up - corner
        return min((left, up, corner), key=lambda near: abs(guess - near))
    return {1: left, 2: up, 3: (left + up) // 2}[kind]
