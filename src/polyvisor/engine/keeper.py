"""The keeper asks, in the operator's name, what time asks for: the end of a lifetime, the next snapshot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from polyvisor.engine.endings import EndingsEngine
from polyvisor.engine.health import HealthEngine
from polyvisor.engine.keys import SessionsEngine
from polyvisor.engine.pool import PoolEngine
from polyvisor.engine.reclaim import ReclaimEngine
from polyvisor.engine.schedules import SchedulesEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.standby import StandbyEngine
from polyvisor.engine.tasks import TasksEngine
from polyvisor.model.faults import Fault
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
Chore = Callable[[], Awaitable[object]]
"""Something that is done every second or so, or as soon as the last time is over; it finds out itself what is due."""
_PAUSE = 1.0
_KEEP_EVENTS = 100_000
_KEEP_OPERATIONS = timedelta(days=7)
_KEEP_RECEIPTS = timedelta(days=1)
_PRUNE_EVERY = 600


class Keeper:
    """A loop that never writes an intent itself: it calls the same verbs as everybody."""

    def __init__(  # noqa: PLR0913 - each has a chore
        self,
        store: Store,
        clock: Callable[[], datetime],
        endings: EndingsEngine,
        snapshots: SnapshotsEngine,
        schedules: SchedulesEngine,
        tasks: TasksEngine,
        pool: PoolEngine,
        reclaim: ReclaimEngine,
        standby: StandbyEngine,
        health: HealthEngine,
        sessions: SessionsEngine,
    ) -> None:
        self._store = store
        self._clock = clock
        self._endings = endings
        self._snapshots = snapshots
        self._schedules = schedules
        self._tasks = tasks
        self._pool = pool
        self._reclaim = reclaim
        self._standby = standby
        self._health = health
        self._sessions = sessions
        self.pause = _PAUSE
        self.chores: dict[str, Chore] = {"tasks": self._tasks.tick}
        self._aside: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            await self._keep()
        finally:
            for task in self._aside.values():
                task.cancel()
            await asyncio.gather(*self._aside.values(), return_exceptions=True)

    async def _keep(self) -> None:
        turn = 0
        while True:
            self._begin()
            await self._try(self._endings.expire)
            await self._try(self._schedules.tick)
            await self._try(self._pool.tick)
            await self._try(self._snapshots.follow)
            await self._try(self._reclaim.tick)
            await self._try(self._standby.tick)
            await self._try(self._health.tick)
            await self._try(self._sessions.tick)
            if turn % _PRUNE_EVERY == 0:
                await self._try(self.prune)
                await self._try(self._sessions.prune)
            if turn % _PRUNE_EVERY == 0 or self._snapshots.orphans:
                await self._try(self._snapshots.collect)
            turn += 1
            await asyncio.sleep(self.pause)

    def _begin(self) -> None:
        """Each chore that may take long goes on beside the others, and is begun again once it is over."""
        for name, chore in self.chores.items():
            last = self._aside.get(name)
            if last is None or last.done():
                self._aside[name] = asyncio.create_task(self._try(chore), name=name)

    async def _try(self, chore: Chore) -> None:
        """Whatever becomes of one of them, the others are done."""
        try:
            await chore()
        except Fault as fault:
            log.warning("the keeper: %s %s", fault.public, fault.private)
        except Exception:
            log.exception("the keeper stumbled; it goes on")

    async def prune(self) -> None:
        """Forget what is too old to be asked for."""
        now = self._clock()
        async with self._store.write() as unit:
            await unit.events.prune(_KEEP_EVENTS)
            await unit.operations.prune(now - _KEEP_OPERATIONS)
            await unit.receipts.prune(now - _KEEP_RECEIPTS)
