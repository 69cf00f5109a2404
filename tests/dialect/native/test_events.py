"""Events: numbered, followed, taken up again where a connection broke."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.client import Client, Refused
from polyvisor.wire.native import Event

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def latest(http: httpx.AsyncClient) -> int:
    """The number of the newest event: what a follower is told first."""
    async with http.stream("GET", "/api/v1/events") as answer:
        async for line in answer.aiter_lines():
            return int(line.removeprefix("id: "))
    raise AssertionError("the stream ended")


async def test_events_carry_their_number_and_are_resumed_behind_it(served: Served, http: httpx.AsyncClient) -> None:
    since = await latest(http)  # other tests' events may be more than one answer holds
    vm = await served.make()
    everything = await http.get("/api/v1/events", params={"after": since, "follow": False})
    assert everything.headers["content-type"].startswith("text/event-stream")
    numbers = [int(line[4:]) for line in everything.text.splitlines() if line.startswith("id: ")]
    assert numbers == sorted(set(numbers))
    assert f'"subject":"{vm["id"]}"' in everything.text
    headers = {"Last-Event-ID": str(numbers[2])}
    rest = await http.get("/api/v1/events", params={"after": since, "follow": False}, headers=headers)
    assert rest.text.startswith(f"id: {numbers[3]}\n")


async def test_the_first_word_is_the_number_where_a_follower_begins(http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/api/v1/events") as answer:
        async for line in answer.aiter_lines():
            assert line.startswith("id: ")
            break


class Flaky:
    """A way to the server that can be cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it is cut."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        for end in (writer, far_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()
        self._tasks.discard(task)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def cut(self) -> None:
        """Every connection breaks."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def flaky(served: Served) -> AsyncIterator[tuple[Flaky, Client]]:
    """A client on a way that can be cut."""
    way = Flaky(int(served.url.rsplit(":", 1)[1]))
    listener = await asyncio.start_server(way.take, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, Client(f"http://127.0.0.1:{port}", served.key) as client:
        yield way, client
        await way.cut()


async def test_a_follower_misses_nothing_and_hears_nothing_twice_when_its_connection_breaks(served: Served) -> None:
    async with flaky(served) as (way, client):
        events = client.events.follow()
        first = asyncio.ensure_future(anext(events))
        while way.connections == 0:
            await asyncio.sleep(0.005)
        names = [fresh("v") for _ in range(4)]
        heard: list[str] = []
        for name in names:
            await served.http.post("/api/v1/volumes", json={"name": name, "size": "1G"})
            await way.cut()
        heard = [event.data["name"] async for event in _volumes(first, events, 4)]
        assert heard == names
        assert way.connections > 1


async def _volumes(first: asyncio.Future[Event], events: AsyncIterator[Event], count: int) -> AsyncIterator[Event]:
    async with asyncio.timeout(10):
        event = await first
        while True:
            if event.kind == "volume.created":
                yield event
                count -= 1
            if not count:
                await events.aclose()  # type: ignore[attr-defined]
                return
            event = await anext(events)


async def test_a_follower_gives_up_in_the_end() -> None:
    async with Client("http://127.0.0.1:9", "key") as client:
        with pytest.raises(Refused) as refused:
            await anext(client.events.follow(patience=0.2))
    assert refused.value.kind == "Unavailable"


async def test_a_follower_who_is_refused_does_not_ask_again(served: Served) -> None:
    async with Client(served.url, "wrong") as client:
        with pytest.raises(Refused) as refused:
            await anext(client.events.follow())
    assert refused.value.status == 401
