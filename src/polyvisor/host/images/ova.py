"""Appliances in one file: a plain tar of a descriptor and the disks that it names, and perhaps their digests (DSP0243).

Nothing is unpacked: of a disk is said where in the file it is. Names are keys here and never paths.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO

from polyvisor.host.images import ovf
from polyvisor.host.images.layers import headers
from polyvisor.host.images.xml import LARGEST
from polyvisor.model.appliance import Appliance, Part
from polyvisor.model.faults import Invalid
from polyvisor.model.units import MIB

_MOST = 256  # members
_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)
_LINE = re.compile(r"(SHA1|SHA256|SHA512) ?\(([^)\n]+)\) ?= ?([0-9a-fA-F]{40,128})\s*")


def _no(why: str) -> Invalid:
    return Invalid(f"file: {why}", field="file")


def is_tar(path: Path) -> bool:
    """Whether it says so."""
    with path.open("rb") as file:
        return file.read(512)[257:262] == b"ustar"


def read(path: Path, length: int) -> Appliance:
    """The appliance in the first `length` bytes of a tar. Blocking: the disks are read where digests of them are told.

    :raise Invalid: it is none, or damaged, or hostile. :raise Unsupported: it asks for what is not taken.
    """
    members = _members(path, length)
    first = next((name for name in members if name.lower().endswith(".ovf")), None)
    if first is None:
        raise _no("a tar without an OVF descriptor")
    found = ovf.read(_small(path, members[first], first))
    lacking = [name for name in found.files if name not in members]
    if lacking:
        raise _no(f"the disk {lacking[0][:80]!r} is not in the archive")
    manifest = first[: -len(".ovf")] + ".mf"
    if manifest in members:
        _check(path, members, _small(path, members[manifest], manifest))
    return replace(found.appliance, disks=tuple(members[name] for name in found.files))


def _members(path: Path, length: int) -> dict[str, Part]:
    found: dict[str, Part] = {}
    for info in islice(headers(path), _MOST + 1):
        name = info.name.removeprefix("./")
        if info.isdir() and name in ("", "."):
            continue
        if info.type not in _PLAIN or info.issparse():
            raise _no(f"{name[:80]!r} in the archive is not a plain file")
        if not name or "/" in name or "\\" in name or name in (".", "..") or not name.isprintable():
            raise _no(f"{name[:80]!r} in the archive is a path, not a name")
        if name in found:
            raise _no(f"{name[:80]!r} is in the archive twice")
        if info.offset_data + info.size > length:
            raise _no(f"{name[:80]!r} is cut off")
        found[name] = Part(info.offset_data, info.size)
    if len(found) > _MOST:
        raise _no(f"there are more than {_MOST} files in the archive")
    return found


def _small(path: Path, part: Part, name: str) -> bytes:
    if part.length > LARGEST:
        raise _no(f"{name[:80]!r} is larger than {LARGEST} bytes")
    with path.open("rb") as file:
        file.seek(part.at)
        return file.read(part.length)


def _check(path: Path, members: Mapping[str, Part], manifest: bytes) -> None:
    """What is told of the files is so. :raise Invalid:"""
    for line in manifest.decode("utf-8", "replace").splitlines():
        match = _LINE.fullmatch(line)
        if match is None or match[2] not in members:
            continue
        if _digest(path, members[match[2]], match[1].lower()) != match[3].lower():
            raise _no(f"{match[2][:80]!r} is not what the archive's manifest says it is")


def _digest(path: Path, part: Part, algorithm: str) -> str:
    seen, left = hashlib.new(algorithm, usedforsecurity=False), part.length
    with path.open("rb") as file:
        file.seek(part.at)
        while left and (data := file.read(min(MIB, left))):
            seen.update(data)
            left -= len(data)
    return seen.hexdigest()


def write(out: Path, appliance: Appliance, disks: Sequence[tuple[Path, int]]) -> None:
    """An archive of disks' images, each with what a guest sees of it in bytes. Blocking. :raise OSError: it is full."""
    images = [ovf.Image(f"disk{place}.vmdk", file.stat().st_size, size) for place, (file, size) in enumerate(disks)]
    text = ovf.write(appliance, images)
    told = [f"SHA256(vm.ovf)= {hashlib.sha256(text).hexdigest()}"]
    for image, (file, _) in zip(images, disks, strict=True):
        told.append(f"SHA256({image.name})= {_digest(file, Part(0, image.length), 'sha256')}")
    manifest = "".join(f"{line}\n" for line in told).encode()
    with out.open("wb") as archive:
        _member(archive, "vm.ovf", len(text))
        archive.write(text + bytes(-len(text) % 512))
        _member(archive, "vm.mf", len(manifest))
        archive.write(manifest + bytes(-len(manifest) % 512))
        for image, (file, _) in zip(images, disks, strict=True):
            _member(archive, image.name, image.length)
            with file.open("rb") as source:
                while data := source.read(MIB):
                    archive.write(data)
            archive.write(bytes(-image.length % 512))
        archive.write(bytes(1024))


def _member(archive: IO[bytes], name: str, length: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = length, 0o644
    archive.write(info.tobuf(tarfile.USTAR_FORMAT if length < 8**11 else tarfile.GNU_FORMAT))
