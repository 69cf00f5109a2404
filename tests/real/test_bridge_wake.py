"""Bridge mode: who is idle sleeps, and whoever sends TCP to its address wakes it; no connection is lost. In a network
namespace of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from polyvisor.client import Client
from polyvisor.host.network.bridge import tap_name
from polyvisor.host.network.sleepers import Sleepers
from polyvisor.host.network.tap import open_tap
from polyvisor.model.faults import Unavailable
from polyvisor.model.ids import InstanceId, mint
from polyvisor.model.instance import Address
from polyvisor.wire.native import ForkInstance, HealthRequest, Instance, StandbyRequest, UpdateInstance
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, run, sh
from real.namespaces import Ground, Namespace, command, ground
from real.test_bridge import BRIDGE, second_project
from real.test_standby_wake import ASK, asleep
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root"),
]

PORT = 8000
# Several, since the backlog of one holds nine: where it overflows, a slow guest forgets those who wait for it.
PORTS = range(PORT, PORT + 8)
SERVE = f"for port in $(seq {PORTS[0]} {PORTS[-1]}); do httpd -p $port -h /w; done"
LONG = StandbyRequest(after=3600)


@pytest.fixture(scope="module")
def own(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ground, Server]]:
    """A server in bridge mode that may be killed."""
    make_boot_files(base)
    data = tmp_path_factory.mktemp("bridge-wake") / "data"
    share(base.data, data)
    with ground() as made, made.host.inside():
        server = Server(data, "--network", "bridge", prefix=made.host.prefix).start()
        yield made, server
        finish(server)


@pytest.fixture
def server(own: tuple[Ground, Server]) -> Server:
    """It."""
    return own[1]


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """Its operator."""
    async with server.client() as client:
        yield client


async def ask(vm: Instance, number: int = 0) -> bytes:
    """What one connection to the guest's own address gets, to its end. :raise OSError: it was lost."""
    reader, writer = await asyncio.wait_for(asyncio.open_connection(vm.address, PORTS[number % len(PORTS)]), 120)
    try:
        writer.write(ASK)
        return await asyncio.wait_for(reader.read(), 120)
    finally:
        writer.close()


async def serving(client: Client, guests: Guests, **more: Any) -> Instance:
    """A guest with a web server, to which no connection is left: its last segment would wake it."""
    vm = await guests.boot(memory="128M", **more)
    await sh(client, vm.id, "mkdir -p /w; mount -t tmpfs none /w; echo hello > /w/index.html")
    await sh(client, vm.id, SERVE)
    assert (await ask(vm)).endswith(b"hello\n")
    while command("ss", "-Htn", "dst", str(vm.address)):
        await asyncio.sleep(0.05)
    return vm


async def went_on(client: Client, vm: Instance) -> Instance:
    """It, once its record says that it went on, which may be later than its first answer."""
    while (now := await client.instances.get(vm.id)).incarnation == vm.incarnation:
        await asyncio.sleep(0.05)
    return now


def traces(vm: Instance) -> list[str]:
    """What the host knows of a guest's place in the network."""
    tap, found = tap_name(InstanceId(vm.id)), []
    if vm.address in command("ip", "-4", "neigh", "show", "nud", "permanent").split():
        found.append("neighbour")
    if tap in command("ip", "link", "show"):
        found.append("device")
    if tap in command("nft", "list", "ruleset"):
        found.append("rules")
    return found


def held(server: Server) -> list[str]:
    """The TAP devices that the server holds."""
    found = []
    for file in Path(f"/proc/{server.pid}/fdinfo").iterdir():
        found += [line.split()[1] for line in file.read_text().splitlines() if line.startswith("iff:")]
    return found


async def test_idle_ones_sleep_and_are_woken_by_who_connects(client: Client, guests: Guests) -> None:
    vm = await serving(client, guests, standby=LONG)
    booted = await sh(client, vm.id, "cat /proc/sys/kernel/random/boot_id")
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=2)))
    for _ in range(2):
        await asleep(client, vm)
        assert (await ask(vm)).endswith(b"hello\n")
        vm = await went_on(client, vm)
    await client.instances.update(vm.id, UpdateInstance(standby=LONG))
    await ask(vm)
    await client.instances.wait(vm.id, ["running"], timeout=60)
    assert await sh(client, vm.id, "cat /proc/sys/kernel/random/boot_id") == booted


async def test_a_crowd_at_a_sleeping_address_is_served_whole(client: Client, guests: Guests) -> None:
    """Connections that come while it is being put into standby as well, and before."""
    vm = await serving(client, guests, standby=LONG)
    early = [asyncio.create_task(ask(vm, n)) for n in range(20)]
    await client.instances.standby(vm.id)
    answers = await asyncio.gather(*early, *(ask(vm, n) for n in range(20)))
    assert [answer[-6:] for answer in answers] == [b"hello\n"] * 40


