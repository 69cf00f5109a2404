"""Doors of guests with vaults: who has a place there, and what becomes of one behind which nobody is any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from polyvisor.host.vaults import gate
from polyvisor.host.vaults.authority import Authority
from polyvisor.host.vaults.gate import Door, Gate, Insider
from polyvisor.host.vaults.opener import Opener
from polyvisor.model.ids import InstanceId
from unit.host.vaults.test_opener import Records

ID = InstanceId("i")


@dataclass
class Waiting:
    """An opener that does nothing, for as long as it is asked to."""

    inside: int = 0
    ends: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, guest: socket.socket, where: tuple[str, int]) -> None:
        """See Opener."""
        with guest:
            self.inside += 1
            try:
                await self.ends.wait()
            finally:
                self.inside -= 1


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where connections were to go, which no rules of this machine have changed."""
    monkeypatch.setattr(gate, "original", lambda guest: ("192.0.2.1", 443))
    monkeypatch.setattr(gate, "_AT_ONCE", 3)


async def comes(from_: str, where: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A guest at that address."""
    return await asyncio.open_connection(*where, local_addr=(from_, 0))


@contextlib.asynccontextmanager
async def doors(opener: Waiting) -> AsyncIterator[tuple[Door, tuple[str, int]]]:
    """One that everybody comes to."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    door = Door(listener, lambda _: cast(Opener, opener))
    try:
        yield door, listener.getsockname()
    finally:
        await door.close()


async def until(opener: Waiting, count: int) -> None:
    """So many are inside."""
    async with asyncio.timeout(20):
        while opener.inside != count:
            await asyncio.sleep(0.01)


async def test_a_guest_takes_no_places_but_its_own() -> None:
    opener = Waiting()
    async with doors(opener) as (_, where):
        many = [await comes("127.0.0.2", where) for _ in range(3)]
        await until(opener, 3)
        reader, writer = await comes("127.0.0.2", where)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        other = await comes("127.0.0.3", where)
        await until(opener, 4)
        many[0][1].close()
        opener.ends.set()
        await until(opener, 0)
        opener.ends.clear()
        again = await comes("127.0.0.2", where)
        await until(opener, 1)
    for _, one in (*many, (reader, writer), other, again):
        one.close()


async def test_what_came_from_a_guest_that_is_gone_ends() -> None:
    opener = Waiting()
    async with doors(opener) as (door, where):
        gone, stays = await comes("127.0.0.2", where), await comes("127.0.0.3", where)
        await until(opener, 2)
        door.drop("127.0.0.2")
        await until(opener, 1)
        assert await gone[0].read() == b""
    for _, one in (gone, stays):
        one.close()


async def test_a_door_whose_maker_of_sockets_has_ended_is_made_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[socket.socket] = []

    class Ending:
        """Makes one socket, which listens, and no other."""

        async def made(self) -> socket.socket:
            """See Insider."""
            if made:
                raise ConnectionError("it has ended")
            made.append(one := socket.socket())
            one.setblocking(False)
            return one

        def close(self) -> None:
            """See Insider."""

    async def enter(pid: int, mark: int) -> Insider:
        return cast(Insider, Ending())

    monkeypatch.setattr(Insider, "enter", enter)
    gates = Gate(Records(), Authority(tmp_path))
    await gates.open(ID, os.getpid(), ("127.0.0.1", 0), "lo", 1)
    assert gates.has(ID)
    reader, writer = await comes("127.0.0.1", made[0].getsockname())
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    assert not gates.has(ID)
    made.clear()
    await gates.open(ID, os.getpid(), ("127.0.0.1", 0), "lo", 1)
    assert gates.has(ID)
    await gates.close()
    writer.close()
