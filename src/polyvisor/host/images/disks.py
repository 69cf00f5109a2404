"""Disk images into our own standalone qcow2: copied, inspected, then rewritten by qemu-img inside limits.

What is inspected is our copy, so it cannot change between the look and the use; and qemu-img is always told the
format, so nothing that a stranger wrote decides how his file is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.images import qcow2, vmdk
from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.room import full, says_full
from polyvisor.host.images.sniff import Form
from polyvisor.host.images.threads import in_thread
from polyvisor.host.run import Limits, run
from polyvisor.model.appliance import Part
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import Digest
from polyvisor.model.units import GIB, MIB
from polyvisor.ports.images import Progress

_CHUNK = MIB
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk taken in: `digest` is that of the file as it came, which is what its owner can check."""

    digest: Digest
    path: Path
    virtual_size: int


def take(source: Path, out: Path, bounds: Bounds, at: int = 0, length: int | None = None) -> Digest:
    """A private copy of a file, or of `length` bytes of it. Blocking.

    :raise Invalid: it is too large, or not a plain file.
    """
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    seen = hashlib.sha256()
    taken = 0
    zeros = bytes(_CHUNK)
    with os.fdopen(fd, "rb") as file, out.open("wb") as copy:
        file.seek(at)
        while data := file.read(_CHUNK if length is None else min(_CHUNK, length - taken)):
            taken += len(data)
            bounds.check("the size of the file", taken, bounds.content)
            seen.update(data)
            if data == zeros[: len(data)]:
                copy.seek(len(data), os.SEEK_CUR)
            else:
                copy.write(data)
        copy.truncate(taken)
    return Digest("sha256:" + seen.hexdigest())


def digest(path: Path) -> Digest:
    """Of the whole file. Blocking."""
    with path.open("rb") as file:
        return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())


def measure(path: Path, form: Form, bounds: Bounds) -> int:
    """What a guest would see of the disk. :raise Invalid: it is not one that we take."""
    length = path.stat().st_size
    if form is Form.RAW:
        if length % _SECTOR or not length:
            raise Invalid("image: a raw disk is a whole number of 512-byte sectors", field="image")
        bounds.check("the size of the disk", length, bounds.disk)
        return length
    with path.open("rb") as file:
        return qcow2.inspect(file.read(qcow2.WINDOW), length, bounds).virtual_size


def virtual_size(source: Path, length: int, form: Form, bounds: Bounds, at: int = 0) -> int:
    """What a guest would see of the disk in `length` bytes of somebody's file, from `at` on: whole sectors.

    Blocking. :raise Invalid: it is damaged, or one that we do not take.
    """
    with source.open("rb") as file:
        file.seek(at)
        if form is Form.QCOW2:
            size = qcow2.inspect(file.read(min(length, qcow2.WINDOW)), length, bounds).virtual_size
        elif form is Form.VMDK:
            size = vmdk.inspect(file.read(min(length, vmdk.WINDOW)), length, bounds)
        else:
            size = length
    bounds.check("the size of the disk", size, bounds.disk)
    return -(-size // _SECTOR) * _SECTOR


async def unpack(source: Path, part: Part, form: Form, work: Path, bounds: Bounds, *, uid: int | None) -> Path:
    """The disk in a part of somebody's file, as it stands, in a file in `work`. As `convert`."""
    inside, out, length = work / "in", work / "out", part.length
    await in_thread(take, source, inside, bounds, part.at, length)
    if inside.stat().st_size < length:
        raise Invalid("file: the disk is cut off", field="file")
    size = await in_thread(virtual_size, inside, length, form, bounds)
    if form is Form.RAW:
        await in_thread(os.truncate, inside, size)
        return inside
    if uid is not None:
        os.chown(work, uid, uid)
        os.chown(inside, uid, uid)
    argv = ["qemu-img", "convert", "-f", form.value, "-O", "raw", "in", "out"]
    limits = Limits(cpu_seconds=1800, address_space=4 * GIB, file_size=size + MIB, no_network=True, uid=uid)
    await _rewritten(argv, work, limits)
    _reclaim(work, out)
    if out.stat().st_size < size:
        raise Invalid("file: the disk came out smaller than it says", field="file")
    await in_thread(os.truncate, out, size)
    return out


async def pack(disk: Path, form: Form, work: Path, name: str) -> Path:
    """A disk of ours, as it stands, as an image `name` in `work`: a qcow2, or a VMDK as appliances have it."""
    out = work / name
    size = disk.stat().st_size
    options = ["-o", "subformat=streamOptimized"] if form is Form.VMDK else ["-o", "compat=1.1"]
    argv = ["qemu-img", "convert", "-f", "raw", "-O", form.value, *options, str(disk), name]
    limits = Limits(cpu_seconds=3600, address_space=4 * GIB, file_size=size + size // 32 + 16 * MIB, no_network=True)
    await _rewritten(argv, work, limits)
    return out


async def _rewritten(argv: list[str], work: Path, limits: Limits) -> None:
    """:raise Invalid: the tool could not make it. :raise NoCapacity:"""
    done = await run(argv, cwd=work, timeout=3600, limits=limits, check=False)
    if done.code:
        said = done.err.decode("utf-8", "replace")[-400:]
        if says_full(said):
            raise full(said)
        raise Invalid("image: the disk's tables are damaged, or it unpacks to too much", field="image", private=said)


async def convert(source: Path, form: Form, work: Path, bounds: Bounds, progress: Progress, *, uid: int | None) -> Disk:
    """The file as a qcow2 of ours in `work`. Run as `uid`, relative to `work`, so that it can reach nothing else."""
    progress("copying the disk", None)
    found = await in_thread(take, source, work / "in", bounds)
    size = measure(work / "in", form, bounds)
    progress("rewriting the disk", None)
    if uid is not None:
        os.chown(work, uid, uid)
        os.chown(work / "in", uid, uid)
    options = "compat=1.1,cluster_size=65536,lazy_refcounts=off"
    argv = ["qemu-img", "convert", "-f", form.value, "-O", "qcow2", "-o", options, "in", "out"]
    limits = Limits(cpu_seconds=1800, address_space=4 * GIB, file_size=bounds.content + GIB, no_network=True, uid=uid)
    await _rewritten(argv, work, limits)
    out = work / "out"
    _reclaim(work, out)
    ours = measure(out, Form.QCOW2, bounds)
    if ours < size:
        raise Invalid("image: the disk came out smaller than it says", field="image")
    return Disk(found, out, ours)


def _reclaim(work: Path, out: Path) -> None:
    """What the tool left is ours again, if it is a plain file: it may have been turned against us.

    :raise Invalid: it is something else.
    """
    os.chown(work, os.geteuid(), os.getegid())  # from here on nothing in it can be exchanged
    try:
        fd = os.open(out, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Invalid("image: the disk could not be rewritten", field="image", private=str(error)) from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise Invalid("image: the disk could not be rewritten", field="image", private=f"{found}")
        os.fchown(fd, os.geteuid(), os.getegid())
    finally:
        os.close(fd)
