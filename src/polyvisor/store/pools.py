"""What projects may do with pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import and_, delete, func, insert, select

from polyvisor.model.ids import ProjectId
from polyvisor.model.volume import PoolRights
from polyvisor.store.identities import below
from polyvisor.store.tables import pool_rights, volumes
from polyvisor.store.work import Work

_r, _v = pool_rights.c, volumes.c


class SqlPools:
    """See `ports.store.Pools`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def put(self, rights: PoolRights) -> None:
        """Insert or replace; the write lock makes the two statements one."""
        await self.remove(rights.project, rights.pool)
        row: dict[str, Any] = {"project": rights.project, "pool": rights.pool, "quota": rights.quota}
        row |= {"writes": rights.writes, "manages": rights.manages}
        await self._work.insert(insert(pool_rights).values(row), rights.pool, missing=rights.project)

    async def remove(self, project: ProjectId, pool: str) -> bool:
        """Delete."""
        return await self._work.change(delete(pool_rights).where(and_(_r.project == project, _r.pool == pool))) > 0

    async def of(self, project: ProjectId) -> Sequence[PoolRights]:
        """Those of one project, by pool."""
        rows = await self._work.rows(select(pool_rights).where(_r.project == project).order_by(_r.pool))
        return [
            PoolRights(ProjectId(row.project), row.pool, row.quota, bool(row.writes), bool(row.manages)) for row in rows
        ]

    async def held(self, project: ProjectId, pool: str) -> int:
        """The sizes of the volumes there of a project and those below it."""
        query = select(func.coalesce(func.sum(_v.size), 0))
        query = query.where(_v.pool == pool, _v.project.in_(select(below([project]).c.id)))
        return int(await self._work.value(query))
