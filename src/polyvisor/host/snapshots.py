"""What an instance was at a moment: its disk, and where asked its memory, of that same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.durable import full
from polyvisor.host.flush import flush
from polyvisor.host.memory import MemoryFiles
from polyvisor.host.paths import NVRAM, Paths
from polyvisor.host.sparse import copy_sparse
from polyvisor.model.compression import Packed, Packing
from polyvisor.model.faults import NotFound, Unavailable, WrongState
from polyvisor.model.host import Blueprint, Sight
from polyvisor.model.ids import InstanceId, SnapshotId
from polyvisor.model.spec import Shape
from polyvisor.model.units import Bytes
from polyvisor.ports.hypervisor import LiveVm
from polyvisor.ports.storage import Storage


@dataclass(frozen=True, slots=True)
class Taking:
    """What is kept, for how long, whether the machine runs afterwards, and what becomes of the memory's image then."""

    memory: bool
    keep: bool
    go_on: bool
    packing: Packing


class Snapshots:
    """Of the machines in `vms` and of those that have no process."""

    def __init__(self, paths: Paths, storage: Storage, memory: MemoryFiles, vms: Mapping[InstanceId, LiveVm]) -> None:
        self._paths = paths
        self._storage = storage
        self._memory = memory
        self._vms = vms

    async def take(self, blueprint: Blueprint, image: Path, snapshot: SnapshotId, how: Taking) -> Bytes:
        """See Host. The disk's part is written last: where it is, all is."""
        if not await self._is_there(snapshot, how.memory):
            await self._storage.remove_snapshot(snapshot)
            if how.memory:
                await self._with_memory(blueprint, image, snapshot, how)
            else:
                await self._disk(blueprint, image, snapshot)
        if how.memory and how.keep:
            await self._memory.flush(snapshot)
            self._memory.pack_soon(snapshot)
        return await self._size(snapshot, how.memory)

    async def _size(self, snapshot: SnapshotId, memory: bool) -> Bytes:
        size = await self._storage.snapshot_size(snapshot)
        return Bytes(size + self._memory.size(snapshot) if memory else size)

    async def packed(self, snapshot: SnapshotId) -> tuple[Packed, Bytes]:
        """See Host."""
        return self._memory.packed(snapshot), await self._size(snapshot, self._memory.has(snapshot))

    async def _is_there(self, snapshot: SnapshotId, memory: bool) -> bool:
        try:
            await self._storage.snapshot_size(snapshot)
        except NotFound:
            return False
        return not memory or self._memory.has(snapshot)

    async def _disk(self, blueprint: Blueprint, image: Path, snapshot: SnapshotId) -> None:
        """A machine that has powered off still has its disk open, so it is switched as well."""
        vm, sight = await self.seen(blueprint.id)
        if vm is not None and sight is Sight.RUNNING:
            await flush(vm)
        await self._cut(blueprint, image, snapshot, vm)

    async def _cut(self, blueprint: Blueprint, image: Path, snapshot: SnapshotId, vm: LiveVm | None) -> None:
        await asyncio.to_thread(self._keep_nvram, blueprint.id, snapshot)
        await self._storage.snapshot(blueprint, image, snapshot, vm.switch if vm is not None else None)

    async def _with_memory(self, blueprint: Blueprint, image: Path, snapshot: SnapshotId, how: Taking) -> None:
        vm, sight = await self.seen(blueprint.id)
        if vm is None:
            await self._memory.copy_saved(blueprint, snapshot, how.packing)
            await self._cut(blueprint, image, snapshot, None)
            return
        if sight not in (Sight.RUNNING, Sight.PAUSED):
            raise WrongState("the machine has ended, so there is no memory to keep")

        async def moment(disk: Callable[[], Awaitable[None]]) -> None:
            async def cut() -> None:
                if blueprint.spec.shape is Shape.FULL:
                    await asyncio.to_thread(self._keep_nvram, blueprint.id, snapshot)
                await disk()

            await self._memory.copy(
                blueprint, vm, snapshot, keep=how.keep, meanwhile=cut, go_on=how.go_on, packing=how.packing
            )

        await self._storage.snapshot(blueprint, image, snapshot, vm.switch, moment)

    async def seen(self, id: InstanceId) -> tuple[LiveVm | None, Sight]:
        """The machine, if its process is there and can be spoken to. :raise Unavailable: it is there and cannot."""
        vm = self._vms.get(id)
        sight = await vm.status() if vm is not None else Sight.GONE
        if sight is Sight.DEAF:
            raise Unavailable("the machine does not answer")
        return (vm, sight) if sight is not Sight.GONE else (None, sight)

    async def revert(self, blueprint: Blueprint, image: Path, snapshot: SnapshotId) -> None:
        """See Host."""
        if (await self.seen(blueprint.id))[0] is not None:
            raise WrongState("the instance runs")
        if goes_on := self._memory.has(snapshot):
            self._memory.require(snapshot, blueprint)
        self._memory.forget(blueprint.id)
        await self._storage.revert(blueprint, image, snapshot)
        (self._paths.instance(blueprint.id) / NVRAM).unlink(missing_ok=True)
        await self.bring_nvram(blueprint.id, snapshot)
        if goes_on:
            self._memory.wait_in(blueprint.id, snapshot, copy=False)

    async def remove(self, snapshot: SnapshotId) -> None:
        """See Host."""
        await self._storage.remove_snapshot(snapshot)
        await self._memory.collect()

    # -- what the firmware remembers -------------------------------------------------------------------------------

    def _keep_nvram(self, id: InstanceId, snapshot: SnapshotId) -> None:
        """:raise NoCapacity: the disk is full."""
        source, folder = self._paths.instance(id) / NVRAM, self._paths.snapshot(snapshot)
        if source.exists():
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                copy_sparse(source, folder / NVRAM)
            except OSError as error:
                raise full(error) from error

    async def bring_nvram(self, id: InstanceId, snapshot: str) -> None:
        """An instance that has none yet gets the snapshot's, if that has one. :raise NoCapacity: the disk is full."""
        source, target = self._paths.snapshot(snapshot) / NVRAM, self._paths.instance(id) / NVRAM
        if snapshot and source.exists() and not target.exists():
            part = target.with_suffix(".part")
            try:
                await asyncio.to_thread(copy_sparse, source, part)
                part.rename(target)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise full(error) from error
