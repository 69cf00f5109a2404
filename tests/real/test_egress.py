"""What a guest reaches under a policy, in both network modes, with worlds of the test's own: while the policy changes,
the server is killed, and the guest sleeps."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from instavm import InstaVM

from polyvisor.client import Client, Refused
from polyvisor.wire.native import Egress, Instance, UpdateInstance
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, sh
from real.namespaces import (
    HOST,
    METADATA,
    NEAR_NAME,
    OTHER,
    OTHER_NAME,
    WORLD,
    WORLD_NAME,
    Ground,
    command,
    ground,
    listening,
    ticking,
)
from serving import Server

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.timeout(900),  # a minute where the machine is idle, and some of them where it is not
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

T = TypeVar("T")
NOTHING: dict[str, Any] = {"allow_http": False, "allow_https": False, "allow_package_managers": False}
ONE_NAME = NOTHING | {"domains": [WORLD_NAME]}
HELD = "(nc {where} {port} > /tmp/{name} < /dev/null; echo over > /tmp/{name}.end) > /dev/null 2>&1 &"


@dataclass(frozen=True, slots=True)
class Place:
    """A server, in which mode, and the world around it, where somebody listens at every address at one `port`."""

    ground: Ground
    server: Server
    mode: str
    port: int

    async def tried(self, client: Client, guest: Instance, *more: tuple[str, int]) -> dict[str, bool]:
        """What the guest reaches of all that it could: in one command, once the names were asked for."""
        gateway = await sh(client, guest.id, "ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'")
        places = {
            "name": (WORLD_NAME, self.port), "other name": (OTHER_NAME, self.port), "address": (WORLD, self.port),
            "other address": (OTHER, self.port), "host": (HOST, self.port), "gateway": (gateway, self.port),
            "metadata": (METADATA, self.port), **{f"{where}:{port}": (where, port) for where, port in more},
        }  # fmt: skip
        answer = f"tail -n +3 | grep -q {OTHER} && echo"  # the first lines say who was asked
        script = f"nslookup -type=a {WORLD_NAME} > /dev/null 2>&1\n"
        script += f"nslookup -type=a {OTHER_NAME} 2>/dev/null | {answer} resolves &\n"
        script += f"nslookup -type=a {OTHER_NAME} {OTHER} 2>/dev/null | {answer} 'resolves elsewhere' &\nwait\n"
        ask = "(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.3) | timeout 4 nc -w 2"  # passt forgets who ends first
        for what, (where, port) in places.items():
            script += f"{ask} {where} {port} 2>/dev/null | grep -q you && echo '{what}' &\n"
        script += "wait\n"
        said = (await sh(client, guest.id, script + "true", timeout=60)).splitlines()
        known = [*places, "resolves", "resolves elsewhere"]
        assert set(said) <= set(known), said
        return {what: what in said for what in known}


def reached(tried: dict[str, bool]) -> set[str]:
    """Only what was reached."""
    return {what for what, was in tried.items() if was}


async def allow(client: Client, guest: Instance, **policy: Any) -> Instance:
    """Another policy, now."""
    return await client.instances.update(guest.id, UpdateInstance(egress=Egress(**policy)))


@contextlib.contextmanager
def place_in(mode: str, base: Server, data: Path) -> Iterator[Place]:
    """A server in that mode in a world."""
    make_boot_files(base)
    share(base.data, data)
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(ground())
        port = stack.enter_context(listening(made.world, "0.0.0.0"))
        stack.enter_context(listening(made.host, "0.0.0.0", port))
        settings = data.with_suffix(".toml")
        settings.write_text('[instavm]\nimage = "busybox"\n')
        with made.host.inside():
            flags = ("--network", mode, "--config", str(settings))
            server = Server(data, *flags, prefix=made.host.prefix).start()
            try:
                yield Place(made, server, mode, port)
            finally:
                finish(server)
                assert left_in(made, data) == ""


def left_in(made: Ground, data: Path) -> str:
    """Processes of a policy, and rules of one, that are still there."""
    there = [
        line
        for pid in command("ip", "netns", "pids", made.host.name).split()
        if (line := _command_line(int(pid))) and any(word in line for word in ("pasta", "passt", "dnsmasq"))
    ]
    return "\n".join(there) + made.host.run("nft", "list", "ruleset")


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


@pytest.fixture(scope="module", params=["user", "bridge"])
def place(request: pytest.FixtureRequest, base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for each mode."""
    with place_in(request.param, base, tmp_path_factory.mktemp(request.param) / "data") as made:
        yield made


