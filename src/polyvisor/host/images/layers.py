"""Layer tars, in and out: hostile headers to `Member`s, and a tree to one sanitised tar.

Reading is by CPython's `tarfile` on an uncompressed file, behind a guard: it would read a header of any declared
size into memory, follow a size below zero backwards for ever, and recurse on chained headers.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from polyvisor.host.images.flatten import Kind, Member, Tree, refuse
from polyvisor.model.faults import Invalid
from polyvisor.model.units import MIB

_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARDLINK,
    tarfile.FIFOTYPE: Kind.FIFO,
}
_REFUSED = {tarfile.CHRTYPE: "is a device node", tarfile.BLKTYPE: "is a device node"}
_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.HARDLINK: tarfile.LNKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}
_XATTR = "SCHILY.xattr."
_LARGEST_ID = 2**32 - 2  # the last one means "nobody said"
_CHUNK = MIB
_CHAIN = 2 * MIB
_SHARED = 64 * 1024


class _Guarded(io.FileIO):
    """Header reads only: none of more than a MiB, and of the headers chained before one member not many."""

    since = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MIB or self.since > _CHAIN:
            raise Invalid("image: a layer has a header of absurd size", field="image")
        data = super().read(size) or b""
        self.since += len(data)
        return data


def headers(path: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of an uncompressed tar, one by one. :raise Invalid: when it cannot be trusted to end."""
    with _Guarded(path, "r") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                yield from _forwards(tar, file)
        except (tarfile.TarError, ValueError, OverflowError, RecursionError, KeyError, EOFError) as exc:
            raise Invalid("image: not a readable tar", field="image") from exc


def _forwards(tar: tarfile.TarFile, file: _Guarded) -> Iterator[tarfile.TarInfo]:
    last = -1
    while (info := tar.next()) is not None:
        file.since = 0
        if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > _SHARED:
            raise refuse(info.name, "comes after too many global headers")  # they pile up for the whole archive
        tar.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
        if info.offset <= last or info.size < 0 or info.offset_data < info.offset:
            raise refuse(info.name, "has a header that points backwards")
        last = info.offset
        yield info


def members(path: Path, layer: int) -> Iterator[Member]:
    """The entries of one uncompressed layer. :raise Invalid: naming the member that cannot be had."""
    length = path.stat().st_size
    for info in headers(path):
        member = _member(info, layer)
        if member.kind is Kind.FILE and member.offset + member.size > length:
            raise refuse(info.name, "is cut short")
        yield member


def _member(info: tarfile.TarInfo, layer: int) -> Member:
    if info.type in _REFUSED:
        raise refuse(info.name, _REFUSED[info.type])
    kind = _KINDS.get(info.type)
    if kind is None or info.issparse():
        raise refuse(info.name, "is of a type that no image needs")
    if not (0 <= info.uid <= _LARGEST_ID and 0 <= info.gid <= _LARGEST_ID):
        raise refuse(info.name, "has an owner out of range")
    return Member(
        name=info.name,
        kind=kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime=_mtime(info),
        size=info.size if kind is Kind.FILE else 0,
        link=info.linkname,
        xattrs=_xattrs(info),
        layer=layer,
        offset=info.offset_data,
    )


def _mtime(info: tarfile.TarInfo) -> int:
    try:
        return min(max(int(info.mtime), 0), 2**32 - 1)
    except (ValueError, OverflowError):  # nan, inf
        raise refuse(info.name, "has no sane time") from None


def _xattrs(info: tarfile.TarInfo) -> tuple[tuple[str, str], ...]:
    """File capabilities and the user's own; labels of another machine's security modules mean nothing here."""
    named = ((k.removeprefix(_XATTR), v) for k, v in info.pax_headers.items() if k.startswith(_XATTR))
    kept = tuple(sorted((k, v) for k, v in named if k == "security.capability" or k.startswith("user.")))
    if sum(len(k) + len(v) for k, v in kept) > 65_536:
        raise refuse(info.name, "has too many extended attributes")
    return kept


def write_tar(tree: Tree, layers: Sequence[Path], out: BinaryIO) -> None:
    """The whole tree as one tar; file contents are copied straight from the layers."""
    files = [os.open(path, os.O_RDONLY) for path in layers]
    try:
        for path, member in tree.walk():
            out.write(_header(path, member))
            if member.kind is Kind.FILE:
                _copy(files[member.layer], member, out)
        out.write(bytes(2 * tarfile.BLOCKSIZE))
    finally:
        for file in files:
            os.close(file)


def _header(path: str, member: Member) -> bytes:
    info = tarfile.TarInfo(path)
    info.type = _TYPES[member.kind]
    info.mode, info.uid, info.gid = member.mode, member.uid, member.gid
    info.mtime, info.size = member.mtime, member.size
    info.linkname = member.link if member.kind in (Kind.SYMLINK, Kind.HARDLINK) else ""
    info.pax_headers = {_XATTR + key: value for key, value in member.xattrs}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _copy(source: int, member: Member, out: BinaryIO) -> None:
    offset, left = member.offset, member.size
    while left:
        data = os.pread(source, min(left, _CHUNK), offset)
        if not data:
            raise refuse(member.name, "is cut short")
        out.write(data)
        offset, left = offset + len(data), left - len(data)
    out.write(bytes(-member.size % tarfile.BLOCKSIZE))
