"""Many clones of one machine: how fast they come, whether all of them answer, what each of them takes."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hand import Hand
from bench.machines import true
from bench.raw import Twin
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ForkInstance

RATE = Bound("p50", 4.0, least=True)
CROWD = 100
ALL = Bound("p50", CROWD, least=True)
SHARE = Bound("p50", 30.0)
_SIZE = "256M"
_AT_ONCE = 8
_SECONDS = 30.0
_SECONDS_BY_HAND = 10.0
_MOST = 400  # clones made in that time, however fast they come
_ALIVE = 32  # of them at once: idle ones take their share of the cores too
_WINDOW = 5.0
_QUIET = 5.0
_CORES = len(os.sched_getaffinity(0))

End = Callable[[], Awaitable[object]]


@dataclass
class _Rate:
    """Workers that make one after the other, and what they made, the oldest of which goes when there are too many."""

    make: Callable[[], Awaitable[End]]
    seconds: float
    done: list[float] = field(default_factory=list)
    alive: list[End] = field(default_factory=list)
    begun: float = 0.0

    async def run(self) -> list[float]:
        """So many a second and core, for each part of the time."""
        self.begun = time.monotonic()
        try:
            await asyncio.gather(*(self._work() for _ in range(_AT_ONCE)))
        finally:
            for end in self.alive:
                await end()
        windows = [0] * int(self.seconds / _WINDOW)
        for at in self.done:
            if at < self.seconds:
                windows[int(at / _WINDOW)] += 1
        return [count / _WINDOW / _CORES for count in windows]

    async def _work(self) -> None:
        while time.monotonic() - self.begun < self.seconds and len(self.done) < _MOST:
            end = await self.make()
            self.done.append(time.monotonic() - self.begun)
            self.alive.append(end)
            if len(self.alive) > _ALIVE:
                await self.alive.pop(0)()


async def clones(client: Client, data: Path, work: Path) -> list[Row]:
    """A rate, and a crowd; each beside full restores of one saved machine by hand."""
    request = CreateInstance(image="busybox", name="c" + secrets.token_hex(5), memory=_SIZE)
    made = await client.instances.create(request, wait="ready", timeout=60)
    try:
        assert made.pid
        async with _saved(Twin.of(made.pid, data, made.id, work)) as (hand, state):

            async def clone() -> End:
                child = await client.instances.fork(made.id, ForkInstance(), wait="ready")
                return lambda: client.instances.delete(child.id, force=True)

            async def restored() -> End:
                return (await hand.copy(state)).end

            ours = await _Rate(clone, _SECONDS).run()
            raw = await _Rate(restored, _SECONDS_BY_HAND).run()
            answered, shares = await _crowd(client, made.id)
            by_hand = await _shares_by_hand(hand, state)
        full = "-incoming of all RAM, by hand"
        return [
            Row("clones ready, a second and core", "1/s", ours, raw, full, RATE),
            Row("100 clones at once that answer", "clones", [answered], bound=ALL),
            Row("memory of an idle clone, its share", "MiB", shares, by_hand, full, SHARE),
        ]
    finally:
        await client.instances.delete(made.id, force=True)


@asynccontextmanager
async def _saved(twin: Twin) -> AsyncIterator[tuple[Hand, Path]]:
    hand = await Hand.boot(twin)
    try:
        state = hand.folder / "state"
        await hand.save(state)
        yield hand, state
    finally:
        await hand.end()


async def _crowd(client: Client, source: str) -> tuple[int, list[float]]:
    """How many of a hundred answer while all of them run, and MiB of each."""
    turns = asyncio.Semaphore(_AT_ONCE)
    made: list[str] = []

    async def one() -> None:
        async with turns:
            child = await client.instances.fork(source, ForkInstance(), wait="ready", timeout=120)
            made.append(child.id)

    async def answers(id: str) -> bool:
        async with turns:
            await true(client, id)
            return (await client.instances.get(id)).state == "running"

    async def gone(id: str) -> None:
        async with turns:
            await client.instances.delete(id, force=True)

    try:
        await asyncio.gather(*(one() for _ in range(CROWD)))
        await asyncio.sleep(_QUIET)
        pids = [(await client.instances.get(id)).pid for id in made]
        shares = [share(pid) for pid in pids if pid]
        answered = sum(await asyncio.gather(*(answers(id) for id in made)))
        return answered, shares
    finally:
        await asyncio.gather(*(gone(id) for id in made))


async def _shares_by_hand(hand: Hand, state: Path) -> list[float]:
    async with AsyncExitStack() as stack:
        copies = [await hand.copy(state) for _ in range(3)]
        for copy in copies:
            stack.push_async_callback(copy.end)
        return [share(copy.process.pid) for copy in copies]


def share(pid: int) -> float:
    """MiB of a process, of what others have too its part (PSS)."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(told.partition("\nPss:")[2].split()[0]) / 1024