async def test_a_policy_is_all_that_a_guest_reaches_and_changes_while_it_runs(place: Place) -> None:
    ports = [{"guest": 8000}] if place.mode == "user" else None
    async with place.server.client() as client:
        guests = Guests(client)
        vm, free = await asyncio.gather(guests.boot(egress=ONE_NAME, ports=ports, memory="128M"), guests.boot())
        await sh(client, free.id, "mkdir -p /w; echo 'you are there' > /w/index.html; httpd -p 8000 -h /w", timeout=60)
        neighbour = (str(free.address), 8000)
        assert reached(await place.tried(client, vm, neighbour)) == {"name", "address"}
        assert {"name", "other name", "other address", "resolves"} <= reached(await place.tried(client, free))
        await is_called(client, place, vm)

        await allow(client, vm, **ONE_NAME, cidrs=[f"{OTHER}/32"])
        with ticking(place.ground.world, WORLD) as one, ticking(place.ground.world, OTHER) as two:
            await sh(client, vm.id, HELD.format(where=WORLD_NAME, port=one, name="cut"), timeout=60)
            await sh(client, vm.id, HELD.format(where=OTHER, port=two, name="kept"), timeout=60)
            await sh(client, vm.id, "until [ -s /tmp/cut ] && [ -s /tmp/kept ]; do sleep 0.1; done", timeout=30)
            await allow(client, vm, **NOTHING, cidrs=[f"{OTHER}/32"])
            await sh(client, vm.id, "until [ -e /tmp/cut.end ]; do sleep 0.1; done", timeout=30)
            grows = "a=$(wc -c < /tmp/kept); until [ $(wc -c < /tmp/kept) -gt $((a + 10)) ]; do sleep 0.1; done"
            await sh(client, vm.id, grows + "; [ ! -e /tmp/kept.end ]", timeout=30)
            assert reached(await place.tried(client, vm, neighbour)) == {"other address"}
        await is_called(client, place, vm)

        with listening(place.ground.world, OTHER, 80):
            await allow(client, vm, allow_https=False)
            assert reached(await place.tried(client, vm, neighbour, (OTHER_NAME, 80))) == {
                "resolves",
                f"{OTHER_NAME}:80",
            } | ({"resolves elsewhere"} if place.mode == "bridge" else set())
            await allow(client, vm, **NOTHING)
            assert reached(await place.tried(client, vm, neighbour, (OTHER, 80))) == set()
        await allow(client, vm)
        all_of_it = {"name", "other name", "address", "other address", "resolves", "resolves elsewhere"}
        assert reached(await place.tried(client, vm, neighbour)) == all_of_it
        await allow(client, vm, **NOTHING)
        await client.instances.update(vm.id, UpdateInstance(egress="none"))
        assert reached(await place.tried(client, vm)) >= all_of_it
        await guests.discard()


async def is_called(client: Client, place: Place, vm: Instance) -> None:
    """Whatever it may reach, it is reached."""
    serve = "mkdir -p /w; echo hello > /w/index.html; pidof httpd || httpd -p 8000 -h /w"
    await sh(client, vm.id, serve, timeout=60)
    where = f"127.0.0.1:{vm.ports[0].host}" if place.mode == "user" else f"{vm.address}:8000"
    ask = ["curl", "-s", "-m", "5", "--retry", "5", "--retry-all-errors", f"http://{where}/"]
    assert await asyncio.to_thread(place.ground.host.run, *ask) == "hello\n"


