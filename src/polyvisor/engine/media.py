"""Media: volumes of raw bytes, empty or uploaded. And how any volume comes to be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from polyvisor.access.grants import permit, require
from polyvisor.access.quotas import admit_more, admit_to_pool
from polyvisor.engine.pools import PoolsEngine
from polyvisor.model.event import Event
from polyvisor.model.faults import Busy, Invalid
from polyvisor.model.foreign import Foreign
from polyvisor.model.host import Disk
from polyvisor.model.identity import Quotas
from polyvisor.model.ids import InstanceId, VolumeId, check_name, mint
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import MAX_DISK
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Volume, VolumeState, check_kind, whole_sectors
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store


class Maker:
    """The record of a volume, then its file, then that it is ready: no file is ever without a record."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._host = host
        self._clock = clock

    def draft(self, principal: Principal, name: str, size: Bytes) -> Volume:
        """What would be made. Without a name its id is its name."""
        id = VolumeId(mint())
        state = VolumeState.CREATING
        return Volume(id, principal.project, name or id, size, state, self._host.id, self._clock())

    async def make(
        self,
        volume: Volume,
        make: Callable[[Disk], Awaitable[None]],
        receipt: tuple[str, str] | None = None,
        foreign: Foreign | None = None,
    ) -> Volume:
        """All or nothing. `make` makes the file. :raise Exists, OverQuota: and what `make` does."""

        async def one(disks: Sequence[Disk]) -> None:
            await make(disks[0])

        return (await self.make_all([volume], one, receipt, [foreign]))[0]

    async def make_all(
        self,
        volumes: Sequence[Volume],
        make: Callable[[Sequence[Disk]], Awaitable[None]],
        receipt: tuple[str, str] | None = None,
        foreign: Sequence[Foreign | None] = (),
    ) -> Sequence[Volume]:
        """All of them, or none. `make` makes the files. :raise Exists, OverQuota: and what `make` does."""
        async with self._store.write() as unit:
            for volume in volumes:
                await admit_more(unit, volume.project, Quotas(disk=volume.size))
                await admit_to_pool(unit, volume, volume.size)
                await unit.volumes.add(volume)
            for volume, kept in zip(volumes, foreign, strict=False):
                if kept is not None:
                    await unit.foreigners.put(volume.project, volume.id, kept)
        try:
            await make([volume_disk(volume) for volume in volumes])
        except BaseException:
            for volume in volumes:
                await self._host.volumes.remove(volume.id, volume.pool)
            async with self._store.write() as unit:
                for volume in volumes:
                    await unit.volumes.forget(volume.id)
            raise
        async with self._store.write() as unit:
            for volume in volumes:
                await unit.volumes.save(volume.id, VolumeState.READY, volume.size)
                await unit.events.append(volume_event("volume.created", volume, self._clock()))
                if receipt:
                    await unit.receipts.add(volume.project, *receipt, volume.id, self._clock())
            return [await unit.volumes.get(volume.id) for volume in volumes]


