"""What was saved and goes on is on the network as itself: open connections, leases and names, forwards, the way out."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from polyvisor.client import Client
from polyvisor.host.network.names import domain
from polyvisor.wire.native import ForkInstance, Instance, PortRequest
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, run, sh
from real.namespaces import HOST, WORLD, Ground, ground, listening
from real.test_bridge import DHCP, GATEWAY, fetch, reaches, resolve
from real.test_network import SERVE, get
from real.test_network import fetch as fetch_out
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root"),
]
ECHO = "mkfifo /tmp/f; (nc -l -p 7000 < /tmp/f | tee /tmp/got > /tmp/f) > /dev/null 2>&1 &"


@dataclass(frozen=True, slots=True)
class Place:
    """A server in each mode on one machine, and the world outside of it."""

    ground: Ground
    bridge: Server
    user: Server


@pytest.fixture(scope="module")
def place(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`base` comes first: it must not be started in here."""
    folder = tmp_path_factory.mktemp("memory-network")
    make_boot_files(base)
    with ground() as made, made.host.inside():
        servers = []
        for mode in ("bridge", "user"):
            share(base.data, folder / mode)
            servers.append(Server(folder / mode, "--network", mode, prefix=made.host.prefix).start())
        yield Place(made, *servers)
        for server in servers:
            finish(server)


@pytest.fixture
async def bridged(place: Place) -> AsyncIterator[Guests]:
    """Guests in bridge mode, gone after the test."""
    async with place.bridge.client() as client:
        guests = Guests(client)
        yield guests
        await guests.discard()


@pytest.fixture
async def behind(place: Place) -> AsyncIterator[Guests]:
    """Guests in user mode, gone after the test."""
    async with place.user.client() as client:
        guests = Guests(client)
        yield guests
        await guests.discard()


async def fork(guests: Guests, source: Instance, name: str, **more: object) -> Instance:
    """A fork that is discarded with the rest."""
    guests.also(name)
    asked = ForkInstance(name=name, **more)  # type: ignore[arg-type]  # a test knows what it asks for
    return await guests.client.instances.fork(source.id, asked, wait="ready")


def received(peer: socket.socket, length: int) -> bytes:
    """That many bytes."""
    data = b""
    while len(data) < length and (piece := peer.recv(length - len(data))):
        data += piece
    return data


async def test_an_open_connection_outlives_standby(bridged: Guests, place: Place) -> None:
    """The peer goes on sending meanwhile, and gets every byte back in order."""
    client = bridged.client
    vm = await bridged.boot(memory="96M")
    await run(client, vm.id, "sh", "-c", ECHO)
    await sh(client, vm.id, "until netstat -ltn | grep -q :7000; do sleep 0.1; done")
    with place.ground.host.inside():
        peer = socket.create_connection((str(vm.address), 7000), timeout=5)
    with peer:
        peer.settimeout(60)
        for turn in range(2):
            peer.sendall(b"before\n")
            assert await asyncio.to_thread(received, peer, 7) == b"before\n"
            assert (await client.instances.standby(vm.id)).state == "suspended"
            data = os.urandom(40_000)
            peer.sendall(data)
            await asyncio.sleep(2)
            await client.instances.restore(vm.id, wait="ready")
            assert await asyncio.to_thread(received, peer, len(data)) == data, turn


async def check(client: Client, vm: Instance) -> None:
    """Its address, its MAC, its name and its lease are its own."""
    assert f"inet {vm.address}/16" in await sh(client, vm.id, "ip -4 addr show eth0")
    assert str(vm.mac) in await sh(client, vm.id, "cat /sys/class/net/eth0/address")
    assert await sh(client, vm.id, "hostname") == vm.name
    zone = domain(vm.project)
    assert await sh(client, vm.id, DHCP.format("")) == f"{vm.address}/16 {GATEWAY} {GATEWAY} {zone} {zone}"


async def test_forks_on_a_bridge_meet_as_neighbours(bridged: Guests, place: Place) -> None:
    client = bridged.client
    source = await bridged.boot(memory="96M", name="source")
    await reaches(client, source, GATEWAY)  # it has neighbours in memory
    one, two = await asyncio.gather(fork(bridged, source, "one"), fork(bridged, source, "two"))
    found = [source, one, two]
    assert len({vm.address for vm in found}) == len({vm.mac for vm in found}) == 3
    for vm in found:
        await check(client, vm)
        for other in found:
            assert await resolve(client, vm, other.name) == other.address
            assert await reaches(client, vm, other.address)
    await run(client, two.id, "sh", "-c", "echo hello > /tmp/index.html; httpd -p 8000 -h /tmp")
    assert await fetch(client, one, two.address, 8000) == "hello\n"
    with listening(place.ground.world, WORLD) as port:
        for vm in found:
            assert await fetch(client, vm, WORLD, port) == f"you are {HOST}"
    await client.instances.standby(one.id)
    assert await reaches(client, two, source.address)
    again = await client.instances.restore(one.id, wait="ready")
    assert again.address == one.address
    await check(client, again)
    assert await reaches(client, again, two.address)


async def test_a_fork_in_user_mode_has_forwards_and_a_way_out(behind: Guests, place: Place) -> None:
    client = behind.client
    source = await behind.boot(memory="96M", ports=[{"guest": 8000}])
    await sh(client, source.id, SERVE.format(port=8000))
    same = await fork(behind, source, "same")
    other = await fork(behind, source, "other", ports=[PortRequest(guest=8000), PortRequest(guest=9000)])
    hosts = [port.host for vm in (source, same, other) for port in vm.ports]
    assert len(set(hosts)) == 4 and [port.guest for port in other.ports] == [8000, 9000]
    for vm in (same, other):
        await sh(client, vm.id, f"echo {vm.name} > /w/index.html")
    await sh(client, other.id, SERVE.format(port=9000).replace("hello", "other"))
    assert [get(port) for port in hosts] == ["hello\n", "same\n", "other\n", "other\n"]
    with listening(place.ground.world, WORLD) as port:
        for vm in (source, same, other):
            assert await fetch_out(client, vm, WORLD, port) == f"you are {HOST}"
    await client.instances.standby(same.id)
    again = await client.instances.restore(same.id, wait="ready")
    assert get(again.ports[0].host) == "same\n"
