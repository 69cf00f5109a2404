"""One task per instance that has something to do, woken by wishes, hints, time and the periodic scan.

A wake-up is an id and nothing else, so that the path taken with a hint and without one is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime

from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store
from polyvisor.reconcile.blueprint import blueprint_of
from polyvisor.reconcile.plan import Act, Settled, Wait, plan
from polyvisor.reconcile.runner import Runner

log = logging.getLogger("polyvisor.reconcile")
SCAN_EVERY = 30.0
_AFTER_TROUBLE = 2.0
_WISH = "wish:"


class Reconciler:
    """Starts with the truth (`host.adopt`), then follows wishes and hints until closed."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self.runner = Runner(store, host, clock)
        self._actors: dict[InstanceId, asyncio.Task[None]] = {}
        self._bells: dict[InstanceId, asyncio.Event] = {}
        self._alarms: dict[InstanceId, asyncio.TimerHandle] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.following = asyncio.Event()

    async def start(self) -> None:
        """Re-read the truth of every machine, clear away what no record knows, then begin to follow."""
        async with self._store.read() as unit:
            instances = await unit.instances.all()
            volumes = await unit.volumes.all()
        await self._host.adopt([(blueprint_of(i), i.observed.run) for i in instances])
        await self._host.sweep(frozenset(i.id for i in instances), frozenset(str(v.id) for v in volumes))
        for job in (self._follow_wishes, self._follow_hints, self._scan):
            self._tasks.append(asyncio.create_task(job(), name=job.__name__))
        await self.following.wait()
        for instance in instances:
            self.wake(instance.id)

    def wake(self, id: InstanceId) -> None:
        """Look at this instance now. Cheap, idempotent, from the event loop only."""
        if alarm := self._alarms.pop(id, None):
            alarm.cancel()
        bell = self._bells.setdefault(id, asyncio.Event())
        bell.set()
        if id not in self._actors:
            self._actors[id] = asyncio.create_task(self._act(id, bell), name=f"actor {id}")

    async def _act(self, id: InstanceId, bell: asyncio.Event) -> None:
        """Own the instance until nothing is to be done. Ends only with its bell silent, so no wake-up is lost."""
        wake_at: datetime | None = None
        try:
            while bell.is_set():
                bell.clear()
                wake_at = await self._until_settled(id, bell)
        finally:
            del self._actors[id]
            if wake_at is None:
                self._bells.pop(id, None)
            else:
                self._alarm(id, wake_at)

    def _alarm(self, id: InstanceId, at: datetime) -> None:
        delay = max(0.0, (at - self._clock()).total_seconds())
        self._alarms[id] = asyncio.get_running_loop().call_later(delay, self.wake, id)

    async def _until_settled(self, id: InstanceId, bell: asyncio.Event) -> datetime | None:
        while True:
            try:
                return await self._round(id)
            except _Again:
                continue
            except NotFound:
                return None
            except Fault as fault:
                log.warning("%s: %s %s", id, fault.public, fault.private)
            except Exception:
                log.exception("%s: the reconciler stumbled; it tries again", id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), _AFTER_TROUBLE)

    async def _round(self, id: InstanceId) -> datetime | None:
        """Look, plan, do one thing. Returns when to look again unasked; raises `_Again` to look now."""
        instance, operation = await self.runner.load(id)
        seen = await self._host.look(blueprint_of(instance))
        match plan(instance, operation, seen, self._clock()):
            case Act(step):
                await self.runner.act(instance, operation, step)
                raise _Again
            case Wait(until, observed):
                await self.runner.note(instance, observed)
                return until
            case Settled() as settled:
                await self.runner.settle(instance, operation, settled)
                if settled.observed != instance.observed and not settled.forget:
                    raise _Again  # facts may bring about the next thing, such as a restart
                return settled.wake

    async def _follow_wishes(self) -> None:
        async with self._store.follow(_WISH + "*") as topics:
            self.following.set()
            async for topic in topics:
                if topic == _WISH + "*":  # too many to be told one by one
                    await self._wake_all()
                else:
                    self.wake(InstanceId(topic.removeprefix(_WISH)))

    async def _follow_hints(self) -> None:
        async for id in self._host.hints():
            self.wake(id)

    async def _scan(self) -> None:
        while True:
            await asyncio.sleep(SCAN_EVERY)
            with contextlib.suppress(Fault):
                await self._wake_all()

    async def _wake_all(self) -> None:
        async with self._store.read() as unit:
            instances = await unit.instances.all()
        for instance in instances:
            self.wake(instance.id)

    async def close(self) -> None:
        """Stop at once; what was under way is resumed by the next start."""
        for alarm in self._alarms.values():
            alarm.cancel()
        tasks = [*self._tasks, *self._actors.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Again(Exception):
    """Look at the instance again right away."""
