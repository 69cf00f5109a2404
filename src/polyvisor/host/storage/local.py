"""A Storage in the data directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import replace
from pathlib import Path

from polyvisor.host.durable import full
from polyvisor.host.paths import Paths
from polyvisor.host.storage.archives import unpack
from polyvisor.host.storage.blanks import Blanks, format_ext4
from polyvisor.host.storage.ext4 import Ext4
from polyvisor.host.storage.layers import Layers
from polyvisor.host.storage.media import Media
from polyvisor.host.storage.overlays import Overlays
from polyvisor.host.storage.records import Base, Records
from polyvisor.model.faults import Internal, Invalid, NoCapacity
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import MIN_DISK, Shape
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Pool
from polyvisor.ports.hypervisor import DiskFile
from polyvisor.ports.storage import Moment, Switch

RESERVE = Bytes(64 * MIB)  # kept free, so that logs and the store can still be written


class FileStorage:
    """A Storage in the data directory."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._blanks = Blanks(paths)
        self._media = Media(paths)
        self._overlays = Overlays()
        self._records = Records(paths)
        self._layers = Layers(paths, self._records, self._overlays, self._need_room)

    def on_point(self, hook: Callable[[str], None]) -> None:
        """Be told, by name, of each point where being killed would leave something else behind."""
        self._layers.hook = hook

    # -- disks of instances --------------------------------------------------------------------------------------

    async def make(self, blueprint: Blueprint, image: Path, origin: str = "") -> None:
        """See Storage. The record comes before the disk: one without a record stands on the image or a blank."""
        self._paths.instance(blueprint.id).mkdir(mode=0o700, exist_ok=True)
        if blueprint.spec.blank or self.is_made(blueprint.id):
            return
        self._need_room()
        if origin:
            await self._layers.fork(blueprint, self._base(blueprint, image), origin)
            self._layers.hook("forked")
        elif blueprint.spec.shape is Shape.MICRO:
            await self._blanks.make(blueprint.spec.disk, _overlays(blueprint))
        own = self._own(blueprint, image)
        assert own.backing is not None
        await self._overlays.make(own.path, own.backing, blueprint.spec.disk)

    def _base(self, blueprint: Blueprint, image: Path) -> Base:
        """What the disk of a new instance stands on."""
        if blueprint.spec.shape is Shape.FULL:
            return Base(image, "qcow2", blueprint.spec.image)
        return Base(self._blanks.path(blueprint.spec.disk, _overlays(blueprint)), "raw", blueprint.spec.image)

    def _own(self, blueprint: Blueprint, image: Path) -> DiskFile:
        """The writable disk, with all below it."""
        now = self._records.writable(blueprint.id)
        back = self._records.disk(now.layer) if now.layer else self._base(blueprint, image).disk()
        boot = blueprint.spec.shape is Shape.FULL
        path = self._paths.disk(blueprint.id, now.generation)
        serial = "pvdisk" if boot else "pvdata"
        return DiskFile(path, "qcow2", serial, backing=back, boot=boot, generation=now.generation)

    def is_made(self, id: InstanceId) -> bool:
        """See Storage."""
        return self._paths.disk(id, self._records.writable(id).generation).exists()

    async def remove(self, id: InstanceId) -> None:
        """See Storage."""
        layered = self._paths.disk_record(id).exists()
        await asyncio.to_thread(shutil.rmtree, self._paths.instance(id), True)
        if layered:
            await self._layers.collect()

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """See Storage."""
        volumes = tuple(self.volume(disk) for disk in blueprint.disks)
        if blueprint.spec.blank:
            return tuple(replace(disk, boot=True) for disk in volumes)
        own = self._own(blueprint, image)
        if blueprint.spec.shape is Shape.FULL:
            return (own, *volumes)
        return (DiskFile(image, "raw", "pvroot", read_only=True), own, *volumes)

    # -- snapshots -----------------------------------------------------------------------------------------------

    async def snapshot(
        self, blueprint: Blueprint, image: Path, snapshot: str, switch: Switch | None, moment: Moment | None = None
    ) -> None:
        """See Storage. A machine is first made to write where its record says: an earlier call may have been cut. Where
        it had been switched for that, the disk is of that call's moment, so a `moment` always has a layer of its own.
        """

        async def turn(*, ahead: bool = False) -> None:
            if switch is not None:
                await switch(self._own(blueprint, image), ahead=ahead)

        await turn()
        await self._layers.cut(blueprint, self._base(blueprint, image), snapshot, anew=moment is not None)
        if moment is None:
            await turn()
        else:
            await turn(ahead=True)
            await moment(turn)
        self._layers.hook("switched")
        await self._layers.seal(blueprint.id, snapshot)

    async def revert(self, blueprint: Blueprint, image: Path, snapshot: str) -> None:
        """See Storage."""
        await self._layers.revert(blueprint, self._base(blueprint, image), snapshot)

    async def remove_snapshot(self, snapshot: str) -> None:
        """See Storage."""
        await self._layers.forget(snapshot)

    async def snapshot_size(self, snapshot: str) -> Bytes:
        """See Storage."""
        return self._layers.size(snapshot)

    async def compact(self) -> None:
        """See Storage."""
        await self._layers.compact()

    # -- volumes -------------------------------------------------------------------------------------------------

    def volume(self, disk: Disk) -> DiskFile:
        """See Storage."""
        path = self._paths.volume(disk.volume, disk.pool)
        return DiskFile(path, "raw", disk.serial, disk.read_only, removable=True, bus=disk.bus)

    def pools(self) -> tuple[Pool, ...]:
        """See Storage."""
        return self._media.pools()

    async def create_blank(self, disk: Disk) -> None:
        """See Storage."""
        await self._media.blank(disk)

    async def write_volume(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """See Storage."""
        return await self._media.put(disk, at, chunks)

    def read_volume(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """See Storage."""
        return self._media.read(disk, length)

    async def adopt_volume(self, disk: Disk, file: Path) -> None:
        """See Storage."""
        await self._media.adopt(disk, file)

    def volume_files(self, disk: Disk) -> Ext4:
        """See Storage."""
        return Ext4(self._paths.volume(disk.volume, disk.pool))

    def volume_used(self, disk: Disk) -> Bytes:
        """See Storage."""
        return self._media.used(disk)

    async def copy_volume(self, source: Disk, target: Disk) -> None:
        """See Storage."""
        await self._media.copy(source, target)

    async def receive_volume(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """See Storage."""
        await self._media.receive(disk, chunks, length)

    async def create_volume(self, disk: Disk, archive: Path | None = None) -> None:
        """See Storage."""
        path = self._paths.volume(disk.volume, disk.pool)
        if path.exists():
            return
        self._need_room()
        if archive is None:
            await format_ext4(path, disk.size)
        else:
            await self._filled(path, disk.size, archive)

    async def format_blank(self, disk: Disk) -> None:
        """See Storage."""
        path = self._paths.volume(disk.volume, disk.pool)
        with contextlib.suppress(FileNotFoundError):
            there = path.stat()
            if not there.st_blocks and there.st_size >= MIN_DISK:
                self._need_room()
                await format_ext4(path, there.st_size)

    async def _filled(self, path: Path, size: int, archive: Path) -> None:
        """Unpacked beside it, so that there is one disk to be full."""
        folder = path.with_suffix(".unpacked")
        try:
            folder.mkdir(mode=0o700)
            room = min(size, max(0, self.free() - RESERVE) // 2)  # it is there twice for a while
            await asyncio.to_thread(unpack, archive, folder, room)
            await format_ext4(path, size, folder)
        except OSError as error:
            raise full(error) from error
        except Internal as error:
            raise Invalid("archive: there is more in it than fits into the volume", field="archive") from error
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    async def remove_volume(self, volume: str, pool: str = "") -> None:
        """See Storage."""
        path = self._paths.volume(volume, pool)
        for file in (path, path.with_suffix(".part")):
            file.unlink(missing_ok=True)

    async def resize_volume(self, disk: Disk) -> None:
        """See Storage. Only the file grows: its file system is the guest's, who lets it grow."""
        path = self._paths.volume(disk.volume, disk.pool)
        if path.stat().st_size > disk.size:
            raise Invalid("size: a volume cannot be made smaller", field="size")
        try:
            await asyncio.to_thread(os.truncate, path, disk.size)
        except OSError as error:
            raise full(error) from error

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str], snapshots: Collection[str]) -> None:
        """See Storage."""
        here = list(self._paths.instances.iterdir())
        strange = [folder for folder in here if folder.name not in known]
        strange += [folder for folder in self._paths.snapshots.iterdir() if folder.name not in snapshots]
        for folder in strange:
            await asyncio.to_thread(shutil.rmtree, folder, True)
        folders = (self._paths.volumes, *(place.folder for place in self._paths.pools))
        for file in (file for folder in folders for file in folder.iterdir()):
            if file.suffix == ".unpacked":
                await asyncio.to_thread(shutil.rmtree, file, True)
            elif file.suffix != ".raw" or file.stem not in volumes:
                file.unlink(missing_ok=True)
        self._blanks.tidy()
        await self._layers.sweep([InstanceId(folder.name) for folder in here if folder.name in known])

    def free(self) -> Bytes:
        """See Storage."""
        usage = os.statvfs(self._paths.root)
        return Bytes(usage.f_bavail * usage.f_frsize)

    def _need_room(self, more: int = 0) -> None:
        if self.free() - more < RESERVE:
            raise NoCapacity("the host's disk is full")


def _overlays(blueprint: Blueprint) -> list[int]:
    """The sizes of the file systems that lie on its disk, above volumes that it only reads."""
    return [one.size for one in blueprint.spec.overlays]
