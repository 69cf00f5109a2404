"""Telling others what happened: the events of a branch of the tree, letters about them, and the records of these.

A dialect keeps its records of letters in rows. They are written by the server itself and not in somebody's name, so
they are not in the audit log, which a busy endpoint would drown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from polyvisor.model.event import Event
from polyvisor.model.faults import NotFound, Unsupported
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.model.letter import Letter, Receipt
from polyvisor.ports.courier import Courier
from polyvisor.ports.store import Store


class CourierEngine:
    """What a dialect's webhooks are made of."""

    def __init__(self, store: Store, courier: Courier | None) -> None:
        self._store = store
        self._courier = courier

    async def check(self, url: str, *, private: bool) -> None:
        """:raise Invalid: nothing is posted there. :raise Unsupported: this server posts nothing."""
        await self._hand().check(url, private=private)

    async def post(self, letter: Letter, *, private: bool) -> Receipt:
        """One try; see `ports.courier`."""
        return await self._hand().post(letter, private=private)

    def _hand(self) -> Courier:
        if self._courier is None:
            raise Unsupported("this server posts nothing")
        return self._courier

    async def last(self) -> int:
        """The number of the newest event of all."""
        async with self._store.read() as unit:
            return await unit.events.last()

    async def events(self, project: ProjectId, seq: int, limit: int) -> Sequence[Event]:
        """Those later than `seq` of a project and of those below it, oldest first."""
        async with self._store.read() as unit:
            below = [id for id, _ in await unit.identities.below([project])]
            return await unit.events.after(seq, below, limit)

    async def write(self, changed: Sequence[Row] = (), added: Sequence[Row] = ()) -> None:
        """All of it or nothing. :raise NotFound: a row to change is gone, or the project of one to add."""
        async with self._store.write() as unit:
            for row in changed:
                await unit.rows.save(row)
            for row in added:
                await unit.rows.add(row)

    async def forget(self, gone: Collection[Row]) -> None:
        """Remove rows; some may be gone already."""
        async with self._store.write() as unit:
            for row in gone:
                with contextlib.suppress(NotFound):
                    await unit.rows.remove(row.key)
