"""Events: the numbered log, read from any point and followed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from polyvisor.access.credentials import as_now
from polyvisor.access.grants import require_somewhere, scope
from polyvisor.model.event import Event
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store

_BATCH = 500


class EventsEngine:
    """Reading the event log."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def last(self, principal: Principal) -> int:
        """The number of the newest event: where a new follower begins."""
        require_somewhere(principal, Action.EVENT_VIEW)
        async with self._store.read() as unit:
            return await unit.events.last()

    async def after(self, principal: Principal, seq: int, limit: int = _BATCH) -> list[Event]:
        """Those later than `seq` that the caller may see."""
        require_somewhere(principal, Action.EVENT_VIEW)
        async with self._store.read() as unit:
            now = await as_now(unit, principal)  # a follower is asked for its rights again and again
            return list(await unit.events.after(seq, scope(now, Action.EVENT_VIEW), limit))

    async def follow(self, principal: Principal, seq: int) -> AsyncIterator[Event]:
        """Every event later than `seq`, then those to come; none is left out and none comes twice."""
        async with self._store.follow("events") as topics:
            while True:
                batch = await self.after(principal, seq)
                for event in batch:
                    seq = event.seq
                    yield event
                if not batch and await anext(topics, None) is None:
                    return  # the server stops
