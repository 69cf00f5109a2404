"""Volumes of this host: files that storage keeps, and the machines that have them plugged in.

They are copied out of a machine while it runs, or file by file while nobody can start with them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from polyvisor.model.appliance import Appliance
from polyvisor.model.faults import Unavailable
from polyvisor.model.host import Disk, Sight
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Pool
from polyvisor.ports.hypervisor import LiveVm
from polyvisor.ports.images import Images
from polyvisor.ports.storage import Storage
from polyvisor.ports.volumes import VolumeFiles


class LocalVolumes:
    """See ports.volumes.HostVolumes."""

    def __init__(self, storage: Storage, images: Images, vms: Mapping[InstanceId, LiveVm]) -> None:
        self._storage = storage
        self._images = images
        self._vms = vms
        self._busy: Counter[str] = Counter()  # volumes that are being copied
        self._starting: Counter[str] = Counter()  # those of machines that are being started
        self._change = asyncio.Condition()
        self._lone: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def copy(self, pairs: Sequence[tuple[Disk, Disk]], holder: InstanceId | None) -> None:
        """See HostVolumes."""
        async with self._resting(Counter(source.volume for source, _ in pairs)):
            vm = self._vms.get(holder) if holder else None
            if vm is not None and await vm.status() in (Sight.RUNNING, Sight.PAUSED):
                for _, target in pairs:
                    await self._storage.create_blank(target)
                files = [(self._storage.volume(source), self._storage.volume(target)) for source, target in pairs]
                await vm.backup(files)
            else:
                for source, target in pairs:
                    await self._storage.copy_volume(source, target)

    @asynccontextmanager
    async def files(self, disk: Disk) -> AsyncIterator[VolumeFiles]:
        """See HostVolumes."""
        async with self._lone.setdefault(disk.volume, asyncio.Lock()), self._resting(Counter([disk.volume])):
            yield self._storage.volume_files(disk)

    @asynccontextmanager
    async def _resting(self, volumes: Counter[str]) -> AsyncIterator[None]:
        """No machine is started with these meanwhile."""
        async with self._change:
            await self._change.wait_for(lambda: not volumes.keys() & self._starting.keys())
            self._busy += volumes
        try:
            yield
        finally:
            await self._less(self._busy, volumes)

    async def format_blank(self, disks: Iterable[Disk]) -> None:
        """Those that are to be mounted and that nothing was ever written to get a file system: else they cannot be."""
        for disk in disks:
            if disk.path and not disk.read_only:
                await self._storage.format_blank(disk)

    @asynccontextmanager
    async def starting(self, disks: Sequence[Disk]) -> AsyncIterator[None]:
        """A machine with these disks is started: not before they are copied, and none of them is copied meanwhile."""
        wanted = Counter(disk.volume for disk in disks if not disk.read_only)
        async with self._change:
            await self._change.wait_for(lambda: not wanted.keys() & self._busy.keys())
            self._starting += wanted
        try:
            await self.format_blank(disks)
            yield
        finally:
            await self._less(self._starting, wanted)

    async def _less(self, held: Counter[str], gone: Counter[str]) -> None:
        held -= gone
        async with self._change:
            self._change.notify_all()

    # -- files -------------------------------------------------------------------------------------------------------

    def pools(self) -> tuple[Pool, ...]:
        """See HostVolumes."""
        return self._storage.pools()

    async def create(self, disk: Disk, archive: Path | None = None) -> None:
        """See HostVolumes."""
        await self._storage.create_volume(disk, archive)

    async def create_blank(self, disk: Disk) -> None:
        """See HostVolumes."""
        await self._storage.create_blank(disk)

    async def receive(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """See HostVolumes."""
        await self._storage.receive_volume(disk, chunks, length)

    async def write(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """See HostVolumes."""
        return await self._storage.write_volume(disk, at, chunks)

    def read(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """See HostVolumes."""
        return self._storage.read_volume(disk, length)

    async def size_in(self, disk: Disk, length: int, at: int = 0) -> Bytes:
        """See HostVolumes."""
        return await self._images.disk_size(self._storage.volume(disk).path, length, at)

    async def unpack(self, source: Disk, length: int, target: Disk, at: int = 0) -> None:
        """See HostVolumes."""
        async with self._images.unpacked(self._storage.volume(source).path, length, at) as file:
            await self._storage.adopt_volume(target, file)

    async def appliance(self, disk: Disk, length: int) -> Appliance | None:
        """See HostVolumes."""
        return await self._images.appliance(self._storage.volume(disk).path, length)

    @asynccontextmanager
    async def packed(
        self, disks: Sequence[Disk], about: Appliance | None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See HostVolumes."""
        async with self._images.packed([self._storage.volume(disk).path for disk in disks], about) as file:
            yield file.stat().st_size, _pieces(file)

    def used(self, disk: Disk) -> Bytes:
        """See HostVolumes."""
        return self._storage.volume_used(disk)

    async def remove(self, volume: str, pool: str = "") -> None:
        """See HostVolumes."""
        await self._storage.remove_volume(volume, pool)

    async def resize(self, disk: Disk, holder: InstanceId | None) -> None:
        """See HostVolumes."""
        vm = self._vms.get(holder) if holder else None
        await self._storage.resize_volume(disk)
        if vm is not None:
            await vm.grow(disk.serial, disk.size)
            with contextlib.suppress(Unavailable):
                await (await vm.guest()).grow(disk.serial)


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """What is in a file."""
    with path.open("rb") as file:
        while data := await asyncio.to_thread(file.read, MIB):
            yield data
