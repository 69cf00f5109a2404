"""Bridge mode with real guests: addresses, names, NAT, walls between tenants and before the host, and what a restart of
the server does to them: nothing. All of it in network namespaces of the test's own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import pytest

from polyvisor.access.credentials import new_key
from polyvisor.client import Client, Refused
from polyvisor.host.network.bridge import tap_name
from polyvisor.host.network.names import domain
from polyvisor.host.network.tap import open_tap
from polyvisor.host.paths import Paths
from polyvisor.model.faults import Unavailable
from polyvisor.model.identity import Project
from polyvisor.model.ids import InstanceId, ProjectId, mint
from polyvisor.store import open_store
from polyvisor.wire.native import CreateIngress, Instance
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, run, sh
from real.namespaces import HOST, METADATA, WORLD, WORLD_NAME, Ground, Namespace, command, ground, listening
from real.upstream import machines_of
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root"),
]

BRIDGE = "polyvisor0"
GATEWAY = "10.77.0.1"
# What DHCP said, in one line. A guest's own client would set what we compare with.
DHCP = """printf '#!/bin/sh\\n[ "$1" = bound ] && echo "$ip/$mask $router $dns $domain $search"\\n' > /tmp/said
chmod +x /tmp/said; udhcpc -i eth0 -O search -n -q -f -t 5 -T 1 -s /tmp/said {} 2>/dev/null"""


@dataclass(frozen=True, slots=True)
class Place:
    """A server in bridge mode, two guests of one project and one of another; `key` is the other's."""

    ground: Ground
    server: Server
    key: str
    one: Instance
    two: Instance
    alien: Instance

    def told(self) -> Path:
        """Where dnsmasq is told of instances."""
        return Paths(self.server.data).run


async def second_project(server: Server) -> str:
    """The key of another project's owner."""
    store = await open_store(f"sqlite:///{server.data / 'polyvisor.db'}")
    project = Project(ProjectId(mint()), "second", datetime.now(UTC), ProjectId(server.facts["project"]))
    key, record = new_key("second", project.id, datetime.now(UTC))
    async with store.write() as unit:
        await unit.identities.add_project(project)
        await unit.identities.add_key(record)
    await store.close()
    return key


async def _settle(server: Server) -> tuple[str, list[Instance]]:
    """Names that are words of their own in dnsmasq's language, one of them in both projects."""
    key = await second_project(server)
    async with server.client() as mine, server.client(key) as other:
        made = await asyncio.gather(
            Guests(mine).boot(name="12h"), Guests(mine).boot(name="infinite"), Guests(other).boot(name="infinite")
        )
    return key, list(made)


async def _delete(server: Server, key: str, guest: Instance) -> None:
    async with server.client(key) as client:
        await client.instances.delete(guest.id, force=True)


@pytest.fixture(scope="module")
def place(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`base` comes first: it must not be started in here."""
    data = tmp_path_factory.mktemp("bridge") / "data"
    make_boot_files(base)
    share(base.data, data)
    with ground() as made, made.host.inside():
        server = Server(data, "--network", "bridge", prefix=made.host.prefix).start()
        key, guests = asyncio.run(_settle(server))
        yield Place(made, server, key, *guests)
        if server.process is None:
            server.start()
        asyncio.run(_delete(server, key, guests[2]))
        finish(server)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    """The first project's."""
    async with place.server.client() as client:
        yield client


@pytest.fixture
async def other(place: Place) -> AsyncIterator[Client]:
    """The second project's."""
    async with place.server.client(place.key) as client:
        yield client


async def reaches(client: Client, guest: Instance, address: str | None, **more: object) -> bool:
    """Whether a guest gets an answer to a ping."""
    flags = "".join(f" -{name} {value}" for name, value in more.items())
    ran = await run(client, guest.id, "sh", "-c", f"ping -q -c 2 -W 1{flags} {address}")
    return ran.code == 0


async def fetch(client: Client, guest: Instance, address: str | None, port: int) -> str:
    """The body that a guest gets over HTTP; empty when nobody answers."""
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port}"
    ran = await run(client, guest.id, "sh", "-c", ask)
    return ran.out.decode().partition("\r\n\r\n")[2]