async def test_no_request_of_many_is_lost(client: Client, guests: Guests) -> None:
    """Each to one that sleeps, that is just going to, or that just goes on."""
    vm = await serving(client, guests, standby=LONG)

    async def late(number: int) -> bytes:
        await asyncio.sleep(number * 0.02)
        return await ask(vm, number)

    for _ in range(5):
        await ask(vm)
        await client.instances.wait(vm.id, ["running"], timeout=60)
        asked = [asyncio.create_task(late(n)) for n in range(20)]
        await client.instances.standby(vm.id)
        assert [answer[-6:] for answer in await asyncio.gather(*asked)] == [b"hello\n"] * 20


async def test_a_connection_lives_through_standby(client: Client, guests: Guests) -> None:
    """The guest remembers it, and so does the host: the next segment wakes."""
    vm = await serving(client, guests, standby=LONG)
    reader, writer = await asyncio.open_connection(vm.address, PORT)
    writer.write(ASK[:7])
    await writer.drain()
    await client.instances.standby(vm.id)
    writer.write(ASK[7:])
    assert (await asyncio.wait_for(reader.read(), 120)).endswith(b"hello\n")
    writer.close()
    assert (await went_on(client, vm)).address == vm.address


async def test_an_open_connection_and_a_session_keep_it_awake(client: Client, guests: Guests) -> None:
    """But for those that the policy does not count."""
    vm = await serving(client, guests, standby=LONG)
    with socket.create_connection((vm.address, PORT)):
        await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1)))
        await asyncio.sleep(4)
        assert (await client.instances.get(vm.id)).state == "running"
        ran = asyncio.create_task(run(client, vm.id, "sleep", "5"))
        await asyncio.sleep(1)
    assert (await ran).code == 0
    await asleep(client, vm)
    for ignored in ({"ignore_ports": [PORT]}, {"ignore_sources": ["10.77.0.1"]}):
        await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=3600)))
        await ask(vm)
        with socket.create_connection((vm.address, PORT)):
            await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1, **ignored)))
            await asleep(client, vm)


async def test_short_connections_count_and_checks_of_health_do_not(client: Client, guests: Guests) -> None:
    check = HealthRequest(probe="http", port=PORT, interval=0.5, timeout=10)
    vm = await serving(client, guests, standby=LONG, health=check)
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=8)))
    for _ in range(20):
        assert (await ask(vm)).endswith(b"hello\n")
        await asyncio.sleep(0.5)
    assert (await client.instances.get(vm.id)).incarnation == vm.incarnation
    await asleep(client, vm)


async def test_only_tcp_wakes(client: Client, guests: Guests) -> None:
    vm = await serving(client, guests, standby=LONG)
    await client.instances.standby(vm.id)
    assert "0 received" in command("ping", "-q", "-c", "2", "-W", "1", str(vm.address), check=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", (vm.address, PORT))
    command("ip", "neigh", "del", str(vm.address), "dev", BRIDGE)  # what is asked for by ARP is answered in its stead
    assert "0 received" in command("ping", "-q", "-c", "1", "-W", "1", str(vm.address), check=False)
    assert str(vm.mac) in command("ip", "neigh", "show", str(vm.address))
    assert (await client.instances.get(vm.id)).state == "suspended"
    assert (await ask(vm)).endswith(b"hello\n")


async def test_others_of_its_project_wake_it_and_keep_it_awake(client: Client, guests: Guests, server: Server) -> None:
    """Those of another project do not, but they are told nothing either."""
    vm = await serving(client, guests, standby=LONG)
    other = await guests.boot()
    fetch = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 60 {vm.address} {PORT} | tail -n 1"
    key = await second_project(server)
    async with server.client(key) as strangers:
        aliens = Guests(strangers)
        alien = await aliens.boot()
        await client.instances.standby(vm.id)
        assert await sh(strangers, alien.id, f"nc -w 2 {vm.address} {PORT} < /dev/null || echo nobody") == "nobody"
        assert (await client.instances.get(vm.id)).state == "suspended"
        await aliens.discard()
    assert await sh(client, other.id, fetch) == "hello"
    again = await went_on(client, vm)
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=8)))
    said = await sh(client, other.id, f"for n in $(seq 10); do {fetch}; sleep 1; done")
    assert said.split() == ["hello"] * 10
    assert (await client.instances.get(vm.id)).incarnation == again.incarnation
    await asleep(client, vm)
    assert await sh(client, other.id, fetch) == "hello"


async def test_a_policy_that_comes_later_and_goes(client: Client, guests: Guests, server: Server) -> None:
    """It holds for a machine that was started without one; without one nobody minds its device."""
    vm = await serving(client, guests)
    tap = tap_name(InstanceId(vm.id))
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1)))
    await asleep(client, vm)
    await client.instances.update(vm.id, UpdateInstance(standby=LONG))
    assert (await ask(vm)).endswith(b"hello\n")
    await client.instances.wait(vm.id, ["running"], timeout=60)
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=0)))
    await client.instances.standby(vm.id)
    assert traces(vm) == [] and tap not in held(server)
    await client.instances.update(vm.id, UpdateInstance(standby=LONG))
    while tap not in held(server):
        await asyncio.sleep(0.1)
    await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=0)))
    while traces(vm):
        await asyncio.sleep(0.1)
    assert tap not in held(server) and (await client.instances.get(vm.id)).state == "suspended"