async def test_a_policy_outlives_the_server_and_sleep_and_is_a_forks_too(place: Place) -> None:
    async with place.server.client() as client:
        vm = await Guests(client).boot(egress=ONE_NAME, memory="128M")
        assert reached(await place.tried(client, vm)) == {"name", "address"}
    place.server.kill()
    with place.ground.host.inside():
        place.server.start()
    async with place.server.client() as client:
        assert reached(await place.tried(client, vm)) == {"name", "address"}
        await client.instances.standby(vm.id)
        asleep = await allow(client, vm, **NOTHING, domains=[OTHER_NAME])
        assert asleep.state == "suspended"
        await client.instances.restore(vm.id, wait="ready")
        only_other = {"other name", "other address", "resolves"}
        only_other |= {"resolves elsewhere"} if place.mode == "bridge" else set()
        assert reached(await place.tried(client, vm)) == only_other
        fork = await client.instances.fork(vm.id, wait="ready")
        assert fork.egress and fork.egress.domains == [OTHER_NAME]
        assert reached(await place.tried(client, fork)) == only_other
        for one in (vm, fork):
            await client.instances.delete(one.id, force=True)


async def test_only_one_that_was_started_with_a_policy_can_be_told(place: Place) -> None:
    async with place.server.client() as client:
        guests = Guests(client)
        vm = await guests.boot(memory="128M")
        if place.mode == "user":
            with pytest.raises(Refused) as caught:
                await allow(client, vm, **ONE_NAME)
            assert caught.value.problem.field == "egress" and "started without" in str(caught.value)
            await client.instances.stop(vm.id, force=True)
            await allow(client, vm, **ONE_NAME)
            await client.instances.start(vm.id, wait="ready")
        else:
            await allow(client, vm, **ONE_NAME)
        assert reached(await place.tried(client, vm)) == {"name", "address"}
        await guests.discard()


async def test_a_vault_and_a_name_that_lies_open_nothing_more(place: Place, trusting: None) -> None:
    """What is said at port 443 goes through this machine then, which reaches itself and all that are on its bridge."""

    def bound(vm: str) -> None:
        with place.ground.host.inside():
            sdk = InstaVM(place.server.facts["api_key"], base_url=place.server.facts["url"])
            vault = sdk.create_vault(f"of {vm}")["id"]
            sdk.add_vault_credential(vault, name="KEY", value="x")
            sdk.add_vault_service(vault, host=WORLD_NAME, auth_config={"type": "bearer", "token": "KEY"})
            sdk._request_json("PATCH", f"/v1/vms/{vm}", json_data={"vault_ids": [vault]})

    web = replace(place, port=443)
    async with place.server.client() as client:
        guests = Guests(client)
        vm, free = await asyncio.gather(guests.boot(egress=ONE_NAME, memory="128M"), guests.boot(memory="128M"))
        await sh(client, free.id, "mkdir -p /w; echo 'you are there' > /w/index.html; httpd -p 443 -h /w")
        near = [(where, 443) for where in (str(free.address), NEAR_NAME, "192.0.0.1", "192.0.0.2")]
        with listening(place.ground.world, "0.0.0.0", 443), listening(place.ground.host, "0.0.0.0", 443):
            await asyncio.to_thread(bound, vm.id)
            await allow(client, vm, **NOTHING, domains=[WORLD_NAME, NEAR_NAME])
            assert reached(await web.tried(client, vm, *near)) == {"name", "address"}
            await allow(client, vm)
            seen = reached(await web.tried(client, vm, *near, ("192.0.0.2", 8443)))
            assert seen - {"resolves", "resolves elsewhere"} == {"name", "other name", "address", "other address"}
        await guests.discard()


