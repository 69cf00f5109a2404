"""Standby by idleness and waking by who connects: nobody is lost, and the guest is the one that it was."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import ForkInstance, Instance, PortRequest, StandbyRequest, UpdateInstance
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, run, sh
from real.test_network import SERVE
from serving import Server

ASK = b"GET / HTTP/1.0\r\n\r\n"
HTTP = [PortRequest(guest=8000)]


async def ask(port: int) -> bytes:
    """What one connection gets, to its end. :raise OSError: it was lost."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 60)
    try:
        writer.write(ASK)
        return await asyncio.wait_for(reader.read(), 120)
    finally:
        writer.close()


async def serving(client: Client, guests: Guests, **more: Any) -> tuple[Instance, int]:
    """A guest with a web server and a mark in its memory, and the host port that leads there."""
    vm = await guests.boot(memory="128M", ports=HTTP, **more)
    await sh(client, vm.id, "mkdir -p /w; mount -t tmpfs none /w; " + SERVE.format(port=8000))
    port = vm.ports[0].host
    assert (await ask(port)).endswith(b"hello\n")
    return vm, port


async def asleep(client: Client, vm: Instance) -> None:
    """Once it is in standby."""
    await client.instances.wait(vm.id, ["suspended"], timeout=120)


@pytest.fixture(scope="module")
def own(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may be killed."""
    make_boot_files(base)
    folder = tmp_path_factory.mktemp("wake") / "data"
    share(base.data, folder)
    server = Server(folder).start()
    yield server
    finish(server)


async def test_idle_ones_sleep_and_are_woken_by_who_connects(client: Client, guests: Guests) -> None:
    vm, port = await serving(client, guests, standby=StandbyRequest(after=3600))
    booted = await sh(client, vm.id, "cat /proc/sys/kernel/random/boot_id")
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=2)))
    for _ in range(2):
        await asleep(client, vm)
        assert (await ask(port)).endswith(b"hello\n")
        woken = await client.instances.wait(vm.id, ["running"], timeout=60)
        assert woken.incarnation > vm.incarnation
        assert [p.host for p in woken.ports] == [port]
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=3600)))
    await ask(port)
    assert await sh(client, vm.id, "cat /proc/sys/kernel/random/boot_id; cat /w/index.html") == f"{booted}\nhello"


async def test_a_crowd_at_a_sleeping_door_is_served_whole(client: Client, guests: Guests) -> None:
    """Connections that come while it is being put into standby as well."""
    vm, port = await serving(client, guests, standby=StandbyRequest(after=3600))
    suspending = asyncio.create_task(client.instances.standby(vm.id))
    while (await client.instances.get(vm.id)).state == "running":  # who is let in before may be cut off
        await asyncio.sleep(0.01)
    early = [asyncio.create_task(ask(port)) for _ in range(20)]
    await asyncio.wait([suspending])
    answers = await asyncio.gather(*early, *(ask(port) for _ in range(20)))
    assert [answer[-6:] for answer in answers] == [b"hello\n"] * 40


async def test_an_open_connection_and_a_session_keep_it_awake(client: Client, guests: Guests) -> None:
    vm, port = await serving(client, guests, standby=StandbyRequest(after=3600))
    with socket.create_connection(("127.0.0.1", port)):
        await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1)))
        await asyncio.sleep(4)
        assert (await client.instances.get(vm.id)).state == "running"
        ran = asyncio.create_task(run(client, vm.id, "sleep", "5"))
        await asyncio.sleep(1)
    assert (await ran).code == 0
    await asleep(client, vm)


async def test_a_policy_that_comes_later_and_goes(client: Client, guests: Guests) -> None:
    """It holds for a machine that was started without one; without one nobody listens for it."""
    vm, port = await serving(client, guests)
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1)))
    await asleep(client, vm)
    while True:  # the server begins to listen a moment after passt has ended
        try:
            answer = await ask(port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.1)
    assert answer.endswith(b"hello\n")
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=0)))
    await client.instances.standby(vm.id)
    while True:
        try:
            await ask(port)
        except ConnectionRefusedError:
            break
        except ConnectionResetError:
            await asyncio.sleep(0.1)
    assert (await client.instances.get(vm.id)).state == "suspended"


async def test_a_copy_has_a_door_of_its_own(client: Client, guests: Guests) -> None:
    """Reached once it knows who it is; its policy is the source's."""
    vm, port = await serving(client, guests, standby=StandbyRequest(after=3600))
    guests.also(vm.name + "-copy")
    copy = await client.instances.fork(vm.id, ForkInstance(name=vm.name + "-copy"), wait="launched")
    assert copy.standby == vm.standby
    assert copy.ports[0].host != port
    for one in (copy.ports[0].host, port):
        assert (await ask(one)).endswith(b"hello\n")
    await client.instances.standby(copy.id)
    assert (await ask(copy.ports[0].host)).endswith(b"hello\n")


async def test_a_new_server_wakes_it_as_well(own: Server) -> None:
    async with own.client() as client:
        guests = Guests(client)
        vm, port = await serving(client, guests, standby=StandbyRequest(after=3600))
        own.kill()
        own.start()
    async with own.client() as client:
        assert (await ask(port)).endswith(b"hello\n")  # it runs on, and its door is there again
        await client.instances.standby(vm.id)
        own.kill()
        own.start()
    async with own.client() as client:
        while True:
            try:
                answer = await ask(port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
        assert answer.endswith(b"hello\n")
        await Guests(client).discard()
        await client.instances.delete(vm.id, force=True)
