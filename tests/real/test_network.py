"""User mode with real guests: forwards, the way out, and what is closed: this host's loopback and other guests."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import Instance
from real.conftest import finish
from real.guests import Guests, make_boot_files, run, sh
from real.namespaces import HOST, WORLD, WORLD_NAME, Ground, Namespace, command, ground, listening
from serving import Server, machines_of

SERVE = "mkdir -p /w; echo hello > /w/index.html; httpd -p {port} -h /w"


def get(port: int) -> str:
    """What the host gets over HTTP through a forward; a guest's program may not listen yet."""
    url = f"http://127.0.0.1:{port}/"
    return command("curl", "-s", "-m", "5", "--retry", "5", "--retry-all-errors", url, check=False)


def ask_udp(port: int, data: bytes) -> bytes:
    """One datagram there and one back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.sendto(data, ("127.0.0.1", port))
        return sock.recv(100)


async def fetch(client: Client, guest: Instance, address: str, port: int) -> str:
    """The body that a guest gets over HTTP; empty when nobody answers."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port}"
    ran = await run(client, guest.id, "sh", "-c", ask)
    return ran.out.decode().partition("\r\n\r\n")[2]


async def test_forwards_lead_into_the_guest(client: Client, guests: Guests) -> None:
    ports = [{"guest": 8000}, {"guest": 9000, "protocol": "udp"}, {"guest": 8000}]
    vm = await guests.boot(ports=ports)
    told = [(p.protocol, p.guest) for p in vm.ports]
    assert told == [("tcp", 8000), ("udp", 9000), ("tcp", 8000)] and len({p.host for p in vm.ports}) == 3
    await sh(client, vm.id, SERVE.format(port=8000))
    await sh(client, vm.id, "nohup nc -u -l -p 9000 -e cat >/dev/null 2>&1 &")
    assert get(vm.ports[0].host) == get(vm.ports[2].host) == "hello\n"
    assert await asyncio.to_thread(ask_udp, vm.ports[1].host, b"ping") == b"ping"


async def test_a_wanted_host_port_is_used_and_kept(client: Client, guests: Guests) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    vm = await guests.boot(ports=[{"guest": 80, "host": port}])
    assert [p.host for p in vm.ports] == [port]
    await client.instances.restart(vm.id, wait="ready")
    await sh(client, vm.id, SERVE.format(port=80))
    assert get(port) == "hello\n"


async def test_a_taken_host_port_is_named_and_nothing_runs(client: Client, guests: Guests, base: Server) -> None:
    before = machines_of(base.data)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(Refused) as caught:
            await guests.boot(name="taken", ports=[{"guest": 80, "host": port}])
    assert caught.value.status == 409 and str(port) in str(caught.value) and "ports" in str(caught.value)
    assert (await client.instances.get("taken")).state == "failed"
    assert machines_of(base.data) == before


async def test_a_port_that_needs_rights_is_refused_at_once(client: Client, guests: Guests) -> None:
    with pytest.raises(Refused) as caught:
        await guests.make(ports=[{"guest": 80, "host": 79}])
    assert caught.value.problem.field == "ports" and caught.value.kind == "Invalid"
    assert "1024" in str(caught.value)


async def test_many_at_once_get_ports_of_their_own(client: Client, guests: Guests) -> None:
    made = await asyncio.gather(*(guests.boot(ports=[{"guest": 8000}, {"guest": 8001}]) for _ in range(4)))
    assert len({p.host for vm in made for p in vm.ports}) == 8


async def test_without_a_network_there_is_no_device(client: Client, guests: Guests) -> None:
    vm = await guests.boot(network=False)
    assert (vm.address, vm.mac, vm.ports) == (None, None, [])
    assert await sh(client, vm.id, "ls /sys/class/net") == "lo"


async def test_guests_do_not_meet_and_do_not_reach_this_hosts_loopback(client: Client, guests: Guests) -> None:
    """By whatever address: the gateway's, loopback's own, no address at all."""
    one, two = await asyncio.gather(guests.boot(), guests.boot(ports=[{"guest": 8000}]))
    await sh(client, two.id, SERVE.format(port=8000))
    assert two.address and get(two.ports[0].host) == "hello\n"
    assert await fetch(client, one, two.address, 8000) == ""
    gateway = await sh(client, one.id, "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'")
    await sh(client, one.id, "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo")
    await sh(client, one.id, "ip route del local 127.0.0.0/8 dev lo table local 2>/dev/null; true")
    await sh(client, one.id, f"ip route add 127.0.0.0/8 via {gateway}")
    assert "eth0" in await sh(client, one.id, "ip route get 127.0.0.1")
    with listening(None, "127.0.0.1") as port:
        assert get(port) == "you are 127.0.0.1"
        for address in (gateway, "127.0.0.1", "127.0.0.2"):
            assert await fetch(client, one, address, port) == "", address


@pytest.fixture
def outside(base: Server, another: Callable[..., Server]) -> Iterator[tuple[Ground, Server]]:
    """A server in user mode on ground of its own."""
    make_boot_files(base)
    with ground() as made, made.host.inside():
        server = another(prefix=made.host.prefix)
        yield made, server
        finish(server)


@pytest.mark.bridge
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
async def test_the_way_out(outside: tuple[Ground, Server]) -> None:
    """Names and connections lead to the world. What passt of Debian 12 cannot close is this host's outward address."""
    made, server = outside
    async with server.client() as client:
        vm = await Guests(client).boot(ports=[{"guest": 8000}])
        await sh(client, vm.id, SERVE.format(port=8000))
        assert get(vm.ports[0].host) == "hello\n"
        assert f"({WORLD})" in (await run(client, vm.id, "ping", "-c", "1", "-W", "1", WORLD_NAME)).out.decode()
        with listening(made.world, WORLD) as port:
            assert await fetch(client, vm, WORLD, port) == f"you are {HOST}"
        with listening(made.host, "127.0.0.1") as port:
            assert await fetch(client, vm, HOST, port) == ""
        with listening(made.host, HOST) as port:
            assert await fetch(client, vm, HOST, port) == f"you are {HOST}"


@pytest.mark.bridge
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
async def test_a_host_that_leads_nowhere_has_forwards(base: Server, another: Callable[..., Server]) -> None:
    make_boot_files(base)
    space = Namespace()
    try:
        with space.inside():
            server = another(prefix=space.prefix)
            async with server.client() as client:
                vm = await Guests(client).boot(ports=[{"guest": 8000}])
                await sh(client, vm.id, SERVE.format(port=8000))
                assert get(vm.ports[0].host) == "hello\n"
            finish(server)
    finally:
        space.remove()