async def test_it_is_told_by_the_instavm_sdk(place: Place, trusting: None) -> None:
    """With the create by either name of the registries' field, by the session, and by the VM: each holds at once."""
    closed = {"allow_http": False, "allow_https": False, "allowed_domains": [WORLD_NAME]}

    def told(work: Callable[[InstaVM], T]) -> T:
        """What its client, which blocks, gives from inside."""
        with place.ground.host.inside():
            return work(InstaVM(place.server.facts["api_key"], base_url=place.server.facts["url"]))

    def made(sdk: InstaVM) -> tuple[str, str]:
        policy = closed | dict.fromkeys(("allow_public_repos", "allow_package_managers"), False)
        vm = sdk.vms.create(memory_mb=128, vcpu_count=1, egress_policy=policy)
        return str(vm["vm_id"]), str(vm["session_id"])

    vm, session = await asyncio.to_thread(told, made)
    async with place.server.client() as client:
        guest = await client.instances.get(vm.split("-")[1])
        assert reached(await place.tried(client, guest)) == {"name", "address"}
        other = closed | {"allowed_domains": [OTHER_NAME], "allow_package_managers": False}
        for change, reaches in (
            (lambda sdk: sdk.set_session_egress(session, **other), {"other name", "other address", "resolves"}),
            (lambda sdk: sdk.set_vm_egress(vm, **closed | {"allow_package_managers": False}), {"name", "address"}),
            (lambda sdk: sdk.set_session_egress(session), {"name", "other name", "address", "other address"}),
        ):
            assert await asyncio.to_thread(told, change) == {"status": "ok"}
            assert reached(await place.tried(client, guest)) - {"resolves elsewhere", "resolves"} == reaches - {
                "resolves"
            }
        await client.instances.delete(guest.id, force=True)


async def test_ipv6_leads_nowhere(place: Place) -> None:
    """Guests have none, but whoever is root in one can give himself an address."""
    world6, host6 = "2001:db8::2", "2001:db8::1"
    host, world = place.ground.host, place.ground.world
    for space, address in ((host, host6), (world, world6)):
        space.run("ip", "addr", "add", f"{address}/64", "dev", "up0", "nodad")
    host.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    with listening(world, "::", place.port + 1), listening(host, "::", place.port + 1):
        ask = ["curl", "-s", "-m", "5", f"http://[{world6}]:{place.port + 1}/"]
        assert "you are" in await asyncio.to_thread(host.run, *ask)  # the way is there for who has one
        rows = json.loads(host.run("ip", "-6", "-j", "addr", "show", "scope", "link"))
        near = [one["local"] for row in rows for one in row["addr_info"] if row["ifname"] != "up0"]
        async with place.server.client() as client:
            guests = Guests(client)
            vm, free = await asyncio.gather(guests.boot(egress=ONE_NAME, memory="128M"), guests.boot(egress=Egress()))
            local = "ip -6 addr show dev eth0 scope link | sed -n 's/.*inet6 \\([0-9a-f:]*\\).*/\\1/p'"
            neighbour = await sh(client, free.id, f"httpd -p 8000 -h /; {local}", timeout=60)
            own = "ip -6 addr add 2001:db8::5/64 dev eth0; ip -6 route add default via {} dev eth0; sleep 2; "
            own = (
                own.format(near[0] if near else host6)
                + "ip -6 addr show dev eth0 | grep -q 2001:db8::5 && echo has-one\n"
            )
            places = [
                (world6, place.port + 1),
                (host6, place.port + 1),
                *((f"{at}%eth0", place.port + 1) for at in near),
            ]
            places += [(f"{at}%eth0", 8000) for at in neighbour.split()]
            asks = "".join(
                f"(printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 0.3) | timeout 4 nc -w 2 {where} {port} 2>/dev/null "
                f"| grep -q HTTP && echo '{where}' &\n"
                for where, port in places
            )
            for guest in (vm, free):
                mine = places if guest is vm else places[:-1]
                said = (await sh(client, guest.id, own + asks + "wait; true", timeout=60)).split()
                assert said[0] == "has-one"
                assert [where for where in said if where in dict(mine)] == []
            await guests.discard()
