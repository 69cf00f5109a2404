"""A connection through a door: nothing of it is lost when the first way leads nowhere."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from polyvisor.host.network.relay import Flow, Relay
from polyvisor.host.network.unread import unread

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """The port of a server on this host."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def visitor(relay_to: Callable[[Relay], Awaitable[None]]) -> AsyncIterator[int]:
    """A port whose connections are relayed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = Relay(reader, writer)
        await relay_to(relay)
        relay.close()

    async with listening(serve) as port:
        yield port


async def ask(port: int, words: bytes) -> bytes:
    """What comes back until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that was said, once it was."""
    writer.write(await reader.read())
    writer.close()


async def test_what_nobody_took_goes_another_way_whole() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # its kernel accepts, and it never reads
        tries = 0

        async def through(relay: Relay) -> None:
            nonlocal tries
            for port, patience in ((deaf.getsockname()[1], 0.05), (deaf.getsockname()[1], 0.05), (good, 60)):
                tries += 1
                way = await asyncio.open_connection("127.0.0.1", port)
                if await relay.run(way, Flow(), patience):
                    return

        async with listening(echo) as good, visitor(through) as port:
            words = b"x" * 300_000
            assert await ask(port, words) == words
            assert tries == 3
            tries = 0
            assert await ask(port, b"1") == b"1"


@pytest.mark.parametrize("words", [b"", b"?"])
async def test_who_speaks_first_is_heard(words: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write(await reader.read())
        writer.close()

    async def through(relay: Relay) -> None:
        assert await relay.run(await asyncio.open_connection("127.0.0.1", good), Flow(), 60)

    async with listening(greet) as good, visitor(through) as port:
        assert await ask(port, words) == b"hello" + words


@pytest.mark.parametrize(("asked", "at_rest"), [(True, False), (False, True)])
async def test_one_who_waits_for_an_answer_is_not_at_rest(asked: bool, at_rest: bool) -> None:
    flow = Flow()
    assert not flow.at_rest
    flow.passed(asked=asked)
    flow.moved -= 100
    assert flow.at_rest is at_rest


def test_what_waits_to_be_read_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one, server.accept()[0] as other:
            source = one.getsockname()[1]
            assert unread(port, source) == 0
            one.send(b"abc")
            assert unread(port, source) == 3
            other.recv(1)
            assert unread(port, source) == 2
        assert unread(port, 1) is None
