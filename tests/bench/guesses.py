"""Failed logins: what others notice of a thousand of them, on a server with the fake hypervisor."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx

from bench.crowd import Crowd
from bench.table import Bound, Row

COUNT = 1_000
AT_ONCE = 20
ROWS = ("a call while 1,000 logins fail", "failed logins that were let through to a hash")


async def guesses(work: Path, runs: int) -> list[Row]:
    """Calls of one user, alone and while somebody guesses at the password of another."""
    work.mkdir()
    crowd = Crowd(work)
    await crowd.start()
    try:
        await crowd.create(10)
        await crowd.quiet()
        alone = [await _call(crowd.http) for _ in range(20 * runs)]
        seen: Counter[int] = Counter()
        guessing = asyncio.create_task(_guess(crowd.http, seen))
        beside = []
        while not guessing.done():
            beside.append(await _call(crowd.http))
            await asyncio.sleep(0.01)
        await guessing
    finally:
        await crowd.stop()
    let = Row(ROWS[1], "of 1,000", [seen[401]], bound=Bound("p50", 60), more={"statuses": dict(seen)})
    return [Row(ROWS[0], "ms", beside, alone, "the same with nobody guessing"), let]


async def _call(http: httpx.AsyncClient) -> float:
    begun = time.monotonic()
    answer = await http.get("/api/v1/instances", params={"limit": 10})
    assert answer.status_code == 200, answer.text
    return (time.monotonic() - begun) * 1000


async def _guess(http: httpx.AsyncClient, seen: Counter[int]) -> None:
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            body = {"name": "root", "password": f"guess {number}"}
            answer = await http.post("/api/v1/sessions", json=body, headers={"Authorization": ""})
            seen[answer.status_code] += 1

    await asyncio.gather(*(one(number) for number in range(COUNT)))
