"""Many instances: a server with the fake hypervisor, so that what is measured is ours and not QEMU's."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from bench import verge
from bench.table import Bound, Row
from polyvisor.model.ids import InstanceId, mint
from polyvisor.model.instance import Intent, Observed, Phase, Power
from polyvisor.store import open_store
from serving import Server

THOUSAND = 1_000
BURST = 200
LIST = Bound("p99", 50.0)
MEMORY = Bound("p50", 250.0)
_URL = "/api/v1/instances"


class Crowd:
    """A fake server and an HTTP client of it."""

    def __init__(self, work: Path) -> None:
        settings = work / "fake.toml"
        settings.write_text('[host]\nhypervisor = "fake"\n')
        self.server = Server(work / "fake", "--config", str(settings))
        self.http = httpx.AsyncClient()

    async def start(self) -> float:
        """Milliseconds until it answers."""
        await self.http.aclose()
        begun = time.monotonic()
        self.server.start()
        took = (time.monotonic() - begun) * 1000
        facts = self.server.facts
        self.http = httpx.AsyncClient(
            base_url=facts["url"], headers={"Authorization": f"Bearer {facts['api_key']}"}, trust_env=False, timeout=60,
            limits=httpx.Limits(max_connections=BURST),
        )  # fmt: skip
        return took

    async def stop(self) -> None:
        """With all its machines, which are files."""
        await self.http.aclose()
        self.server.stop()

    def resident(self) -> float:
        """MiB of memory."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    async def create(self, count: int) -> None:
        """So many at once, all accepted."""

        async def one() -> None:
            answer = await self.http.post(_URL, json={"image": "busybox"})
            assert answer.status_code == 201, answer.text

        await asyncio.gather(*(one() for _ in range(count)))

    async def quiet(self) -> None:
        """Until no operation is open any more."""
        while True:
            pages = [page async for page in self.pages(THOUSAND)]
            if all(item["operation"] is None for page in pages for item in page["items"]):
                return
            await asyncio.sleep(0.5)

    async def pages(self, limit: int) -> Any:
        """Every page of the list."""
        cursor: str | None = None
        while True:
            params = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
            page = (await self.http.get(_URL, params=params)).json()
            yield page
            cursor = page["next"]
            if cursor is None:
                return

    async def timed(self, path: str, **params: str) -> float:
        """Milliseconds of one GET, read to its end."""
        begun = time.monotonic()
        answer = await self.http.get(path, params=params)
        took = (time.monotonic() - begun) * 1000
        assert answer.status_code == 200, answer.text
        return took


async def crowd(work: Path, runs: int) -> list[Row]:
    """Creating, reading, listing, remembering, adopting."""
    many = Crowd(work)
    try:
        empty = [await many.start()]
        await many.create(1)
        await many.quiet()
        small = many.resident()
        rows = [await _creates(many, work)]
        await many.quiet()
        memory = many.resident()
        rows += await _reads(many, runs)
        rows.append(Row("memory with 1,000 instances", "MiB", [memory], [small], "with one instance", MEMORY))
        many.server.stop()
        full = [await many.start()]
        await many.quiet()
        rows.append(Row("start with 1,000 fake instances", "ms", full, empty, "the first start, with none"))
        many.server.stop()
        await _multiply(many.server.data, 9 * THOUSAND)
        await many.start()
        await many.quiet()
        rows += await _long_lists(many, runs)
        return rows
    finally:
        await many.stop()


async def _creates(many: Crowd, work: Path) -> Row:
    """Bursts until there are a thousand, beside commits of the bare database."""
    ours, bare = [], []
    for turn in range(THOUSAND // BURST):
        begun = time.monotonic()
        await many.create(BURST - (turn == 0))
        ours.append(BURST / (time.monotonic() - begun))
        bare.append(await asyncio.to_thread(_commits, work / f"bare{turn}.db"))
    return Row(f"creates, {BURST} at once", "1/s", ours, bare, "bare SQLite commits, synced")


def _commits(path: Path) -> float:
    """Transactions of one small row a second, as durable as ours."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE t (x TEXT)")
    begun = time.monotonic()
    for _ in range(BURST):
        database.execute("INSERT INTO t VALUES (?)", ("x" * 1000,))
    took = time.monotonic() - begun
    database.close()
    return BURST / took


async def _reads(many: Crowd, runs: int) -> list[Row]:
    id = (await many.http.get(_URL, params={"limit": "1"})).json()["items"][0]["id"]
    gets, alive, lists, served, verges = [], [], [], [], []
    page = (await many.http.get(_URL, params={"limit": str(THOUSAND)})).content
    asked = {"filter": "is_snapshot eq false", "fields": verge.FIELDS}
    first = [await many.timed("/api/v4/vms", **asked)]  # the dialect gives each a number, once
    async with _Plain(page) as plain:
        for _ in range(20 * runs):
            gets.append(await many.timed(f"{_URL}/{id}"))
            alive.append(await many.timed("/livez"))
        for _ in range(5 * runs):
            lists.append(await many.timed(_URL, limit=str(THOUSAND)))
            served.append(await many.timed(plain.url))
            verges.append(await many.timed("/api/v4/vms", **asked))
    return [
        Row("GET one of 1,000", "ms", gets, alive, "GET /livez"),
        Row("list of 1,000", "ms", lists, served, "the same bytes from a bare socket", LIST),
        Row("vergeos: list of 1,000 VMs", "ms", verges, lists, "our own API's list", verge.LIST),
        Row("vergeos: the first list of 1,000 that it did not make", "ms", first, verges, "the next ones"),
    ]


async def _long_lists(many: Crowd, runs: int) -> list[Row]:
    pages, through, first = [], [], []
    for _ in range(5 * runs):
        pages.append(await many.timed(_URL, limit=str(THOUSAND)))
    for _ in range(max(3, runs // 3)):
        begun = time.monotonic()
        count = sum([len(page["items"]) async for page in many.pages(THOUSAND)])
        through.append((time.monotonic() - begun) * 1000)
        assert count == 10 * THOUSAND, count
        first += [await many.timed(_URL, limit=str(THOUSAND)) for _ in range(1)]
    ten = [10 * one for one in first]
    return [
        Row("a page of 1,000 of 10,000", "ms", pages, against="", bound=LIST),
        Row("list of 10,000, in pages", "ms", through, ten, "ten times the first page"),
    ]


class _Plain:
    """The least that can answer HTTP: fixed bytes."""

    def __init__(self, body: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        self.url = ""

    async def __aenter__(self) -> _Plain:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client is done
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(self._answer)
                await writer.drain()
        writer.close()


async def _multiply(data: Path, more: int) -> None:
    """Records like the first one, at rest, written straight into the store."""
    store = await open_store(f"sqlite:///{data / 'polyvisor.db'}")
    async with store.write() as unit:
        model = (await unit.instances.all())[0]
        rest = replace(
            model, mounts=(), intent=Intent(Power.OFF, grace=model.intent.grace),
            observed=Observed(phase=Phase.PREPARED, generation=model.observed.generation, since=model.created),
        )  # fmt: skip
        for _ in range(more):
            id = InstanceId(mint())
            await unit.instances.add(replace(rest, id=id, name=id, address=None))
            if model.address is not None:
                await unit.instances.give(id, model.address, unique=False)
    await store.close()
