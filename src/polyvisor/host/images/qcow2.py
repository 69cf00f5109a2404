"""A strict reader of qcow2 headers, so that no tool ever meets a header that we did not understand.

Refused is everything that makes a reader open a second file, decrypt, or allocate without measure. Read from
QEMU's `docs/interop/qcow2.txt`; the limits on tables are QEMU's own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from polyvisor.host.images.bounds import Bounds
from polyvisor.model.faults import Invalid
from polyvisor.model.units import MIB

MAGIC = b"QFI\xfb"
WINDOW = 2 * MIB
"""All that is inspected lies in the first cluster, which is no larger than this."""

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << n for n in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_EXTENSIONS_REFUSED = {
    0xE2792ACA: "names a backing format",
    0x44415441: "names an external data file",
    0x0537BE77: "is encrypted",
}
_MOST_EXTENSIONS = 64
_L1_BYTES = 32 * MIB
_REFCOUNT_BYTES = 8 * MIB


@dataclass(frozen=True, slots=True)
class Header:
    """What of a header was found good."""

    version: int
    virtual_size: int
    cluster_size: int
    snapshots: int


def _no(why: str) -> Invalid:
    return Invalid(f"image: the qcow2 file {why}", field="image")


def inspect(head: bytes, length: int, bounds: Bounds) -> Header:
    """The header of a file of `length` bytes that starts with `head` (all of it, or `WINDOW` bytes).

    :raise Invalid: it is damaged, needs another file, or asks for more than `bounds`.
    """
    if len(head) < _V2.size or head[:4] != MAGIC:
        raise _no("has no qcow2 header")
    (_, version, backing, backing_len, bits, size, crypt, l1, l1_at, ref_at, ref_n, snaps, snaps_at) = _V2.unpack_from(
        head
    )
    if version not in (2, 3):
        raise _no(f"is of version {version}; only 2 and 3 are understood")
    if backing or backing_len:
        raise _no("has a backing file")
    if crypt:
        raise _no("is encrypted")
    if not 9 <= bits <= 21:
        raise _no(f"has clusters of 2^{bits} bytes")
    if not 0 < size <= bounds.disk:
        raise _no(f"is a disk of {size} bytes; allowed are 1 to {bounds.disk}")
    bounds.check("the number of internal snapshots", snaps, bounds.snapshots)
    cluster = 1 << bits
    extended = _check_v3(head, cluster, length) if version == 3 else False
    if version == 2:
        _check_extensions(head, _V2.size, cluster)
    _check_l1(l1, size, cluster, extended)
    _check_table("L1 table", l1_at, l1 * 8, cluster, length)
    if not 0 < ref_n * cluster <= max(_REFCOUNT_BYTES, cluster):
        raise _no(f"has a reference count table of {ref_n} clusters")
    _check_table("reference count table", ref_at, ref_n * cluster, cluster, length)
    if snaps:
        _check_table("snapshot table", snaps_at, snaps * 40, cluster, length)
    return Header(version, size, cluster, snaps)


def _check_v3(head: bytes, cluster: int, length: int) -> bool:
    """Whether L2 entries are of the extended kind."""
    if len(head) < _V2.size + _V3.size:
        raise _no("is cut short")
    incompatible, _, _, refcount_order, header_length = _V3.unpack_from(head, _V2.size)
    if incompatible & _DATA_FILE:
        raise _no("has an external data file")
    if incompatible & _CORRUPT:
        raise _no("is marked as corrupt")
    if incompatible & ~_KNOWN:
        raise _no(f"needs features unknown here ({incompatible & ~_KNOWN:#x})")
    if refcount_order > 6:
        raise _no("has reference counts of absurd width")
    if header_length % 8 or not 104 <= header_length <= min(cluster, length, 4096):
        raise _no(f"has a header of {header_length} bytes")
    compression = head[104] if header_length > 104 and len(head) > 104 else 0
    if compression > 1 or bool(compression) != bool(incompatible & _COMPRESSION):
        raise _no("is compressed in an unknown way")
    _check_extensions(head, header_length, cluster)
    return bool(incompatible & _EXTENDED_L2)


def _check_extensions(head: bytes, start: int, cluster: int) -> None:
    for count, kind in enumerate(_extensions(head, start, min(cluster, len(head)))):
        if kind in _EXTENSIONS_REFUSED:
            raise _no(_EXTENSIONS_REFUSED[kind])
        if count >= _MOST_EXTENSIONS:
            raise _no("has too many header extensions")


def _extensions(head: bytes, at: int, end: int) -> Iterator[int]:
    while at + 8 <= end:
        kind, size = struct.unpack_from(">II", head, at)
        if kind == 0:
            return
        yield kind
        at += 8 + (size + 7) // 8 * 8
        if at > end:
            raise _no("has a header extension that does not fit")


def _check_l1(entries: int, size: int, cluster: int, extended: bool) -> None:
    per_table = cluster // (16 if extended else 8)
    needed = -(-size // (cluster * per_table))
    if not needed <= entries <= _L1_BYTES // 8:
        raise _no(f"has an L1 table of {entries} entries; its size needs {needed}")


def _check_table(name: str, at: int, size: int, cluster: int, length: int) -> None:
    if at % cluster or at < cluster or at + size > length:
        raise _no(f"has its {name} outside the file")
