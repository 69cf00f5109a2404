"""Claims on volumes: a row in `attachments`, checked and written under the one write lock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, select, true, update

from polyvisor.model.faults import Busy, NotFound
from polyvisor.model.ids import InstanceId, VolumeId
from polyvisor.model.instance import Bus, Mount, MountState
from polyvisor.store.tables import attachments, instances, volumes
from polyvisor.store.work import Work

_a = attachments.c


async def take(work: Work, id: InstanceId, mount: Mount) -> Mount:
    """Claim a volume, and say the mount with its name: many may hold it only while all of them only read.

    :raise Busy: another instance holds it, and one of the two can write.
    :raise Exists: this instance holds it already.
    :raise NotFound: no such volume or instance.
    """
    name = await work.value(select(volumes.c.name).where(volumes.c.id == mount.volume))
    if name is None:
        raise NotFound("there is no such volume", subject=mount.volume)
    writes = _a.read_only.is_(False) if mount.read_only else true()
    rivals = select(func.count()).where(_a.volume == mount.volume, _a.instance != id, writes)
    if await work.value(rivals):
        raise Busy("the volume is attached to another instance", subject=mount.volume)
    row: dict[str, Any] = {"instance": id, "volume": mount.volume, "path": mount.path}
    row |= {"read_only": mount.read_only, "state": mount.state.value, "bus": mount.bus.value}
    await work.insert(insert(attachments).values(row), mount.volume, missing=id)
    return replace(mount, name=name)


async def move(work: Work, id: InstanceId, volume: VolumeId, state: MountState) -> None:
    """Give an attachment another state."""
    query = update(attachments).where(_a.instance == id, _a.volume == volume).values(state=state.value)
    await work.revise(query, volume, "attachment")


async def drop(work: Work, id: InstanceId, volume: VolumeId) -> None:
    """Give a claim up."""
    query = delete(attachments).where(_a.instance == id, _a.volume == volume)
    await work.revise(query, volume, "attachment")


async def mounts(work: Work, of: ColumnElement[bool]) -> dict[str, list[Mount]]:
    """The mounts of the instances that fit, by instance, in the order of attaching; one query."""
    query = (
        select(_a.instance, _a.volume, volumes.c.name, _a.path, _a.read_only, _a.state, _a.bus, volumes.c.pool)
        .join_from(attachments, volumes, _a.volume == volumes.c.id)
        .join(instances, _a.instance == instances.c.id)
        .where(of)
        .order_by(_a.seq)
    )
    found: dict[str, list[Mount]] = {}
    for instance, volume, name, path, read_only, state, bus, pool in await work.rows(query):
        mount = Mount(VolumeId(volume), name, path, bool(read_only), MountState(state), bus=Bus(bus), pool=pool)
        found.setdefault(instance, []).append(mount)
    return found


async def holders(work: Work, of: ColumnElement[bool]) -> dict[str, list[InstanceId]]:
    """The instances that hold the volumes that fit, by volume; one query."""
    query = (
        select(_a.volume, _a.instance)
        .join_from(attachments, volumes, _a.volume == volumes.c.id)
        .where(of)
        .order_by(_a.seq)
    )
    found: dict[str, list[InstanceId]] = {}
    for volume, instance in await work.rows(query):
        found.setdefault(volume, []).append(InstanceId(instance))
    return found