@pytest.mark.parametrize("end", ["stop", "delete"])
async def test_the_end_of_a_sleeper_leaves_nothing(client: Client, guests: Guests, server: Server, end: str) -> None:
    vm = await serving(client, guests, standby=LONG)
    await client.instances.standby(vm.id)
    assert traces(vm) == ["neighbour", "device", "rules"] and tap_name(InstanceId(vm.id)) in held(server)
    await (client.instances.stop(vm.id) if end == "stop" else client.instances.delete(vm.id, force=True))
    assert traces(vm) == [] and tap_name(InstanceId(vm.id)) not in held(server)
    assert command("conntrack", "-L", "--orig-dst", str(vm.address)) == ""


async def test_who_calls_one_whose_memory_is_broken_is_told(client: Client, guests: Guests, server: Server) -> None:
    """It stays in standby; with its memory whole again it is woken."""
    vm = await serving(client, guests, standby=LONG)
    await client.instances.standby(vm.id)
    saved = json.loads((server.data / "instances" / vm.id / "memory.json").read_text())["saved"]
    devices = server.data / "memory" / saved / "devices"
    whole = devices.read_bytes()
    devices.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConnectionRefusedError):
        await ask(vm)
    assert (await client.instances.wait(vm.id, ["suspended"], timeout=60)).id == vm.id
    devices.write_bytes(whole)
    assert (await ask(vm)).endswith(b"hello\n")


async def test_a_copy_is_woken_at_its_own_address(client: Client, guests: Guests) -> None:
    """Its policy is the source's."""
    vm = await serving(client, guests, standby=LONG)
    guests.also(vm.name + "-copy")
    copy = await client.instances.fork(vm.id, ForkInstance(name=vm.name + "-copy"), wait="ready")
    assert copy.standby == vm.standby and copy.address != vm.address
    await client.instances.standby(copy.id)
    assert [(await ask(one))[-6:] for one in (copy, vm)] == [b"hello\n"] * 2


async def test_a_killed_servers_sleepers_are_woken_by_the_next_one(server: Server) -> None:
    """Who connects while there is none is served once there is. So is who connects to one that ran on meanwhile."""
    async with server.client() as client:
        guests = Guests(client)
        vm = await serving(client, guests, standby=LONG)
        server.kill()
        server.start()
    async with server.client() as client:
        assert (await ask(vm)).endswith(b"hello\n")
        await client.instances.standby(vm.id)
        server.kill()
        waiting = asyncio.create_task(ask(vm))
        await asyncio.sleep(0.1)
        server.start()
        assert (await waiting).endswith(b"hello\n")
    async with server.client() as client:
        await client.instances.standby(vm.id)
        assert server.stop() == 0
        server.start()
    async with server.client() as client:
        assert (await ask(vm)).endswith(b"hello\n")
        await client.instances.delete(vm.id, force=True)
    assert traces(vm) == []


@pytest.fixture
def space() -> Iterator[Namespace]:
    """A bridge and a device on it, as a sleeper has them."""
    made = Namespace()
    try:
        for line in (
            "link add br0 type bridge stp_state 0", "addr add 10.77.0.1/16 dev br0", "link set br0 up",
            "tuntap add pvsome mode tap vnet_hdr", "link set pvsome master br0 up",
        ):  # fmt: skip
            made.run("ip", *line.split())
        yield made
    finally:
        made.remove()


async def test_who_calls_one_that_cannot_be_woken_is_told(space: Namespace) -> None:
    """And who calls one that can finds the call in the descriptor that its hypervisor gets, whatever came meanwhile."""
    id, called = InstanceId(mint()), asyncio.Event()
    address = Address("02:00:00:00:00:01", "10.77.0.10", 16, "10.77.0.1", "10.77.0.1")
    sleepers = Sleepers(lambda _: called.set())
    with space.inside():
        sleepers.mind(id, address, "pvsome")
        try:
            with pytest.raises(Unavailable):
                open_tap("pvsome")
            connecting = asyncio.create_task(asyncio.open_connection("10.77.0.10", PORT))
            await asyncio.wait_for(called.wait(), 30)
            assert sleepers.turn_away(id) == 1
            with pytest.raises(ConnectionRefusedError):
                await asyncio.wait_for(connecting, 30)
            called.clear()
            connecting = asyncio.create_task(asyncio.open_connection("10.77.0.10", PORT))
            await asyncio.wait_for(called.wait(), 30)
            frame = os.read(sleepers.hand(id, address, "pvsome"), 65536)
            assert frame[10 + 14 + 20 + 13] == 0x02  # its flags: the SYN
            connecting.cancel()
            space.run("ip", "link", "del", "pvsome")
            space.run("ip", "tuntap", "add", "pvsome", "mode", "tap", "vnet_hdr")
            sleepers.mind(id, address, "pvsome")  # made anew
            assert sleepers.minds(id)
        finally:
            sleepers.close_all()
        os.close(open_tap("pvsome"))
