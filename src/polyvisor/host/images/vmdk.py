"""A strict reader of VMDK headers: the one form of it that is a single file, as appliances have it.

Refused is everything that makes a reader open a second file. Read from VMware's "Virtual Disk Format 1.1".
"""

from __future__ import annotations

import re
import struct

from polyvisor.host.images.bounds import Bounds
from polyvisor.model.faults import Invalid
from polyvisor.model.units import Bytes

MAGIC = b"KDMV"
WINDOW = 1024 * 1024
_SECTOR = 512
_HEADER = struct.Struct("<4sIIQQQQIQQQ?4sH")
_LARGEST_DESCRIPTOR = 40  # sectors
_TYPES = frozenset({"streamOptimized", "monolithicSparse"})
_LINE = re.compile(r'\s*([A-Za-z0-9_.]+)\s*=\s*"?([^"]*)"?\s*')
_EXTENT = re.compile(r"\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z]+)\b.*")


def _no(why: str) -> Invalid:
    return Invalid(f"file: the VMDK {why}", field="file")


def inspect(head: bytes, length: int, bounds: Bounds) -> Bytes:
    """The size of the disk in a file of `length` bytes that starts with `head` (all of it, or `WINDOW` bytes).

    :raise Invalid: it is damaged, needs another file, or asks for more than `bounds`.
    """
    if len(head) < _SECTOR or head[:4] != MAGIC:
        raise _no("has no header")
    _, version, _, capacity, grain, at, sectors, entries, *_ = _HEADER.unpack_from(head)
    if version not in (1, 2, 3):
        raise _no(f"is of version {version}")
    size = capacity * _SECTOR
    if not 0 < size <= bounds.disk:
        raise _no(f"is a disk of {size} bytes; allowed are 1 to {bounds.disk}")
    if grain not in (8, 16, 32, 64, 128, 256, 512, 1024) or not 0 < entries <= 4096:
        raise _no("has tables of absurd size")
    if not 0 < sectors <= _LARGEST_DESCRIPTOR or not 0 < at < WINDOW // _SECTOR - sectors:
        raise _no("has no descriptor in it")
    _check_descriptor(head[at * _SECTOR : (at + sectors) * _SECTOR].rstrip(b"\0"))
    return Bytes(size)


def _check_descriptor(text: bytes) -> None:
    facts: dict[str, str] = {}
    extents = []
    for line in text.decode("utf-8", "replace").splitlines():
        if match := _EXTENT.fullmatch(line):
            extents.append(match[3])
        elif match := _LINE.fullmatch(line):
            facts[match[1].lower()] = match[2]
    if facts.get("createtype") not in _TYPES:
        raise _no(f"is of type {facts.get('createtype', 'unknown')[:40]!r}; only single files are taken")
    if "parentfilenamehint" in facts or facts.get("parentcid", "ffffffff").lower() != "ffffffff":
        raise _no("stands on another disk")
    if extents != ["SPARSE"]:
        raise _no("is of several files")
