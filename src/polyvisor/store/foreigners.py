"""Aliases and remainders: what dialects keep with things of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import and_, delete, insert, select

from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import ProjectId
from polyvisor.store.tables import aliases, remainders, rows
from polyvisor.store.work import Work, owned

_a, _r = aliases.c, remainders.c
_AT_ONCE = 500  # a statement takes so many parameters on every database


async def forget(work: Work, subject: str) -> None:
    """Nothing is kept with it any more; called by what forgets the thing itself."""
    await work.change(delete(aliases).where(_a.subject == subject))
    await work.change(delete(remainders).where(_r.subject == subject))
    await work.change(delete(rows).where(rows.c.subject == subject))


class SqlForeigners:
    """See `ports.store.Foreigners`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def put(self, project: ProjectId, subject: str, foreign: Foreign) -> None:
        """Write remainder and alias."""
        here = and_(_r.subject == subject, _r.dialect == foreign.dialect)
        await self._work.change(delete(remainders).where(here))
        if foreign.remainder:
            row = {"subject": subject, "dialect": foreign.dialect, "data": foreign.remainder}
            await self._work.change(insert(remainders).values(row))
        if foreign.alias is not None:
            kind, alias = foreign.alias
            earlier = and_(_a.subject == subject, _a.dialect == foreign.dialect, _a.kind == kind)
            await self._work.change(delete(aliases).where(earlier))
            if not alias:
                return
            name = {"project": project, "dialect": foreign.dialect, "kind": kind, "alias": alias}
            await self._work.insert(insert(aliases).values(subject=subject, **name), subject)

    async def find(self, projects: Collection[ProjectId] | None, dialect: str, kind: str, alias: str) -> Sequence[str]:
        """The things an alias stands for."""
        query = select(_a.subject).where(_a.dialect == dialect, _a.kind == kind, _a.alias == alias)
        query = query.where(owned(_a.project, projects))
        return [row.subject for row in await self._work.rows(query.order_by(_a.subject))]

    async def anywhere(self, projects: Collection[ProjectId] | None, alias: str) -> Sequence[str]:
        """The things it stands for in whatever dialect."""
        query = select(_a.subject).where(_a.alias == alias, owned(_a.project, projects)).distinct()
        return [row.subject for row in await self._work.rows(query.order_by(_a.subject))]

    async def aliases(self, dialect: str, kind: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """The aliases of these things."""
        found: dict[str, str] = {}
        for some in _parts(subjects):
            query = select(_a.subject, _a.alias).where(_a.dialect == dialect, _a.kind == kind, _a.subject.in_(some))
            found |= {row.subject: row.alias for row in await self._work.rows(query)}
        return found

    async def remainders(self, dialect: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """What is kept with these things."""
        found: dict[str, str] = {}
        for some in _parts(subjects):
            query = select(_r.subject, _r.data).where(_r.dialect == dialect, _r.subject.in_(some))
            found |= {row.subject: row.data for row in await self._work.rows(query)}
        return found


def _parts(subjects: Sequence[str]) -> list[Sequence[str]]:
    return [subjects[start : start + _AT_ONCE] for start in range(0, len(subjects), _AT_ONCE)]
