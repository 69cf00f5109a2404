"""What machines take, looked at again and again: a share of the CPU is the difference of two looks.

All is kept in memory and forgotten with the server. The processes' accounts are read by a chore, all at once. What
takes a question to each machine (its disks, its guest's traffic) is asked only when somebody wants it, at most every so
often, and whoever wants it does not wait for those that do not answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from polyvisor.engine import Engine
from polyvisor.model.host import DiskCounts, Taken
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM

T = TypeVar("T")
EVERY = 10  # seconds between two looks at the processes
_SHORT, _SHORT_KEPT = 60, 120  # seconds between two records of the short history, and how many there are
_LONG, _LONG_KEPT = 3600, 168  # and of the long one
_FRESH = 10.0  # seconds that an answer of a machine's is good for
_PATIENCE = 1.5  # seconds that a request waits for machines to answer
NODE = InstanceId("")
"""What the node's own records are kept under: all machines together."""


@dataclass(frozen=True, slots=True)
class Load:
    """At a time, in Unix seconds: CPUs that were busy with it since the last look, and bytes of memory it has."""

    at: int
    cpus: float = 0.0
    resident: int = 0


class Asked(Generic[T]):
    """The last two answers of each machine to one question."""

    def __init__(self, ask: Callable[[Sequence[Instance]], Awaitable[Mapping[InstanceId, T]]]) -> None:
        self._ask = ask
        self._answers: dict[InstanceId, tuple[tuple[float, T], ...]] = {}
        self._asking: set[InstanceId] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def of(self, instances: Iterable[Instance]) -> Mapping[InstanceId, tuple[tuple[float, T], ...]]:
        """The latest first, with the time of each by the loop's clock; nothing of one that has not answered yet."""
        now = asyncio.get_running_loop().time()
        wanted = [one for one in instances if one.id not in self._asking and not self._fresh(one.id, now)]
        if wanted:
            self._asking.update(one.id for one in wanted)
            task = asyncio.create_task(self._renew(wanted), name="samples")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE)
        return self._answers

    def _fresh(self, id: InstanceId, now: float) -> bool:
        known = self._answers.get(id)
        return known is not None and now - known[0][0] < _FRESH

    async def _renew(self, wanted: Sequence[Instance]) -> None:
        try:
            told = await self._ask(wanted)
        finally:
            self._asking.difference_update(one.id for one in wanted)
        now = asyncio.get_running_loop().time()
        for id, answer in told.items():
            self._answers[id] = ((now, answer), *self._answers.get(id, ())[:1])
        for id in [id for id, known in self._answers.items() if now - known[0][0] > _LONG]:
            del self._answers[id]


@dataclass
class _History:
    short: deque[Load] = field(default_factory=lambda: deque(maxlen=_SHORT_KEPT))
    long: deque[Load] = field(default_factory=lambda: deque(maxlen=_LONG_KEPT))

    def note(self, load: Load) -> None:
        for kept, every in ((self.short, _SHORT), (self.long, _LONG)):
            if not kept or load.at - kept[-1].at >= every or load.at < kept[-1].at:
                kept.append(load)


class Samples:
    """Those of one application."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cpu: dict[InstanceId, tuple[float, float]] = {}
        self._loads: dict[InstanceId, Load] = {}
        self._histories: dict[InstanceId, _History] = {}
        self._looked = 0
        self.disks: Asked[Mapping[str, DiskCounts]] = Asked(lambda some: engine.hosts.disk_counts(SYSTEM, some))
        self.traffic: Asked[Taken] = Asked(lambda some: engine.hosts.traffic(SYSTEM, some))

    async def tick(self) -> None:
        """A chore: look, if it is time."""
        now = int(self._engine.clock().timestamp())
        if 0 <= now - self._looked < EVERY:
            return
        self._looked = now
        await self.look(now)

    async def look(self, now: int) -> None:
        """Read the accounts of all processes, and write down what they took since the last time."""
        clock, cpu, loads = asyncio.get_running_loop().time(), {}, {}
        for id, taken in (await self._engine.hosts.accounts(SYSTEM)).items():
            cpu[id] = clock, taken.cpu
            before = self._cpu.get(id)
            passed = clock - before[0] if before is not None else 0.0
            busy = max(0.0, taken.cpu - before[1]) / passed if before is not None and passed > 0 else 0.0
            loads[id] = Load(now, busy, taken.resident)
        loads[NODE] = Load(now, sum(one.cpus for one in loads.values()), sum(one.resident for one in loads.values()))
        self._cpu, self._loads = cpu, loads
        for id, load in loads.items():
            self._histories.setdefault(id, _History()).note(load)
        old = [id for id, kept in self._histories.items() if now - kept.short[-1].at > _LONG * _LONG_KEPT]
        for id in old:
            del self._histories[id]

    def load(self, id: InstanceId) -> Load:
        """The latest; nothing of what does not run."""
        return self._loads.get(id, Load(self._looked))

    def history(self, id: InstanceId, *, long: bool) -> Sequence[Load]:
        """Oldest first: of each minute of two hours, or of each hour of a week."""
        kept = self._histories.get(id)
        return () if kept is None else tuple(kept.long if long else kept.short)
