"""Volumes with the instances that hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, insert, select, true, update

from polyvisor.model.faults import Busy, NotFound
from polyvisor.model.ids import HostId, InstanceId, ProjectId, VolumeId
from polyvisor.model.query import Page
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Volume, VolumeState
from polyvisor.store import claims, codec, foreigners, keyset
from polyvisor.store.tables import volumes
from polyvisor.store.work import Work, owned

_v = volumes.c


class SqlVolumes:
    """See `ports.store.Volumes`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, volume: Volume) -> None:
        """Insert."""
        row: dict[str, Any] = {
            "id": volume.id,
            "project": volume.project,
            "name": volume.name,
            "size": volume.size,
        }
        row |= {"state": volume.state.value, "host": volume.host, "created": codec.micros(volume.created)}
        row |= {"kind": volume.kind, "read_only": volume.read_only, "pool": volume.pool}
        await self._work.insert(insert(volumes).values(row), volume.id, missing=volume.project)

    async def get(self, id: VolumeId) -> Volume:
        """One volume."""
        return await self._one(_v.id == id, id)

    async def named(self, project: ProjectId, name: str) -> Volume:
        """One volume by name."""
        return await self._one(and_(_v.project == project, _v.name == name), name)

    async def page(self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int) -> Page[Volume]:
        """Oldest first."""
        mine = owned(_v.project, projects)
        rows = await self._work.rows(keyset.after(select(volumes).where(mine), volumes, cursor, limit))
        shown = rows[: max(1, limit)]
        if not shown:
            return Page((), None)
        here = keyset.between(volumes, shown[0], shown[-1])
        holders = await claims.holders(self._work, and_(mine, here))
        more = len(rows) > len(shown)
        return Page(
            tuple(_decode(row, holders) for row in shown),
            keyset.encode(shown[-1].created, shown[-1].id) if more else None,
        )

    async def all(self) -> Sequence[Volume]:
        """Every volume, oldest first."""
        rows = await self._work.rows(select(volumes).order_by(_v.created, _v.id))
        holders = await claims.holders(self._work, true())
        return [_decode(row, holders) for row in rows]

    async def save(self, id: VolumeId, state: VolumeState, size: Bytes) -> None:
        """Write state and size."""
        query = update(volumes).where(_v.id == id).values(state=state.value, size=size)
        await self._work.revise(query, id, "volume")

    async def forget(self, id: VolumeId) -> None:
        """Delete the record."""
        if await claims.holders(self._work, _v.id == id):
            raise Busy("the volume is attached", subject=id)
        await self._work.revise(delete(volumes).where(_v.id == id), id, "volume")
        await foreigners.forget(self._work, id)

    async def _one(self, which: ColumnElement[bool], subject: str) -> Volume:
        row = await self._work.row(select(volumes).where(which))
        if row is None:
            raise NotFound("there is no such volume", subject=subject)
        return _decode(row, await claims.holders(self._work, _v.id == row.id))


def _decode(row: Any, holders: Mapping[str, list[InstanceId]]) -> Volume:
    return Volume(
        id=VolumeId(row.id),
        project=ProjectId(row.project),
        name=row.name,
        size=Bytes(row.size),
        state=VolumeState(row.state),
        host=HostId(row.host),
        created=codec.moment(row.created),
        attached=tuple(holders.get(row.id, ())),
        kind=row.kind,
        read_only=bool(row.read_only),
        pool=row.pool,
    )
