"""Rows of tables that only a dialect has, and the numbers that it calls things of ours by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, insert, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.foreign import Row
from polyvisor.store.tables import rows
from polyvisor.store.work import Work

_c = rows.c
_SELECT = select(_c.dialect, _c.kind, _c.name, _c.project, _c.subject, _c.data, _c.key)  # as `Row` has them


class SqlRows:
    """See `ports.store.Rows`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, row: Row) -> Row:
        """Insert; gives the key."""
        key = await self._work.insert(insert(rows).values(_values(row)), row.name, missing=row.project)
        return replace(row, key=key)

    async def of(self, dialect: str, kinds: Collection[str], subjects: Collection[str] | None = None) -> Sequence[Row]:
        """Those of some tables, oldest first."""
        query = _SELECT.where(_c.dialect == dialect, _c.kind.in_(list(kinds))).order_by(_c.key)
        if subjects is not None:
            query = query.where(_c.subject.in_(list(subjects)))
        return [Row(*row) for row in await self._work.rows(query)]

    async def get(self, dialect: str, key: int) -> Row:
        """By key."""
        found = await self._work.row(_SELECT.where(_c.key == key, _c.dialect == dialect))
        if found is None:
            raise NotFound("there is no such row", subject=str(key))
        return Row(*found)

    async def ensure(self, wanted: Iterable[Row]) -> None:
        """Insert those whose names are not there."""
        asked: dict[tuple[str, str], dict[str, Row]] = {}
        for row in wanted:
            asked.setdefault((row.dialect, row.kind), {})[row.name] = row
        for (dialect, kind), named in asked.items():
            query = select(_c.name).where(_c.dialect == dialect, _c.kind == kind)
            there = {row.name for row in await self._work.rows(query)}
            new = [_values(row) for name, row in named.items() if name not in there]
            if new:
                await self._work.add(insert(rows), new)

    async def save(self, row: Row) -> None:
        """Write name, subject and data."""
        query = update(rows).where(_c.key == row.key)
        await self._work.revise(query.values(name=row.name, subject=row.subject, data=row.data), row.name, "row")

    async def remove(self, key: int) -> None:
        """Delete."""
        if not await self._work.change(delete(rows).where(_c.key == key)):
            raise NotFound("there is no such row", subject=str(key))


def _values(row: Row) -> dict[str, Any]:
    told = {"dialect": row.dialect, "kind": row.kind, "name": row.name, "project": row.project}
    return told | {"subject": row.subject, "data": row.data}