class MediaEngine:
    """Create and upload; the rest is as for every volume."""

    def __init__(self, host: Host, pools: PoolsEngine, maker: Maker) -> None:
        self._host = host
        self._pools = pools
        self._maker = maker

    async def create_blank(
        self, principal: Principal, name: str, size: Bytes, *, kind: str, pool: str = "", foreign: Foreign | None = None
    ) -> Volume:
        """A medium of zeros, which takes no room until it is written to. `size` is rounded up to whole sectors.

        :raise Invalid, Exists, OverQuota, NoCapacity: :raise NotFound: there is no such pool.
        """
        require(principal, Action.VOLUME_CREATE)
        draft = self._medium(principal, name, size, kind, pool)
        return await self._maker.make(draft, self._host.volumes.create_blank, foreign=foreign)

    async def copy(self, principal: Principal, sources: Sequence[Volume], kind: str = "") -> Sequence[Volume]:
        """Volumes of the caller's project with what these hold now, all of the same moment where one running instance
        has them. Their ids are their names, their kind is the sources' unless told. All of them, or none.

        :raise NotFound: the caller may not use one. :raise Busy: one is not there yet, or more than one holds it.
        :raise OverQuota, NoCapacity:
        """
        require(principal, Action.VOLUME_CREATE)
        for volume in sources:
            permit(principal, Action.VOLUME_USE, volume.project, volume.id)
            if volume.state is not VolumeState.READY or (len(volume.attached) > 1 and not volume.read_only):
                raise Busy(f"volume {volume.name} is in use", field="volume", subject=volume.id)
        drafts = [
            replace(self._maker.draft(principal, "", one.size), kind=kind or one.kind, pool=one.pool) for one in sources
        ]
        by_holder: dict[InstanceId | None, list[int]] = {}
        for index, volume in enumerate(sources):
            by_holder.setdefault(next(iter(volume.attached), None), []).append(index)

        async def copy(disks: Sequence[Disk]) -> None:
            for holder, places in by_holder.items():
                await self._host.volumes.copy([(volume_disk(sources[i]), disks[i]) for i in places], holder)

        return await self._maker.make_all(drafts, copy)

    async def upload(  # noqa: PLR0913 - what a medium is
        self, principal: Principal, name: str, chunks: AsyncIterator[bytes], length: int, *, kind: str,
        pool: str = "", read_only: bool = False, foreign: Foreign | None = None,
    ) -> Volume:  # fmt: skip
        """A medium of exactly `length` bytes, taken as they come; what is cut off leaves nothing.

        Quota and room are asked before the first byte is taken, and held until the last.
        :raise Invalid, Exists, OverQuota, NoCapacity: :raise NotFound: there is no such pool.
        """
        require(principal, Action.VOLUME_CREATE)
        draft = replace(self._medium(principal, name, length, kind, pool), read_only=read_only)

        async def receive(disk: Disk) -> None:
            await self._host.volumes.receive(disk, chunks, length)

        return await self._maker.make(draft, receive, foreign=foreign)

    async def unpack(self, principal: Principal, source: Volume, length: int, *, kind: str, at: int = 0) -> Volume:
        """A volume with the disk that `length` bytes of a medium are an image of, from `at` on; its id is its name.

        :raise Invalid: the image is damaged or hostile. :raise Unsupported: its form is not taken.
        :raise NotFound: the caller may not use the medium. :raise OverQuota, NoCapacity:
        """
        require(principal, Action.VOLUME_CREATE)
        permit(principal, Action.VOLUME_USE, source.project, source.id)
        size = await self._host.volumes.size_in(volume_disk(source), length, at)
        draft = self._medium(principal, "", size, kind, source.pool)

        async def make(disk: Disk) -> None:
            await self._host.volumes.unpack(volume_disk(source), length, disk, at)

        return await self._maker.make(draft, make)

    async def write(self, principal: Principal, volume: Volume, at: int, chunks: AsyncIterator[bytes]) -> int:
        """Bytes into a medium that nobody has attached, from that place on; how many there were.

        :raise Busy: somebody has. :raise Invalid: they go beyond its end. :raise NotFound, NoCapacity:
        """
        permit(principal, Action.VOLUME_ALTER, volume.project, volume.id)
        if volume.attached or volume.state is not VolumeState.READY:
            raise Busy(f"volume {volume.name} is in use", field="volume", subject=volume.id)
        return await self._host.volumes.write(volume_disk(volume), at, chunks)

    def read(self, principal: Principal, volume: Volume, length: int) -> AsyncIterator[bytes]:
        """The first bytes of a medium. :raise NotFound: the caller may not have them."""
        permit(principal, Action.VOLUME_USE, volume.project, volume.id)
        return self._host.volumes.read(volume_disk(volume), length)

    def used(self, volume: Volume) -> Bytes:
        """What a volume that the caller has found takes of its pool's room."""
        return self._host.volumes.used(volume_disk(volume))

    def _medium(self, principal: Principal, name: str, length: int, kind: str, pool: str) -> Volume:
        if name:
            check_name(name)
        if not 1 <= length <= MAX_DISK:
            raise Invalid(f"size: {length} is not between 1 and {MAX_DISK} bytes", field="size")
        draft = self._maker.draft(principal, name, whole_sectors(length))
        return replace(draft, kind=check_kind(kind), pool=self._pools.find(pool))


def volume_disk(volume: Volume) -> Disk:
    """A volume as its host knows it."""
    return Disk(volume.id, volume.id[:20], volume.size, pool=volume.pool)


def volume_event(kind: str, volume: Volume, now: datetime) -> Event:
    """What happened to it."""
    return Event(kind, volume.project, volume.id, now, {"name": volume.name})
