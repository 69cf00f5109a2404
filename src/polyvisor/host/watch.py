"""Watching running machines: when one has something to say, its id is put where the reconciler will find it.

Hints carry no data and may be lost or doubled: whoever gets one looks at the machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

from polyvisor.model.faults import Fault
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import LiveVm

log = logging.getLogger("polyvisor.host")
_FIRST_TRY = 0.05
_LAST_TRY = 5.0
_SAY_AGAIN = 1.0


class Watcher:
    """Two tasks per machine: one waits for its end, one for its agent."""

    def __init__(self) -> None:
        self._tasks: dict[InstanceId, tuple[asyncio.Task[None], asyncio.Task[None]]] = {}
        self._greet: dict[InstanceId, Callable[[], Coroutine[None, None, None]]] = {}
        self._ready: set[InstanceId] = set()
        self._queue: asyncio.Queue[InstanceId] = asyncio.Queue()

    def ready(self, id: InstanceId) -> bool:
        """Whether the agent inside said that the guest is ready, and its connection still stands."""
        return id in self._ready

    def start(self, id: InstanceId, vm: LiveVm, welcome: Callable[[Guest], Awaitable[None]]) -> None:
        """Watch this machine until `stop`. `welcome` is what a guest gets before it is said to be ready."""
        assert id not in self._tasks
        self._greet[id] = lambda: self._await_agent(id, vm, welcome)
        self._tasks[id] = (
            asyncio.create_task(self._await_end(id, vm), name=f"end of {id}"),
            asyncio.create_task(self._greet[id](), name=f"agent of {id}"),
        )

    async def greet_again(self, id: InstanceId) -> None:
        """The guest stood still: it is welcomed anew, and only then said to be ready."""
        if id not in self._ready:
            return  # it is about to be
        end, agent = self._tasks[id]
        agent.cancel()
        await asyncio.gather(agent, return_exceptions=True)
        self._tasks[id] = (end, asyncio.create_task(self._greet[id](), name=f"agent of {id}"))

    async def stop(self, id: InstanceId) -> None:
        """Stop watching."""
        tasks = self._tasks.pop(id, ())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ready.discard(id)

    async def _await_end(self, id: InstanceId, vm: LiveVm) -> None:
        while True:
            await vm.gone()
            self._queue.put_nowait(id)
            sight = await vm.status()
            if sight in (Sight.ENDED, Sight.GONE):
                self._ready.discard(id)
            if sight is Sight.GONE:
                return
            await asyncio.sleep(_SAY_AGAIN)  # shut down, the process stays until somebody ends it

    async def _await_agent(self, id: InstanceId, vm: LiveVm, welcome: Callable[[Guest], Awaitable[None]]) -> None:
        pause = _FIRST_TRY
        while True:
            try:
                guest = await vm.guest()
                await guest.until_ready()
                await welcome(guest)
                self._ready.add(id)
                self._queue.put_nowait(id)
                pause = _FIRST_TRY
                await guest.until_closed()
            except (Fault, OSError) as error:
                log.debug("%s: its agent: %r", id, error)
                pause = min(pause * 1.5, _LAST_TRY)
            except Exception:  # a machine whose agent nobody waits for would never be ready
                log.exception("%s: waiting for its agent", id)
                pause = _LAST_TRY
            finally:
                if id in self._ready:
                    self._ready.discard(id)
                    self._queue.put_nowait(id)
            await asyncio.sleep(pause)  # also after a connection that was closed at once: never a busy loop

    def hint(self, id: InstanceId) -> None:
        """Somebody else knows that this one is worth a look."""
        self._queue.put_nowait(id)

    async def hints(self) -> AsyncIterator[InstanceId]:
        """Ids as they come."""
        while True:
            yield await self._queue.get()

    async def close(self) -> None:
        """Stop watching everything."""
        for id in list(self._tasks):
            await self.stop(id)
