"""Snapshots. Those made for one new instance only are in no page and not found by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, not_, select, true, update

from polyvisor.model.compression import Compression, Packed, PackState, parse_compression
from polyvisor.model.faults import NotFound
from polyvisor.model.ids import Digest, HostId, InstanceId, ProjectId, SnapshotId
from polyvisor.model.query import Page
from polyvisor.model.snapshot import Snapshot, SnapshotKind, SnapshotState, TemplateFor
from polyvisor.model.units import Bytes
from polyvisor.store import codec, foreigners, keyset
from polyvisor.store.tables import is_packing, snapshots
from polyvisor.store.work import Work, owned

_s = snapshots.c
_no_template = _s.template == TemplateFor.NOBODY.value
is_listed = and_(_s.transient.is_(False), _no_template)
is_counted = and_(_s.transient.is_(False), _s.template != TemplateFor.ALL.value)
"""Towards a project's quota: its own templates as well, which lists leave out."""


class SqlSnapshots:
    """See `ports.store.Snapshots`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, snapshot: Snapshot) -> None:
        """Insert."""
        row: dict[str, Any] = {
            "id": snapshot.id,
            "project": snapshot.project,
            "name": snapshot.name,
            "kind": snapshot.kind.value,
            "state": snapshot.state.value,
            "source": snapshot.source,
            "source_name": snapshot.source_name,
            "spec": codec.spec.encode(snapshot.spec),
            "image": snapshot.spec.image,
        }
        row |= {"size": snapshot.size, "host": snapshot.host, "created": codec.micros(snapshot.created)}
        row |= {"scheduled": snapshot.scheduled, "transient": snapshot.transient}
        row |= {"template": snapshot.template.value, "mounts": codec.mounts.encode(snapshot.mounts)}
        row |= {"compression": str(snapshot.compression) if snapshot.compression else ""}
        row |= _of_packed(snapshot.packed)
        await self._work.insert(insert(snapshots).values(row), snapshot.id, missing=snapshot.project)

    async def get(self, id: SnapshotId) -> Snapshot:
        """One snapshot."""
        return await self._one(_s.id == id, id)

    async def named(self, project: ProjectId, name: str) -> Snapshot:
        """One snapshot by name."""
        return await self._one(and_(_s.project == project, _s.name == name, is_listed), name)

    async def page(
        self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int, source: InstanceId | None = None
    ) -> Page[Snapshot]:
        """Oldest first."""
        query = select(snapshots).where(is_listed, owned(_s.project, projects))
        if source is not None:
            query = query.where(_s.source == source)
        rows = await self._work.rows(keyset.after(query, snapshots, cursor, limit))
        shown = rows[: max(1, limit)]
        more = len(rows) > len(shown)
        return Page(tuple(map(_decode, shown)), keyset.encode(shown[-1].created, shown[-1].id) if more else None)

    async def all(self) -> Sequence[Snapshot]:
        """Every snapshot, oldest first."""
        return await self._those(true())

    async def of(self, source: InstanceId) -> Sequence[Snapshot]:
        """Those that were taken of an instance, oldest first."""
        return await self._those(_s.source == source)

    async def templates(self, image: Digest | None = None) -> Sequence[Snapshot]:
        """Templates of one image or of all, oldest first."""
        return await self._those(not_(_no_template) if image is None else and_(not_(_no_template), _s.image == image))

    async def save(self, id: SnapshotId, state: SnapshotState, size: Bytes) -> None:
        """Write state and size."""
        query = update(snapshots).where(_s.id == id).values(state=state.value, size=size)
        await self._work.revise(query, id, "snapshot")

    async def packing(self) -> Sequence[Snapshot]:
        """Those whose memory is being compressed, oldest first."""
        return await self._those(is_packing)

    async def packed(self, id: SnapshotId, packed: Packed, size: Bytes) -> None:
        """Write what has become of its memory's compression, and its size."""
        query = update(snapshots).where(_s.id == id).values(size=size, **_of_packed(packed))
        await self._work.revise(query, id, "snapshot")

    async def forget(self, id: SnapshotId) -> None:
        """Delete the record."""
        await self._work.revise(delete(snapshots).where(_s.id == id), id, "snapshot")
        await foreigners.forget(self._work, id)

    async def using(self, digest: Digest) -> Sequence[SnapshotId]:
        """Those of instances that were made from an image, templates left out, oldest first."""
        query = select(_s.id).where(_s.image == digest, _no_template).order_by(_s.created, _s.id)
        return [SnapshotId(row.id) for row in await self._work.rows(query)]

    async def held(self, projects: Collection[ProjectId] | None) -> Bytes:
        """The sum of their sizes."""
        query = select(func.coalesce(func.sum(_s.size), 0)).where(owned(_s.project, projects))
        total = await self._work.value(query)
        return Bytes(int(total))  # PostgreSQL sums to a Decimal

    async def _those(self, which: ColumnElement[bool]) -> list[Snapshot]:
        rows = await self._work.rows(select(snapshots).where(which).order_by(_s.created, _s.id))
        return [_decode(row) for row in rows]

    async def _one(self, which: ColumnElement[bool], subject: str) -> Snapshot:
        row = await self._work.row(select(snapshots).where(which))
        if row is None:
            raise NotFound("there is no such snapshot", subject=subject)
        return _decode(row)


def _of_packed(packed: Packed) -> dict[str, Any]:
    text = "" if packed == Packed() else codec.packed.encode(packed)
    return {"packing": packed.state is PackState.COMPRESSING, "packed": text}


def _decode(row: Any) -> Snapshot:
    return Snapshot(
        id=SnapshotId(row.id),
        project=ProjectId(row.project),
        name=row.name,
        kind=SnapshotKind(row.kind),
        state=SnapshotState(row.state),
        source=InstanceId(row.source),
        source_name=row.source_name,
        spec=codec.spec.decode(row.spec),
        size=Bytes(row.size),
        host=HostId(row.host),
        created=codec.moment(row.created),
        scheduled=row.scheduled,
        transient=row.transient,
        template=TemplateFor(row.template),
        mounts=codec.mounts.decode(row.mounts),
        compression=parse_compression(row.compression) if row.compression else Compression(),
        packed=codec.packed.decode(row.packed) if row.packed else Packed(),
    )
