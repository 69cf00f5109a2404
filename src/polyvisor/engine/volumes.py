"""Volumes: disks that outlive instances."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from weakref import WeakValueDictionary

from polyvisor.access.grants import permit, require, require_somewhere, scope
from polyvisor.access.quotas import admit_more, admit_to_pool
from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.instances import Asked, InstancesEngine, admit_mount
from polyvisor.engine.media import Maker, volume_disk, volume_event
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Fault, Invalid, NotFound, Unsupported
from polyvisor.model.foreign import Foreign
from polyvisor.model.host import Disk
from polyvisor.model.identity import Quotas
from polyvisor.model.ids import ProjectId, VolumeId, check_name, is_id, mint
from polyvisor.model.instance import MAX_ON_BUS, Bus, Instance, Mount, MountState
from polyvisor.model.operation import Verb, admit
from polyvisor.model.principal import Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.spec import MAX_DISK, MIN_DISK
from polyvisor.model.units import Bytes
from polyvisor.model.volume import DATA, SECTOR, Volume, VolumeState
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit

log = logging.getLogger("polyvisor.engine")


class VolumesEngine:
    """Create, read, resize, delete, attach, detach."""

    def __init__(
        self,
        store: Store,
        host: Host,
        clock: Callable[[], datetime],
        instances: InstancesEngine,
        images: ImagesEngine,
        maker: Maker,
    ) -> None:
        self._images = images  # uploads come where theirs do
        self._maker = maker
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._repeats: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._files = asyncio.Lock()  # one change of a volume's file at a time, with its record

    async def create(
        self, principal: Principal, name: str, size: Bytes, receipt: str = "", *, foreign: Foreign | None = None
    ) -> Volume:
        """A volume with an empty ext4 file system. The record comes first, so that no file is ever without one.
        Without a name its id is its name.

        `receipt` is an idempotency key: a repeat answers with the first one's volume.
        :raise Invalid, Exists, OverQuota, NoCapacity:
        """
        require(principal, Action.VOLUME_CREATE)
        if name:
            check_name(name)
        _check_size(size)
        if not receipt:
            return await self._maker.make(self._maker.draft(principal, name, size), self._format, foreign=foreign)
        digest = hashlib.sha256(repr(("volume", name, size)).encode()).hexdigest()
        async with self._repeats.setdefault((principal.project, receipt), asyncio.Lock()):
            async with self._store.read() as unit:
                found = await unit.receipts.find(principal.project, receipt)
                if found is not None and found[0] != digest:
                    raise Invalid("the idempotency key was used for another request", field="Idempotency-Key")
                if found is not None:
                    return await unit.volumes.get(VolumeId(found[1]))
            return await self._maker.make(self._maker.draft(principal, name, size), self._format, (receipt, digest))

    async def create_from(
        self, principal: Principal, name: str, size: Bytes, chunks: AsyncIterator[bytes], *, foreign: Foreign | None
    ) -> Volume:
        """As `create`, with what is in an uploaded tar archive.

        :raise Invalid: also when the archive is none, is hostile, or does not fit.
        """
        require(principal, Action.VOLUME_CREATE)
        if name:
            check_name(name)
        _check_size(size)
        part = self._images.uploads / mint()
        try:
            await self._images.receive(part, chunks, size, 0)

            async def unpack(disk: Disk) -> None:
                await self._host.volumes.create(disk, part)

            return await self._maker.make(self._maker.draft(principal, name, size), unpack, foreign=foreign)
        finally:
            part.unlink(missing_ok=True)

    async def _format(self, disk: Disk) -> None:
        await self._host.volumes.create(disk)

    async def find(self, unit: Unit, principal: Principal, key: str, action: Action) -> Volume:
        """By id or name, in the caller's transaction. :raise NotFound:"""
        try:
            volume = await unit.volumes.get(VolumeId(key)) if is_id(key) else None
        except NotFound:
            volume = None
        try:
            volume = volume or await unit.volumes.named(principal.project, key)
            permit(principal, action, volume.project, key)
        except NotFound as error:
            raise NotFound(f"no volume {key[:80]!r}", field="volume", subject=key) from error
        return volume

    async def get(self, principal: Principal, key: str) -> Volume:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            return await self.find(unit, principal, key, Action.VOLUME_VIEW)

    async def list(
        self, principal: Principal, cursor: str | None, limit: int, project: ProjectId | None = None
    ) -> Page[Volume]:
        """A page, oldest first, of one project or all."""
        if project is not None:
            require(principal, Action.VOLUME_VIEW, project)
        require_somewhere(principal, Action.VOLUME_VIEW)
        seen = scope(principal, Action.VOLUME_VIEW) if project is None else [project]
        async with self._store.read() as unit:
            return await unit.volumes.page(seen, cursor, limit)

    async def resize(self, principal: Principal, key: str, size: Bytes) -> Volume:
        """Grow; a running holder sees it at once. :raise Invalid: it would shrink."""
        _check_size(size)
        async with self._files:
            return await self._resize(principal, key, size)

    async def _resize(self, principal: Principal, key: str, size: Bytes) -> Volume:
        async with self._store.write() as unit:
            volume = await self.find(unit, principal, key, Action.VOLUME_ALTER)
            if volume.state is not VolumeState.READY:
                raise Busy(f"volume {volume.name} is {volume.state}", field="volume", subject=volume.id)
            if volume.read_only:
                raise Invalid(f"volume {volume.name} is read-only", field="volume", subject=volume.id)
            if size % SECTOR and volume.kind != DATA:
                raise Invalid(f"size: must be a multiple of {SECTOR}", field="size")
            if size < volume.size:
                raise Invalid(f"size: the volume has {volume.size} bytes and cannot be made smaller", field="size")
            await admit_more(unit, volume.project, Quotas(disk=size - volume.size))
            await admit_to_pool(unit, volume, size - volume.size)
            await unit.volumes.save(volume.id, volume.state, size)
        disk = volume_disk(replace(volume, size=size))
        try:
            for holder in volume.attached or (None,):
                await self._host.volumes.resize(disk, holder)
        except BaseException:
            async with self._store.write() as unit:
                await unit.volumes.save(volume.id, volume.state, volume.size)
            raise
        return await self.get(principal, volume.id)

    async def delete(self, principal: Principal, key: str) -> None:
        """:raise Busy: it is attached."""
        async with self._files:
            await self._delete(principal, key)

    async def _delete(self, principal: Principal, key: str) -> None:
        async with self._store.write() as unit:
            volume = await self.find(unit, principal, key, Action.VOLUME_DELETE)
            if volume.attached:
                raise Busy(f"volume {volume.name} is attached to an instance", field="volume", subject=volume.id)
            if volume.state is VolumeState.CREATING:
                raise Busy(f"volume {volume.name} is being made", field="volume", subject=volume.id)
            await unit.volumes.save(volume.id, VolumeState.DELETING, volume.size)
        await self._host.volumes.remove(volume.id, volume.pool)
        async with self._store.write() as unit:
            await unit.volumes.forget(volume.id)
            await unit.events.append(volume_event("volume.deleted", volume, self._clock()))

    # -- attachments ---------------------------------------------------------------------------------------------

    async def claim(
        self, unit: Unit, principal: Principal, key: str, path: str, read_only: bool, bus: Bus = Bus.VIRTIO
    ) -> Mount:
        """The mount that an attach or a create would make; of a volume that is read-only, a read-only one.

        :raise Invalid, NotFound, Busy:
        """
        volume = await self.find(unit, principal, key, Action.VOLUME_USE)
        if volume.state is not VolumeState.READY:
            raise Busy(f"volume {volume.name} is {volume.state}", field="volume", subject=volume.id)
        check_mount_path(path)
        only_read = read_only or volume.read_only
        return Mount(volume.id, volume.name, path, only_read, MountState.ATTACHING, bus=bus, pool=volume.pool)

    async def resolve(self, principal: Principal, asked: Sequence[Mount]) -> tuple[Mount, ...]:
        """The mounts of a create, whose volumes are still named as the caller did. :raise Invalid, NotFound, Busy:"""
        if not asked:
            return ()
        async with self._store.read() as unit:
            found = [
                replace(await self.claim(unit, principal, m.volume, m.path, m.read_only, m.bus), overlay=m.overlay)
                for m in asked
            ]
        paths = [m.path for m in found if m.path]
        if len({m.volume for m in found}) != len(found) or len(set(paths)) != len(paths):
            raise Invalid("volumes: a volume or a path is given twice", field="volumes")
        for bus, most in MAX_ON_BUS.items():
            if sum(m.bus is bus for m in found) > most:
                raise Invalid(f"volumes: there are more than {most} on the {bus} bus", field="volumes")
        for mount in found:
            if mount.overlay and not (mount.read_only and mount.path):
                text = f"volumes: {mount.name}: an overlay needs a path, and a volume that is only read"
                raise Invalid(text, field="volumes", subject=mount.volume)
        return tuple(replace(m, state=MountState.ATTACHED) for m in found)

    async def attach(
        self, principal: Principal, key: str, volume: str, *, path: str = "", read_only: bool = False,
        bus: Bus = Bus.VIRTIO,
    ) -> Asked:  # fmt: skip
        """Attach to a running instance (hot) or a stopped one (there at its next start, a USB disk only so)."""
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            await self._admit(unit, instance, Verb.ATTACH)
            mount = await self.claim(unit, principal, volume, path, read_only, bus)
            await admit_mount(unit, principal, instance.project, mount)
            _admit_on(bus, instance)
            if any(m.path == path and path for m in instance.mounts):
                raise Invalid(f"path: {path} is taken by another volume", field="path")
            await unit.instances.mount(instance.id, mount)
            operation = await self._instances.open(unit, instance, Verb.ATTACH, mount.volume)
            unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def detach(self, principal: Principal, key: str, volume: str) -> Asked:
        """Unmount and unplug. The volume stays. :raise NotFound: it is not attached there."""
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            found = await self.find(unit, principal, volume, Action.VOLUME_VIEW)
            held = next((m for m in instance.mounts if m.volume == found.id), None)
            if held is None:
                raise NotFound(f"volume {found.name} is not attached to {instance.name}", field="volume")
            await self._admit(unit, instance, Verb.DETACH)
            if held.bus is Bus.USB:
                _require_off(instance)
            await unit.instances.mounted(instance.id, found.id, MountState.DETACHING)
            operation = await self._instances.open(unit, instance, Verb.DETACH, found.id)
            unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def _admit(self, unit: Unit, instance: Instance, verb: Verb) -> None:
        under_way = await unit.operations.current(instance.id)
        admit(verb, face(instance), under_way.verb if under_way else None)

    async def recover(self) -> None:
        """After a crash: finish deletes, forget creates that were cut short. Called once, at the server's start."""
        async with self._store.read() as unit:
            stale = [v for v in await unit.volumes.all() if v.state is not VolumeState.READY]
        for volume in stale:
            try:
                await self._host.volumes.remove(volume.id, volume.pool)
            except Fault as fault:  # its pool is not there now, and may be at the next start
                log.warning("volume %s: %s", volume.id, fault.public)
                continue
            async with self._store.write() as unit:
                await unit.volumes.forget(volume.id)


def _admit_on(bus: Bus, instance: Instance) -> None:
    """:raise Unsupported: it runs, and the bus takes nothing then. :raise Invalid: it has too many."""
    if bus is Bus.USB:
        _require_off(instance)
    if sum(m.bus is bus for m in instance.mounts) >= MAX_ON_BUS[bus]:
        raise Invalid(f"volume: there are {MAX_ON_BUS[bus]} on the {bus} bus already", field="volume")


def _require_off(instance: Instance) -> None:
    """:raise Unsupported:"""
    if face(instance) not in (Face.STOPPED, Face.FAILED):
        raise Unsupported("bus: USB disks come and go while the machine is off", field="bus")


def check_mount_path(path: str) -> None:
    """:raise Invalid: it is neither empty nor an absolute path without `..`."""
    parts = path.split("/")
    if path and (not path.startswith("/") or ".." in parts or "\0" in path or path == "/" or len(path) > 4096):
        raise Invalid("path: must be an absolute path below /", field="path")


def _check_size(size: Bytes) -> None:
    if not MIN_DISK <= size <= MAX_DISK:
        raise Invalid(f"size: {size} is not between {MIN_DISK} and {MAX_DISK} bytes", field="size")
