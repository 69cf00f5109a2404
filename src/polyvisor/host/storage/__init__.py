"""Disks as files: qcow2 overlays over shared images, raw volumes. A format is recorded, never probed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from polyvisor.host.paths import Paths
from polyvisor.host.run import run
from polyvisor.model.faults import Internal, Invalid, NoCapacity
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Shape
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import DiskFile

_LIMIT = 60.0
RESERVE = Bytes(64 * MIB)  # kept free, so that logs and the store can still be written


class FileStorage:
    """A Storage in the data directory."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._blanks = asyncio.Lock()

    async def make(self, blueprint: Blueprint, image: Path) -> None:
        """See Storage. The overlay is made under another name and renamed, so a crash leaves none half-made."""
        self._paths.instance(blueprint.id).mkdir(mode=0o700, exist_ok=True)
        disk = self._paths.disk(blueprint.id)
        if disk.exists():
            return
        self._need_room()
        back = await self._backing(blueprint, image)
        part = disk.with_suffix(".part")
        part.unlink(missing_ok=True)
        await self._qemu_img(
            ["create", "-q", "-u", "-f", "qcow2", "-F", back.format, "-b", os.path.relpath(back.path, disk.parent)],
            part, str(blueprint.spec.disk),
        )  # fmt: skip
        part.rename(disk)

    async def _qemu_img(self, words: list[str], target: Path, *more: str) -> None:
        try:
            await run(["qemu-img", *words, str(target), *more], timeout=_LIMIT)
        except Internal as error:
            target.unlink(missing_ok=True)
            if "No space left" in error.private:
                raise NoCapacity("the host's disk is full") from error
            raise

    async def _backing(self, blueprint: Blueprint, image: Path) -> DiskFile:
        if blueprint.spec.shape is Shape.FULL:
            return DiskFile(image, "qcow2", "", read_only=True)
        return DiskFile(await self._blank(blueprint.spec.disk), "raw", "", read_only=True)

    def _blank_path(self, size: int) -> Path:
        return self._paths.blanks / f"ext4-{size}.raw"

    async def _blank(self, size: int) -> Path:
        """An empty ext4 file system of that size, made once and shared by all overlays."""
        path = self._blank_path(size)
        async with self._blanks:
            if not path.exists():
                await self._format(path, size)
        return path

    async def _format(self, path: Path, size: int) -> None:
        """A sparse file with an empty ext4; hole punching leaves the inode tables zeroed, so no guest need do it."""
        part = path.with_suffix(".part")
        try:
            await asyncio.to_thread(_sparse, part, size)
            await run(
                [
                    "mke2fs",
                    "-q",
                    "-F",
                    "-t",
                    "ext4",
                    "-m",
                    "0",
                    "-E",
                    "lazy_itable_init=0,root_owner=0:0",
                    str(part),
                ],
                timeout=_LIMIT,
            )
        except (OSError, Internal) as error:
            part.unlink(missing_ok=True)
            raise _full(error) from error
        part.rename(path)

    async def remove(self, id: InstanceId) -> None:
        """See Storage."""
        await asyncio.to_thread(shutil.rmtree, self._paths.instance(id), True)

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """See Storage."""
        volumes = tuple(self.volume(disk) for disk in blueprint.disks)
        own = self._paths.disk(blueprint.id)
        if blueprint.spec.shape is Shape.FULL:
            back = DiskFile(image, "qcow2", "", read_only=True)
            return (DiskFile(own, "qcow2", "pvdisk", backing=back, boot=True), *volumes)
        back = DiskFile(self._blank_path(blueprint.spec.disk), "raw", "", read_only=True)
        root = DiskFile(image, "raw", "pvroot", read_only=True)
        return (root, DiskFile(own, "qcow2", "pvdata", backing=back), *volumes)

    def volume(self, disk: Disk) -> DiskFile:
        """See Storage."""
        return DiskFile(self._paths.volume(disk.volume), "raw", disk.serial, disk.read_only, removable=True)

    async def create_volume(self, disk: Disk) -> None:
        """See Storage."""
        path = self._paths.volume(disk.volume)
        if path.exists():
            return
        self._need_room()
        await self._format(path, disk.size)

    async def remove_volume(self, volume: str) -> None:
        """See Storage."""
        for path in (self._paths.volume(volume), self._paths.volume(volume).with_suffix(".part")):
            path.unlink(missing_ok=True)

    async def resize_volume(self, disk: Disk) -> None:
        """See Storage. Only the file grows: its file system is the guest's, we never read it."""
        path = self._paths.volume(disk.volume)
        if path.stat().st_size > disk.size:
            raise Invalid("size: a volume cannot be made smaller", field="size")
        try:
            await asyncio.to_thread(os.truncate, path, disk.size)
        except OSError as error:
            raise _full(error) from error

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str]) -> None:
        """See Storage."""
        for folder in self._paths.instances.iterdir():
            if folder.name not in known:
                await self.remove(InstanceId(folder.name))
        for file in self._paths.volumes.iterdir():
            if file.suffix != ".raw" or file.stem not in volumes:
                file.unlink(missing_ok=True)
        for file in self._paths.blanks.glob("*.part"):
            file.unlink(missing_ok=True)

    def free(self) -> Bytes:
        """See Storage."""
        usage = os.statvfs(self._paths.root)
        return Bytes(usage.f_bavail * usage.f_frsize)

    def _need_room(self) -> None:
        if self.free() < RESERVE:
            raise NoCapacity("the host's disk is full")


def _sparse(path: Path, size: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, size)
    finally:
        os.close(fd)


def _full(error: Exception) -> Exception:
    """The fault behind a failed write: a full disk is the host's lack of room, not our mistake."""
    words = getattr(error, "private", str(error))
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) or "No space left" in words:
        return NoCapacity("the host's disk is full, or the file would be too large for it", private=words)
    return error if isinstance(error, Internal) else Internal(private=words)
