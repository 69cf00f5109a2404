"""Rows of tables that only a dialect has, and the numbers that it calls things of ours by.

What a row says of a thing is the dialect's to show, to who was shown the thing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from polyvisor.access.grants import require
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store


class RowsEngine:
    """Read, add, change, remove."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def of(self, dialect: str, kinds: Collection[str], subjects: Collection[str] | None = None) -> Sequence[Row]:
        """Those of some tables, oldest first; about a few things, where these are named."""
        async with self._store.read() as unit:
            return await unit.rows.of(dialect, kinds, subjects)

    async def get(self, dialect: str, key: int) -> Row:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            return await unit.rows.get(dialect, key)

    async def ensure(self, wanted: Iterable[Row]) -> None:
        """Give keys to things that have none yet; who does so at once gets the same ones."""
        async with self._store.write() as unit:
            await unit.rows.ensure(list(wanted))

    async def add(self, principal: Principal, wanted: Sequence[Row], action: Action) -> Sequence[Row]:
        """All of them or none. `action` is what the caller has to be allowed in the rows' projects.

        :raise Forbidden: :raise Exists: a name is taken in its table.
        """
        for row in wanted:
            require(principal, action, row.project)
        async with self._store.write() as unit:
            return [await unit.rows.add(row) for row in wanted]

    async def save(self, principal: Principal, changed: Sequence[Row], action: Action) -> None:
        """Likewise. :raise NotFound: one is gone."""
        for row in changed:
            require(principal, action, row.project)
        async with self._store.write() as unit:
            for row in changed:
                await unit.rows.save(row)

    async def swap(self, principal: Principal, changed: Sequence[Row], wanted: Sequence[Row], action: Action) -> None:
        """Save rows and add others: all of it or nothing."""
        for row in (*changed, *wanted):
            require(principal, action, row.project)
        async with self._store.write() as unit:
            for row in changed:
                await unit.rows.save(row)
            for row in wanted:
                await unit.rows.add(row)

    async def remove(self, principal: Principal, gone: Sequence[Row], action: Action) -> None:
        """Likewise."""
        for row in gone:
            require(principal, action, row.project)
        async with self._store.write() as unit:
            for row in gone:
                await unit.rows.remove(row.key)