# -- addresses and names -----------------------------------------------------------------------------------------------


async def test_dhcp_gives_a_guest_the_address_that_it_has(client: Client, place: Place) -> None:
    for guest in (place.one, place.two):
        assert guest.address and guest.mac
        assert f"inet {guest.address}/16" in await sh(client, guest.id, "ip -4 addr show eth0")
        assert guest.mac in await sh(client, guest.id, "cat /sys/class/net/eth0/address")
        zone = domain(guest.project)
        assert await sh(client, guest.id, DHCP.format("")) == f"{guest.address}/16 {GATEWAY} {GATEWAY} {zone} {zone}"


async def test_an_address_is_kept_over_stop_and_restart_of_guest_and_server(client: Client, place: Place) -> None:
    await client.instances.stop(place.two.id, force=True)
    assert tap_name(InstanceId(place.two.id)) not in place.ground.host.links()
    place.server.stop()
    place.server.start()
    async with place.server.client() as again:
        await again.instances.start(place.two.id, wait="ready")
        now = await again.instances.get(place.two.id)
        assert (now.address, now.mac) == (place.two.address, place.two.mac)
        assert f"inet {now.address}/16" in await sh(again, now.id, "ip -4 addr show eth0")
        assert (await sh(again, now.id, DHCP.format(""))).startswith(f"{now.address}/16 ")
        assert await reaches(again, place.one, now.address)


async def resolve(client: Client, guest: Instance, name: str) -> str:
    """The address of a name, as a program in the guest finds it; empty: there is none."""
    said = (await run(client, guest.id, "ping", "-q", "-c", "1", "-W", "1", name)).out.decode()
    found = re.search(r"PING \S+ \(([0-9.]+)\)", said)
    return found[1] if found else ""


async def test_names_are_found_in_a_project_and_belong_to_it(client: Client, other: Client, place: Place) -> None:
    assert await resolve(client, place.one, "infinite") == place.two.address
    assert await resolve(client, place.two, "12h") == place.one.address
    assert await resolve(other, place.alien, "infinite") == place.alien.address
    assert await resolve(other, place.alien, "12h") == ""
    assert await resolve(client, place.one, f"infinite.{domain(place.one.project)}") == place.two.address


async def test_a_name_that_a_guest_gives_itself_is_not_believed(client: Client, other: Client, place: Place) -> None:
    await sh(other, place.alien.id, DHCP.format(f"-x hostname:stolen -F stolen.{domain(place.one.project)}"))
    for name in ("stolen", f"stolen.{domain(place.one.project)}", "stolen.polyvisor.internal"):
        assert await resolve(client, place.one, name) == ""
    assert await resolve(client, place.one, "infinite") == place.two.address


async def test_names_of_the_world_are_asked_of_the_world(client: Client, place: Place) -> None:
    assert await resolve(client, place.one, WORLD_NAME) == WORLD


# -- what a guest reaches ----------------------------------------------------------------------------------------------


async def test_the_world_sees_the_hosts_address(client: Client, place: Place) -> None:
    with listening(place.ground.world, WORLD) as port:
        assert await fetch(client, place.one, WORLD, port) == f"you are {HOST}"


async def test_of_the_host_a_guest_reaches_only_dhcp_dns_and_ping(client: Client, place: Place) -> None:
    assert await reaches(client, place.one, GATEWAY)
    assert await resolve(client, place.one, WORLD_NAME) == WORLD
    for address in (GATEWAY, HOST, "0.0.0.0"):
        with listening(place.ground.host, address) as port:
            for target in {GATEWAY, HOST} if address == "0.0.0.0" else {address}:
                assert command("curl", "-s", "-m", "5", f"http://{target}:{port}/")
                assert await fetch(client, place.one, target, port) == ""
    assert not await reaches(client, place.one, HOST)


