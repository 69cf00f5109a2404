"""What kind of file an import is, told from a few bytes at fixed places by us, never by a disk tool's probing."""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from itertools import islice
from pathlib import Path

from polyvisor.host.images import qcow2, vmdk
from polyvisor.host.images.layers import headers
from polyvisor.model.faults import Invalid, NotFound, Unsupported

_SECTOR = 512
_MOST_HEADERS = 20_000


class Form(StrEnum):
    """The forms that can be imported; `gzip` is unpacked and looked at again."""

    DOCKER_TAR = "docker-archive"
    OCI_TAR = "oci-archive"
    OCI_DIR = "oci"
    QCOW2 = "qcow2"
    RAW = "raw"
    VMDK = "vmdk"  # only as what is in a volume
    GZIP = "gzip"


_OTHERS = (
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"QED\0", "QED"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"BZh", "bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
    (0x8001, b"CD001", "ISO 9660"),
)


def sniff(path: Path) -> Form:
    """The form of the file or directory at `path`, which must not be a symlink.

    :raise Invalid: it is none that can be imported. :raise Unsupported: a known one that is not taken.
    """
    try:
        mode = path.lstat().st_mode
    except OSError as exc:
        raise NotFound(f"there is no file {path.name!r} to import") from exc
    if stat.S_ISDIR(mode):
        _check_layout(path)
        return Form.OCI_DIR
    if not stat.S_ISREG(mode):
        raise Invalid("image: not a regular file", field="image")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        head = file.read(0x8001 + 8)
        file.seek(max(0, path.stat().st_size - _SECTOR))
        tail = file.read(_SECTOR)
    return _form(path, head, tail)


def sniff_disk(path: Path, at: int = 0) -> Form:
    """The form of the disk that somebody's file is from `at` on; what says nothing of itself is a disk as it stands.

    :raise Unsupported: a known form that is not taken.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as file:
        file.seek(at)
        head = file.read(512)
    if head.startswith(qcow2.MAGIC):
        return Form.QCOW2
    if head.startswith(vmdk.MAGIC):
        return Form.VMDK
    for place, magic, name in _OTHERS:
        if head[place : place + len(magic)] == magic and place + len(magic) <= len(head):
            raise Unsupported(f"file: {name} is not taken; convert it to qcow2 or raw", field="file")
    return Form.RAW


def _form(path: Path, head: bytes, tail: bytes) -> Form:
    if head.startswith(qcow2.MAGIC):
        return Form.QCOW2
    if head.startswith(b"\x1f\x8b"):
        return Form.GZIP
    for at, magic, name in _OTHERS:
        if head[at : at + len(magic)] == magic:
            raise Unsupported(f"image: {name} files are not taken; convert it to qcow2 or raw", field="image")
    if tail.startswith(b"conectix"):
        raise Unsupported("image: VHD files are not taken; convert it to qcow2 or raw", field="image")
    if head[257:262] == b"ustar":
        return _tar(path)
    if head[510:512] == b"\x55\xaa" or head[512:520] == b"EFI PART":
        return Form.RAW
    raise Invalid(
        "image: neither a docker or OCI archive nor a qcow2 or a raw disk with a partition table",
        field="image",
    )


def _tar(path: Path) -> Form:
    docker = False
    for info in islice(headers(path), _MOST_HEADERS):
        name = info.name.removeprefix("./")
        if name == "oci-layout":
            return Form.OCI_TAR
        docker = docker or name == "manifest.json"
    if docker:
        return Form.DOCKER_TAR
    raise Invalid("image: a tar, but neither of docker save nor an OCI layout", field="image")


def _check_layout(path: Path) -> None:
    """Only directories and regular files: a symlinked blob would have a tool read some other file."""
    if not (path / "oci-layout").is_file():
        raise Invalid("image: a directory, but not an OCI layout", field="image")
    for at, directories, files in os.walk(path):
        for name in directories + files:
            mode = (Path(at) / name).lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise Invalid(f"image: the layout has {name[:80]!r}, which is not a file", field="image")
