"""One task per instance that has something to do, woken by wishes, hints, time and the periodic scan.

A wake-up is an id and nothing else, so that the path taken with a hint and without one is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.faults import Fault
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance, Phase
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store
from polyvisor.reconcile.plan import Act, Settled, Undo, Wait, needs_more, plan
from polyvisor.reconcile.runner import Crash, Runner

log = logging.getLogger("polyvisor.reconcile")
SCAN_EVERY = 30.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
_TURNS = 40  # a change that takes more steps than that goes round in circles and is slowed down
_WISH = "wish:"
_AT_REST = {Phase.PREPARED, Phase.STOPPED, Phase.SUSPENDED, Phase.FAILED}


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
        self._closed = False
        self.pause = _FIRST_PAUSE  # after trouble; doubled while it lasts
        self.following = asyncio.Event()

    async def start(self) -> None:
        """Re-read the truth of every machine, clear away what no record knows, then begin to follow.

        No instance is acted on before every machine was taken over. When this returns, the records say what is.
        """
        async with self._store.read() as unit:
            instances = await unit.instances.all()
            volumes = await unit.volumes.all()
            snapshots = await unit.snapshots.all()
        await self._host.adopt([(blueprint_of(i), i.observed.run) for i in instances])
        kept = frozenset(str(v.id) for v in volumes), frozenset(str(s.id) for s in snapshots)
        await self._host.sweep(frozenset(i.id for i in instances), *kept)
        await asyncio.gather(
            *(self._told(i.id) for i in instances if restless(i) or i.observed.phase is Phase.SUSPENDED)
        )
        for job in (self._follow_wishes, self._follow_hints, self._scan):
            self._tasks.append(asyncio.create_task(self._keep(job), name=job.__name__))
        await self.following.wait()
        for instance in instances:
            self.wake(instance.id)

    async def _told(self, id: InstanceId) -> None:
        """Write down what is to be seen of the instance; what is to be done about it comes later."""
        try:
            await self._round(id, acting=False)
        except _Again:
            pass
        except Exception:
            log.exception("%s: the first look failed; it is looked at again", id)

    def wake(self, id: InstanceId) -> None:
        """Look at this instance now. Cheap, idempotent, from the event loop only."""
        if self._closed:
            return
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
        except Crash:
            self._closed = True
        finally:
            del self._actors[id]
            if wake_at is None or self._closed:
                self._bells.pop(id, None)
            else:
                self._alarm(id, wake_at)

    def _alarm(self, id: InstanceId, at: datetime) -> None:
        delay = max(0.0, (at - self._clock()).total_seconds())
        self._alarms[id] = asyncio.get_running_loop().call_later(delay, self.wake, id)

    async def _until_settled(self, id: InstanceId, bell: asyncio.Event) -> datetime | None:
        pause, turns = self.pause, 0
        while True:
            try:
                return await self._round(id)
            except _Again:
                turns += 1
                if turns % _TURNS:
                    continue
                log.error("%s: %d steps and no end", id, turns)
            except Fault as fault:
                log.warning("%s: %s %s", id, fault.public, fault.private)
            except Exception:
                log.exception("%s: the reconciler stumbled; it tries again", id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), pause)
                bell.clear()
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _round(self, id: InstanceId, *, acting: bool = True) -> datetime | None:
        """Look, plan, do one thing. Returns when to look again unasked; raises `_Again` to look now."""
        found = await self.runner.load(id)
        if found is None:
            return None
        instance, operation = found
        seen = await self._host.look(blueprint_of(instance))
        match plan(instance, operation, seen, self._clock()):
            case Act() as act if acting:
                if await self.runner.act(instance, operation, act, seen) is None:
                    raise _Again
            case Undo(fault) if acting and operation is not None:
                await self.runner.undo(instance, operation, fault)
                raise _Again
            case Wait(until, observed):
                await self.runner.note(instance, operation, observed)
                return until
            case Settled() as settled:
                await self.runner.settle(instance, operation, settled)
                if not settled.forget and needs_more(instance, settled, seen, self._clock()):
                    raise _Again
        return None

    # -- being woken ---------------------------------------------------------------------------------------------

    async def _keep(self, job: Callable[[], Awaitable[None]]) -> None:
        """Whatever happens to it, begin the job anew: without it wishes would go unheard."""
        while True:
            try:
                await job()
                return  # the store or the host was closed
            except Exception:
                log.exception("%s failed; it begins anew", job)
            await asyncio.sleep(_FIRST_PAUSE)

    async def _follow_wishes(self) -> None:
        async with self._store.follow(_WISH + "*") as topics:
            if self.following.is_set():
                await self._wake_all()  # what was said while nobody listened
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
        """Look at everything restless once in a period, evenly: all at once, every request would wait behind them."""
        while True:
            found = await self._restless()
            pace = SCAN_EVERY / (len(found) + 1)
            await asyncio.sleep(pace)
            for id in found:
                self.wake(id)
                await asyncio.sleep(pace)

    async def _wake_all(self) -> None:
        for id in await self._restless():
            self.wake(id)

    async def _restless(self) -> list[InstanceId]:
        async with self._store.read() as unit:
            return [i.id for i in await unit.instances.all() if restless(i)]

    async def close(self) -> None:
        """Stop at once; what was under way is resumed by the next start."""
        self._closed = True
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
        tasks = [*self._tasks, *self._actors.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def restless(instance: Instance) -> bool:
    """Whether anything could be seen or done at this instance without somebody asking."""
    at_rest = instance.observed.phase in _AT_REST and instance.observed.restart_at is None
    return not (instance.settled and at_rest and instance.operation is None) or instance.intent.deleted


class _Again(Exception):
    """Look at the instance again right away."""