async def test_the_metadata_range_is_out_of_reach(client: Client, place: Place) -> None:
    with listening(place.ground.world, METADATA) as port:
        assert command("curl", "-s", "-m", "5", f"http://{METADATA}:{port}/") == f"you are {HOST}"
        assert await fetch(client, place.one, METADATA, port) == ""


async def test_guests_of_one_project_meet_and_those_of_two_do_not(client: Client, other: Client, place: Place) -> None:
    assert place.alien.project != place.one.project
    assert await reaches(client, place.one, place.two.address) and await reaches(client, place.two, place.one.address)
    await run(client, place.two.id, "sh", "-c", "echo hello > /tmp/index.html; httpd -p 8000 -h /tmp")
    assert await fetch(client, place.one, place.two.address, 8000) == "hello\n"
    assert not await reaches(client, place.one, place.alien.address)
    for victim in (place.one, place.two):
        assert not await reaches(other, place.alien, victim.address)
    assert await fetch(other, place.alien, place.two.address, 8000) == ""


async def test_the_host_is_no_way_round_the_wall(client: Client, other: Client, place: Place) -> None:
    """A route through the gateway would have the host carry what the bridge does not."""
    victim = place.two.address
    await run(client, place.two.id, "sh", "-c", "echo hello > /tmp/index.html; httpd -p 8000 -h /tmp")
    await sh(other, place.alien.id, f"ip route add {victim} via {GATEWAY}")
    await sh(client, place.two.id, f"ip route add {place.alien.address} via {GATEWAY}")  # an accomplice
    assert not await reaches(other, place.alien, victim)
    assert await fetch(other, place.alien, victim, 8000) == ""
    await sh(other, place.alien.id, f"ip route del {victim}")
    await sh(client, place.two.id, f"ip route del {place.alien.address}")
    assert await reaches(client, place.one, victim)


async def test_the_host_reaches_a_guest(client: Client, place: Place) -> None:
    await run(client, place.two.id, "sh", "-c", "echo hello > /tmp/index.html; httpd -p 8000 -h /tmp")
    assert command("curl", "-s", "-m", "5", f"http://{place.two.address}:8000/") == "hello\n"
    assert not place.ground.world.run("curl", "-s", "-m", "2", f"http://{place.two.address}:8000/", check=False)


# -- who a guest says it is --------------------------------------------------------------------------------------------


async def test_a_foreign_ip_address_is_not_let_through(client: Client, place: Place) -> None:
    await sh(client, place.one.id, "ip addr add 10.77.9.9/16 dev eth0")
    assert not await reaches(client, place.one, GATEWAY, I="10.77.9.9")
    assert await reaches(client, place.one, GATEWAY, I=place.one.address)
    await sh(client, place.one.id, "ip addr del 10.77.9.9/16 dev eth0")


async def test_a_foreign_mac_address_is_not_let_through(client: Client, place: Place) -> None:
    change = (
        f"ip link set eth0 down; ip link set eth0 address {{}}; ip link set eth0 up; ip route add default via {GATEWAY}"
    )
    await sh(client, place.one.id, change.format(place.two.mac))
    assert not await reaches(client, place.one, GATEWAY)
    await sh(client, place.one.id, change.format(place.one.mac))
    assert await reaches(client, place.one, GATEWAY)


async def test_a_neighbours_address_cannot_be_taken_by_arp(client: Client, place: Place) -> None:
    neighbour = f"ip neigh show {place.two.address} dev {BRIDGE}"
    assert "1 received" in command("ping", "-q", "-c", "1", "-W", "2", str(place.two.address))
    steal = f"ip addr add {place.two.address}/32 dev lo; arping -q -U -c 2 -I eth0 -s {place.two.address} {GATEWAY}"
    await run(client, place.one.id, "sh", "-c", f"{steal}; arping -q -A -c 2 -I eth0 {place.two.address}")
    assert str(place.two.mac) in command(*neighbour.split())
    assert "1 received" in command("ping", "-q", "-c", "1", "-W", "2", str(place.two.address))
    await sh(client, place.one.id, f"ip addr del {place.two.address}/32 dev lo")


