"""Failed logins: what others notice of a thousand of them, on a server with the fake hypervisor."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.crowd import Crowd
from bench.table import Bound, Row

ROUNDS, EACH = 4, 250
AT_ONCE = 20
ROWS = ("a call while 1,000 logins fail", "failed logins that were let through to a hash")


async def guesses(work: Path, runs: int) -> list[Row]:
    """Calls of one user, in turn alone and while somebody guesses at the password of another."""
    work.mkdir()
    crowd = Crowd(work)
    await crowd.start()
    guesser = await _guesser(crowd.server.facts["url"])
    alone: list[float] = []
    beside: list[float] = []
    seen: Counter[str] = Counter()
    try:
        await crowd.create(10)
        await crowd.quiet()
        for _ in range(ROUNDS):
            alone += [await _call(crowd.http) for _ in range(20 * runs)]
            guessing = asyncio.create_task(_round(guesser))
            while not guessing.done():
                beside.append(await _call(crowd.http))
            seen.update(await guessing)
            alone += [await _call(crowd.http) for _ in range(20 * runs)]
    finally:
        guesser.kill()
        await guesser.wait()
        await crowd.stop()
    assert seen.total() == ROUNDS * EACH and set(seen) <= {"401", "429"}, seen
    let = Row(ROWS[1], "of 1,000", [seen["401"]], bound=Bound("p50", 60), more={"statuses": dict(seen)})
    return [Row(ROWS[0], "ms", beside, alone, "the same with nobody guessing", Bound("p99 ratio", 1.5)), let]


async def _call(http: httpx.AsyncClient) -> float:
    begun = time.monotonic()
    answer = await http.get("/api/v1/instances", params={"limit": 10})
    assert answer.status_code == 200, answer.text
    took = time.monotonic() - begun
    await asyncio.sleep(0.01)
    return took * 1000


async def _guesser(url: str) -> asyncio.subprocess.Process:
    """A process of its own, so that the caller's clock does not wait for its work."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.guesses", url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


async def _round(guesser: asyncio.subprocess.Process) -> dict[str, int]:
    """By status, the answers to as many guesses as a round has."""
    assert guesser.stdin is not None and guesser.stdout is not None
    guesser.stdin.write(b"\n")
    seen: dict[str, int] = json.loads(await guesser.stdout.readline())
    return seen


async def _guess(url: str) -> None:
    """A round for each line."""
    ways = [await asyncio.open_connection(*url.removeprefix("http://").split(":")) for _ in range(AT_ONCE)]
    while await asyncio.to_thread(sys.stdin.readline):
        numbers = iter(range(EACH))
        rounds = await asyncio.gather(*(_guess_on(*way, numbers) for way in ways))
        print(json.dumps(sum(rounds, Counter[str]())), flush=True)


async def _guess_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, numbers: Iterator[int]) -> Counter[str]:
    """One connection's part, with as little work as can be: a guesser's processor is not ours."""
    seen = Counter[str]()
    for number in numbers:
        body = json.dumps({"name": "root", "password": f"guess {number}"})
        kind = "Host: a\r\nContent-Type: application/json"
        writer.write(f"POST /api/v1/sessions HTTP/1.1\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        seen[head.split()[1]] += 1
    return seen


if __name__ == "__main__":
    asyncio.run(_guess(sys.argv[1]))
