"""The keeper asks, in the operator's name, what time asks for: the end of an instance's lifetime."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from polyvisor.engine.power import PowerEngine
from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
SYSTEM = Principal("system", ProjectId(""), frozenset(Action), operator=True)
_PAUSE = 1.0
_KEEP_EVENTS = 100_000
_KEEP_OPERATIONS = timedelta(days=7)
_KEEP_RECEIPTS = timedelta(days=1)
_PRUNE_EVERY = 600


class Keeper:
    """A loop that never writes an intent itself: it calls the same verbs as everybody."""

    def __init__(self, store: Store, clock: Callable[[], datetime], power: PowerEngine) -> None:
        self._store = store
        self._clock = clock
        self._power = power
        self.pause = _PAUSE

    async def run(self) -> None:
        """Until cancelled."""
        turn = 0
        while True:
            try:
                await self.expire()
                if turn % _PRUNE_EVERY == 0:
                    await self.prune()
            except Fault as fault:
                log.warning("the keeper: %s %s", fault.public, fault.private)
            except Exception:
                log.exception("the keeper stumbled; it goes on")
            turn += 1
            await asyncio.sleep(self.pause)

    async def prune(self) -> None:
        """Forget what is too old to be asked for."""
        now = self._clock()
        async with self._store.write() as unit:
            await unit.events.prune(_KEEP_EVENTS)
            await unit.operations.prune(now - _KEEP_OPERATIONS)
            await unit.receipts.prune(now - _KEEP_RECEIPTS)

    async def expire(self) -> int:
        """Delete every instance whose lifetime is over; how many there were."""
        async with self._store.read() as unit:
            due = await unit.instances.expired(self._clock())
        for id in due:
            with contextlib.suppress(NotFound):  # somebody else deleted it
                await self._power.delete(SYSTEM, id)
        return len(due)