# -- coming and going --------------------------------------------------------------------------------------------------


async def test_a_deleted_instance_leaves_nothing(client: Client, place: Place) -> None:
    """The bridge keeps its MAC as devices come and go, or guests would look for it in vain."""
    mac = place.ground.host.links()[BRIDGE]["address"]
    guest = await Guests(client).boot()
    tap, files = tap_name(InstanceId(guest.id)), [place.told() / kind / guest.id for kind in ("hosts", "names")]
    assert tap in place.ground.host.links() and all(file.exists() for file in files)
    assert tap in command("nft", "list", "table", "bridge", "polyvisor")
    assert place.ground.host.links()[BRIDGE]["address"] == mac
    await client.instances.delete(guest.id, force=True)
    assert tap not in place.ground.host.links() and not any(file.exists() for file in files)
    rules = command("nft", "list", "table", "bridge", "polyvisor")
    assert tap not in rules and tap_name(InstanceId(place.one.id)) in rules
    assert place.ground.host.links()[BRIDGE]["address"] == mac
    assert await reaches(client, place.one, GATEWAY)


async def test_rules_that_somebody_flushed_are_whole_again_with_the_next_guest(client: Client, place: Place) -> None:
    command("nft", "flush", "ruleset")
    guest = await Guests(client).boot()
    rules = command("nft", "list", "ruleset")
    assert all(tap_name(InstanceId(g.id)) in rules for g in (place.one, place.two, place.alien, guest))
    command("nft", "flush", "ruleset")
    await client.instances.delete(guest.id, force=True)
    rules = command("nft", "list", "ruleset")
    assert tap_name(InstanceId(place.one.id)) in rules and tap_name(InstanceId(guest.id)) not in rules


SIZE = 2 << 20


async def sent_by(client: Client, guest: Instance) -> float:
    """How many seconds a guest takes to send so much."""
    await sh(client, guest.id, f"head -c {SIZE} /dev/zero > /tmp/much; pidof httpd || httpd -p 8000 -h /tmp")
    url = f"http://{guest.address}:8000/much"
    told = command("curl", "-s", "-o", "/dev/null", "-w", "%{time_total} %{size_download}", "-m", "55", url).split()
    assert int(told[1]) == SIZE, told
    return float(told[0])


async def sent_to(client: Client, guest: Instance) -> float:
    """How many seconds so much takes to a guest."""
    await sh(client, guest.id, "nc -l -p 9000 > /tmp/in < /dev/null 2>&1 & sleep 1")
    begun = monotonic()
    with socket.create_connection((guest.address, 9000), 55) as peer:
        peer.sendall(bytes(SIZE))
        async with asyncio.timeout(60):
            while await sh(client, guest.id, "wc -c < /tmp/in") != str(SIZE):
                await asyncio.sleep(0.05)
    return monotonic() - begun


async def test_a_guest_is_as_slow_as_was_said(place: Place) -> None:
    """Eight seconds, but for what may go at once. What somebody took away is there again with the next server."""
    async with place.server.client() as client:
        free = await sent_by(client, place.two), await sent_to(client, place.two)
        guest = await Guests(client).boot(download_rate="256K", upload_rate="256K")
    tap, least = tap_name(InstanceId(guest.id)), 5.0
    for lost in (True, False):
        async with place.server.client() as client:
            slow = await sent_by(client, guest), await sent_to(client, guest)
        assert min(slow) > least and slow[0] > free[0] and slow[1] > free[1], (slow, free)
        if lost:
            place.server.kill()
            command("tc", "qdisc", "del", "dev", tap, "root")
            command("nft", "flush", "ruleset")
            place.server.start()
    async with place.server.client() as client:
        await client.instances.delete(guest.id, force=True)
    assert tap not in command("nft", "list", "table", "bridge", "polyvisor")


