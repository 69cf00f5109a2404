"""Volumes: disks that outlive instances."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from weakref import WeakValueDictionary

from polyvisor.access.grants import permit, require, scope
from polyvisor.access.quotas import check_quota
from polyvisor.engine.instances import Asked, InstancesEngine
from polyvisor.model.event import Event
from polyvisor.model.face import face
from polyvisor.model.faults import Busy, Invalid, NotFound
from polyvisor.model.host import Disk
from polyvisor.model.ids import VolumeId, check_name, is_id, mint
from polyvisor.model.instance import Instance, Mount, MountState
from polyvisor.model.operation import Verb, admit
from polyvisor.model.principal import Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.spec import MAX_DISK, MIN_DISK
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Volume, VolumeState
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit


class VolumesEngine:
    """Create, read, resize, delete, attach, detach."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime], instances: InstancesEngine) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._instances = instances
        self._repeats: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._files = asyncio.Lock()  # one change of a volume's file at a time, with its record

    async def create(self, principal: Principal, name: str, size: Bytes, receipt: str = "") -> Volume:
        """A volume with an empty ext4 file system. The record comes first, so that no file is ever without one.

        `receipt` is an idempotency key: a repeat answers with the first one's volume.
        :raise Invalid, Exists, OverQuota, NoCapacity:
        """
        require(principal, Action.CREATE)
        check_name(name)
        _check_size(size)
        if not receipt:
            return await self._create(principal, name, size)
        digest = hashlib.sha256(repr(("volume", name, size)).encode()).hexdigest()
        async with self._repeats.setdefault((principal.project, receipt), asyncio.Lock()):
            async with self._store.read() as unit:
                found = await unit.receipts.find(principal.project, receipt)
                if found is not None and found[0] != digest:
                    raise Invalid("the idempotency key was used for another request", field="Idempotency-Key")
                if found is not None:
                    return await unit.volumes.get(VolumeId(found[1]))
            return await self._create(principal, name, size, receipt, digest)

    async def _create(
        self, principal: Principal, name: str, size: Bytes, receipt: str = "", digest: str = ""
    ) -> Volume:
        volume = Volume(
            VolumeId(mint()),
            principal.project,
            name,
            size,
            VolumeState.CREATING,
            self._host.id,
            self._clock(),
        )
        async with self._store.write() as unit:
            project = await unit.identities.project(principal.project)
            check_quota(project, await unit.instances.usage(principal.project), disk=size)
            await unit.volumes.add(volume)
        try:
            await self._host.create_volume(_disk(volume))
        except BaseException:
            await self._host.remove_volume(volume.id)
            async with self._store.write() as unit:
                await unit.volumes.forget(volume.id)
            raise
        async with self._store.write() as unit:
            await unit.volumes.save(volume.id, VolumeState.READY, size)
            await unit.events.append(_event("volume.created", volume, self._clock()))
            if receipt:
                await unit.receipts.add(principal.project, receipt, digest, volume.id, self._clock())
            return await unit.volumes.get(volume.id)

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
            return await self.find(unit, principal, key, Action.VIEW)

    async def list(self, principal: Principal, cursor: str | None, limit: int) -> Page[Volume]:
        """A page, oldest first."""
        require(principal, Action.VIEW)
        async with self._store.read() as unit:
            return await unit.volumes.page(scope(principal), cursor, limit)

    async def resize(self, principal: Principal, key: str, size: Bytes) -> Volume:
        """Grow; a running holder sees it at once. :raise Invalid: it would shrink."""
        _check_size(size)
        async with self._files:
            return await self._resize(principal, key, size)

    async def _resize(self, principal: Principal, key: str, size: Bytes) -> Volume:
        async with self._store.write() as unit:
            volume = await self.find(unit, principal, key, Action.OPERATE)
            if volume.state is not VolumeState.READY:
                raise Busy(f"volume {volume.name} is {volume.state}", field="volume", subject=volume.id)
            if size < volume.size:
                raise Invalid(f"size: the volume has {volume.size} bytes and cannot be made smaller", field="size")
            project = await unit.identities.project(volume.project)
            check_quota(project, await unit.instances.usage(volume.project), disk=size - volume.size)
            await unit.volumes.save(volume.id, volume.state, size)
        disk = _disk(replace(volume, size=size))
        try:
            for holder in volume.attached or (None,):
                await self._host.resize_volume(disk, holder)
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
            volume = await self.find(unit, principal, key, Action.DELETE)
            if volume.attached:
                raise Busy(f"volume {volume.name} is attached to an instance", field="volume", subject=volume.id)
            await unit.volumes.save(volume.id, VolumeState.DELETING, volume.size)
        await self._host.remove_volume(volume.id)
        async with self._store.write() as unit:
            await unit.volumes.forget(volume.id)
            await unit.events.append(_event("volume.deleted", volume, self._clock()))

    # -- attachments ---------------------------------------------------------------------------------------------

    async def claim(self, unit: Unit, principal: Principal, key: str, path: str, read_only: bool) -> Mount:
        """The mount that an attach or a create would make. :raise Invalid, NotFound, Busy:"""
        volume = await self.find(unit, principal, key, Action.OPERATE)
        if volume.state is not VolumeState.READY:
            raise Busy(f"volume {volume.name} is {volume.state}", field="volume", subject=volume.id)
        check_mount_path(path)
        return Mount(volume.id, volume.name, path, read_only, MountState.ATTACHING)

    async def resolve(self, principal: Principal, asked: Sequence[Mount]) -> tuple[Mount, ...]:
        """The mounts of a create, whose volumes are still named as the caller did. :raise Invalid, NotFound, Busy:"""
        if not asked:
            return ()
        async with self._store.read() as unit:
            found = [await self.claim(unit, principal, m.volume, m.path, m.read_only) for m in asked]
        paths = [m.path for m in found if m.path]
        if len({m.volume for m in found}) != len(found) or len(set(paths)) != len(paths):
            raise Invalid("volumes: a volume or a path is given twice", field="volumes")
        return tuple(replace(m, state=MountState.ATTACHED) for m in found)

    async def attach(
        self, principal: Principal, key: str, volume: str, *, path: str = "", read_only: bool = False
    ) -> Asked:
        """Attach to a running instance (hot) or a stopped one (there at its next start)."""
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.OPERATE)
            await self._admit(unit, instance, Verb.ATTACH)
            mount = await self.claim(unit, principal, volume, path, read_only)
            if any(m.path == path and path for m in instance.mounts):
                raise Invalid(f"path: {path} is taken by another volume", field="path")
            await unit.instances.mount(instance.id, mount)
            operation = await self._instances.open(unit, instance, Verb.ATTACH, mount.volume)
            unit.wake(instance.id)
        return Asked(instance, operation.id)

    async def detach(self, principal: Principal, key: str, volume: str) -> Asked:
        """Unmount and unplug. The volume stays. :raise NotFound: it is not attached there."""
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.OPERATE)
            found = await self.find(unit, principal, volume, Action.OPERATE)
            if not any(m.volume == found.id for m in instance.mounts):
                raise NotFound(f"volume {found.name} is not attached to {instance.name}", field="volume")
            await self._admit(unit, instance, Verb.DETACH)
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
            await self._host.remove_volume(volume.id)
            async with self._store.write() as unit:
                await unit.volumes.forget(volume.id)


def check_mount_path(path: str) -> None:
    """:raise Invalid: it is neither empty nor an absolute path without `..`."""
    parts = path.split("/")
    if path and (not path.startswith("/") or ".." in parts or "\0" in path or path == "/" or len(path) > 4096):
        raise Invalid("path: must be an absolute path below /", field="path")


def _check_size(size: Bytes) -> None:
    if not MIN_DISK <= size <= MAX_DISK:
        raise Invalid(f"size: {size} is not between {MIN_DISK} and {MAX_DISK} bytes", field="size")


def _disk(volume: Volume) -> Disk:
    return Disk(volume.id, volume.id[:20], volume.size)


def _event(kind: str, volume: Volume, now: datetime) -> Event:
    return Event(kind, volume.project, volume.id, now, {"name": volume.name})