async def test_hypemans_limits_are_said_again_and_hold(place: Place) -> None:
    async with machines_of(place.server) as machines, place.server.client() as client:
        limits = {"bandwidth_download": "8Mbps", "bandwidth_upload": "2Mbps"}
        made = await machines.make(cmd=["sleep", "3600"], network=limits)
        network = made.network
        assert network is not None
        assert (network.bandwidth_download, network.bandwidth_upload) == ("976.6 KB/s", "244.1 KB/s")
        assert (network.enabled, network.name) == (True, "default")
        free = await machines.make(cmd=["sleep", "3600"])
        assert free.network is not None and free.network.bandwidth_download is None
        assert "rate 8Mbit" in command("tc", "qdisc", "show", "dev", tap_name(InstanceId(made.id)))
        assert await sent_by(client, await client.instances.get(made.id)) > 5
        assert (await machines.sdk.capabilities.get()).network.to_dict() == {"guest_to_guest": True, "model": "bridge"}
        assert await machines.say(made.id, f"ping -q -c 1 -W 5 {GATEWAY} > /dev/null; echo $?") == "0"
        assert await machines.say(made.id, f"ping -q -c 1 -W 5 {WORLD} > /dev/null; echo $?") == "0"


async def test_host_ports_are_refused(client: Client, place: Place) -> None:
    with pytest.raises(Refused) as caught:
        await Guests(client).make(ports=[{"guest": 80}])
    assert (caught.value.kind, caught.value.problem.field) == ("Unsupported", "ports")


async def test_a_killed_servers_guests_stay_connected_while_the_next_one_starts(place: Place) -> None:
    """From the host to a guest, and from a guest to the world, twenty times a second."""
    ping = ["ping", "-q", "-i", "0.05", "-W", "1", str(place.two.address)]
    with subprocess.Popen(ping, stdout=subprocess.PIPE, text=True) as pinging:  # noqa: ASYNC220 - it returns at once
        async with place.server.client() as client:
            out = f"ping -q -i 0.1 -W 1 {WORLD} > /tmp/out & echo $!"
            inner = await sh(client, place.one.id, out)
        for _ in range(2):
            place.server.kill()
            place.server.start()
        async with place.server.client() as client:
            again = await client.instances.get(place.one.id)
            assert (again.state, again.incarnation) == ("running", place.one.incarnation)
            await sh(client, place.one.id, f"kill -INT {inner}; while kill -0 {inner}; do sleep 0.1; done 2>/dev/null")
            told = await sh(client, place.one.id, "cat /tmp/out")
        pinging.send_signal(signal.SIGINT)
        assert pinging.stdout is not None
        said = pinging.stdout.read()
    for text in (said, told):
        sent, received = re.search(r"(\d+) packets transmitted, (\d+) ", text).groups()  # type: ignore[union-attr]
        assert int(sent) > 20 and int(sent) - int(received) <= 2, text


async def test_a_device_that_lost_its_bridge_joins_it_again(place: Place) -> None:
    """A plug that was cut short, or a bridge that somebody deleted under running guests."""
    place.server.kill()
    command("ip", "link", "set", tap_name(InstanceId(place.two.id)), "nomaster")
    command("ip", "link", "del", BRIDGE)
    place.server.start()
    async with place.server.client() as client:
        for guest in (place.one, place.two):
            assert await reaches(client, guest, GATEWAY) and await reaches(client, guest, WORLD)


async def test_guests_stay_connected_while_no_server_runs(place: Place) -> None:
    assert place.server.stop() == 0
    for guest in (place.one, place.two, place.alien):
        assert "2 received" in command("ping", "-q", "-c", "2", "-i", "0.2", "-W", "2", str(guest.address))
    place.server.start()
    async with place.server.client() as client:
        assert await reaches(client, place.one, place.two.address)


def test_a_server_without_instances_takes_everything_with_it(base: Server, tmp_path: Path) -> None:
    data = tmp_path / "data"
    share(base.data, data)
    with ground() as made, made.host.inside():
        before = set(made.host.links())
        server = Server(data, "--network", "bridge", prefix=made.host.prefix).start()
        assert set(made.host.links()) - before == {BRIDGE}
        told = Paths(data).run
        dnsmasq = Path("/proc") / (data / "network" / "dnsmasq.pid").read_text().strip()
        assert dnsmasq.owner() == "dnsmasq" and told.exists()
        assert server.stop() == 0
        assert set(made.host.links()) == before
        assert made.host.run("nft", "list", "ruleset") == "" and not told.exists()
        assert not dnsmasq.exists()
        assert list((data / "network").iterdir()) == []


NO_RIGHTS = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")


@pytest.fixture
def space() -> Iterator[Namespace]:
    """An empty one."""
    made = Namespace()
    try:
        yield made
    finally:
        made.remove()


async def test_machines_that_run_nothing_need_no_rights(space: Namespace, tmp_path: Path) -> None:
    with space.inside():
        flags = ("--network", "bridge", "--hypervisor", "fake")
        server = Server(tmp_path / "data", *flags, prefix=(*space.prefix, *NO_RIGHTS)).start()
        async with server.client() as client:
            vm = await Guests(client).boot()
            assert vm.address == "10.77.0.10" and set(space.links()) == {"lo"}
            await client.instances.delete(vm.id, force=True)
        assert server.stop() == 0


def test_without_rights_the_server_says_what_is_missing(space: Namespace, tmp_path: Path) -> None:
    with space.inside(), pytest.raises(AssertionError, match="bridge mode needs root"):
        Server(tmp_path / "data", "--network", "bridge", prefix=(*space.prefix, *NO_RIGHTS)).start()
    assert set(space.links()) == {"lo"}


def test_a_bridge_of_somebody_else_is_left_alone(space: Namespace, tmp_path: Path) -> None:
    space.run("ip", "link", "add", BRIDGE, "type", "bridge")
    with space.inside(), pytest.raises(AssertionError, match="is there already and not ours"):
        Server(tmp_path / "data", "--network", "bridge", prefix=space.prefix).start()
    assert set(space.links()) == {"lo", BRIDGE} and space.run("nft", "list", "ruleset") == ""


def test_a_device_that_is_missing_is_not_made_up(space: Namespace) -> None:
    with space.inside():
        with pytest.raises(Unavailable):
            open_tap("pvnone")
        assert set(space.links()) == {"lo"}
        space.run("ip", "tuntap", "add", "pvsome", "mode", "tap", "vnet_hdr")
        os.close(open_tap("pvsome"))
        assert "pvsome" in space.links()


async def test_an_ingress_leads_to_a_guests_address_and_wakes_who_sleeps(place: Place, client: Client) -> None:
    guests = Guests(client)
    vm = await guests.boot(memory="128M")
    await sh(client, vm.id, "mkdir -p /w; mount -t tmpfs none /w; echo web > /w/index.html; httpd -p 8000 -h /w")
    rules = [{"hostname": "{vm}.example.com", "port": 8085, "instance": "{vm}", "target_port": 8000}]
    made = await client.ingresses.create(CreateIngress.model_validate({"name": "web", "rules": rules}))

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", 8085)
        try:
            writer.write(f"GET / HTTP/1.0\r\nHost: {vm.name}.example.com\r\n\r\n".encode())
            return await asyncio.wait_for(reader.read(), 120)
        finally:
            writer.close()

    for _ in range(2):
        assert (await ask()).endswith(b"web\n")
        await client.instances.standby(vm.id)
        await client.instances.wait(vm.id, ["suspended"], timeout=120)
    assert (await ask()).endswith(b"web\n")
    peers = await sh(client, vm.id, "netstat -nt | grep :8000 || true")  # what is left of them came from the bridge
    assert all(GATEWAY in line for line in peers.splitlines())
    await client.ingresses.delete(made.id)
    await guests.discard()
