"""Ingresses by the real Caddy to real guests: routing, guards, TLS, streams, and what is left after each death."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import CreateIngress, Instance, StandbyRequest, UpdateInstance
from real.conftest import finish, share
from real.guests import Guests, make_boot_files, sh
from serving import Server, await_gone

SECRET = "0123456789abcdef0123456789abcdef"
_addresses = itertools.count(os.getpid() % 200 * 256 + 10)
SERVE = "mkdir -p /w; echo {word} > /w/index.html; httpd -p 8000 -h /w"
# At 9001 what says yes to an upgrade, and from then on what it hears; at 9002 an answer that ends when somebody opens
# the gate; at 9003 one that tells the request's head.
MORE = r"""
cat > /tmp/head <<'EOF'
while read line && [ "$line" != "$(printf '\r')" ]; do echo "$line"; done
EOF
cat > /tmp/up <<'EOF'
#!/bin/sh
. /tmp/head > /dev/null
printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
exec cat
EOF
cat > /tmp/slow <<'EOF'
#!/bin/sh
. /tmp/head > /dev/null
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst\n'
exec cat /tmp/gate
EOF
cat > /tmp/told <<'EOF'
#!/bin/sh
told=$(. /tmp/head)
printf 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s' "$told"
EOF
chmod +x /tmp/up /tmp/slow /tmp/told; mkfifo /tmp/gate
(nc -ll -p 9001 -e /tmp/up &); (nc -ll -p 9002 -e /tmp/slow &); (nc -ll -p 9003 -e /tmp/told &)"""


class Site:
    """A server, and the address of its ingresses, which is nobody else's: ports may be any."""

    def __init__(self, server: Server, listen: str) -> None:
        self.server = server
        self.listen = listen

    @property
    def folder(self) -> Path:
        """The proxy's working directory."""
        return self.server.data / "ingress"

    def caddies(self) -> list[int]:
        """The pids of its proxy."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and entry.joinpath("cwd").samefile(self.folder):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    async def ask(
        self, host: str, path: str = "/", *, port: int = 80, method: str = "GET", limit: float = 120, **more: Any
    ) -> httpx.Response:
        """One request to a port of the ingress address, for a host name."""
        async with httpx.AsyncClient(trust_env=False, timeout=limit) as http:
            headers = {"Host": host, **more.pop("headers", {})}
            return await http.request(method, f"http://{self.listen}:{port}{path}", headers=headers, **more)


def address() -> str:
    """One of loopback's, for this test run alone."""
    number = next(_addresses)
    return f"127.{77 + number // 65536 % 100}.{number // 256 % 256}.{number % 256 or 1}"


def config(folder: Path, listen: str) -> Path:
    """The settings of a server whose ingresses are at that address."""
    file = folder / "ingress.toml"
    file.write_text(f'[ingress]\nlisten = "{listen}"\n')
    return file


@pytest.fixture(scope="module")
def site(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of this module's own, which may be killed."""
    make_boot_files(base)
    folder = tmp_path_factory.mktemp("ingress")
    share(base.data, folder / "data")
    listen = address()
    site = Site(Server(folder / "data", "--config", str(config(folder, listen))).start(), listen)
    yield site
    finish(site.server)
    assert site.caddies() == []


@pytest.fixture(scope="module")
def web(site: Site) -> Iterator[str]:
    """The name of a guest that answers for the whole module."""

    async def boot() -> str:
        async with site.server.client() as client:
            vm = await serving(Guests(client), "web")
            await sh(client, vm.id, MORE)
            return vm.name

    yield asyncio.run(boot())  # it goes with its server


async def serving(guests: Guests, word: str, **more: Any) -> Instance:
    """A guest with a web server."""
    vm = await guests.boot(memory="128M", **more)
    await sh(guests.client, vm.id, "mkdir -p /w; mount -t tmpfs none /w; " + SERVE.format(word=word))
    return vm


@asynccontextmanager
async def ingress(site: Site, *rules: dict[str, Any]) -> AsyncIterator[Client]:
    """An ingress for as long as the block; a client of its server."""
    body = {"name": f"in-{time.monotonic_ns()}", "rules": [{"target_port": 8000, **rule} for rule in rules]}
    async with site.server.client() as client:
        made = await client.ingresses.create(CreateIngress.model_validate(body))
    try:
        async with site.server.client() as client:  # by then it may be another server
            yield client
    finally:
        async with site.server.client() as client:
            await client.ingresses.delete(made.id)


async def until_served(site: Site, host: str, limit: float = 60.0) -> httpx.Response:
    """The first answer of the guest behind a proxy that is being started."""
    end = time.monotonic() + limit
    while True:
        try:
            answer = await site.ask(host)
            if answer.status_code == 200:
                return answer
            told = answer.text
        except httpx.TransportError as error:
            told = repr(error)
        assert time.monotonic() < end, told
        await asyncio.sleep(0.1)


async def test_requests_go_where_the_rules_say(site: Site, web: str) -> None:
    first: list[dict[str, Any]] = [
        {"hostname": "one.example.com", "instance": web},
        {"hostname": "told.example.com", "instance": web, "target_port": 9003, "port": 8081},
    ]
    async with ingress(site, {"hostname": "{vm}.dev.example.com", "instance": "{vm}"}) as client:
        guests = Guests(client)
        two = await serving(guests, "two")
        async with ingress(site, *first):
            for host in ("one.example.com", "ONE.example.com:80", f"{web}.dev.example.com"):
                assert (await site.ask(host)).text == "web\n"
            assert (await site.ask(f"{two.name}.dev.example.com")).text == "two\n"
            told = (await site.ask("told.example.com", "/a?b", port=8081)).text
            assert told.startswith("GET /a?b HTTP/1.1")
            assert "Host: told.example.com" in told
            assert "X-Forwarded-For: 127.0.0.1" in told
            for host, port in (("told.example.com", 80), ("nobody.example.com", 80), ("one.example.com", 8081)):
                answer = await site.ask(host, port=port)
                assert (answer.status_code, answer.text) == (404, "there is no ingress for this host\n")
            nobody = await site.ask("nobody.dev.example.com")
            assert (nobody.status_code, nobody.text) == (404, "there is no instance for this host\n")
            assert "404 Not Found" in (await site.ask("one.example.com", "/nothing")).text  # the guest's own
        assert (await site.ask("one.example.com")).status_code == 404
        with pytest.raises(httpx.ConnectError):  # nobody wants that port any more
            await site.ask("told.example.com", port=8081)
        assert (await site.ask(f"{web}.dev.example.com")).text == "web\n"
        await guests.discard()
    assert site.caddies() == []


async def test_what_is_not_there_is_said(site: Site, web: str) -> None:
    async with site.server.client() as client:
        guests = Guests(client)
        vm = await serving(guests, "was")
        rules: list[dict[str, Any]] = [
            {"hostname": "a.example.com", "instance": vm.name},
            {"hostname": "b.example.com", "instance": web, "target_port": 9},
        ]
        async with ingress(site, *rules):
            deaf = await site.ask("b.example.com", method="POST", content=b"x" * 300_000)
            assert (deaf.status_code, deaf.text) == (502, "nothing answers at that port\n")
            await client.instances.stop(vm.id)
            await client.instances.wait(vm.id, ["stopped"], timeout=60)
            stopped = await site.ask("a.example.com")
            assert (stopped.status_code, stopped.text) == (503, "the instance is not there to answer\n")
            await guests.discard()
            assert (await site.ask("a.example.com")).status_code == 404
            await gone(client, vm.id)
            await serving(guests, "is", name=vm.name)  # whoever has the name then is meant
            assert (await site.ask("a.example.com")).text == "is\n"
        await guests.discard()


async def gone(client: Client, id: str) -> None:
    """Once there is no such instance."""
    end = time.monotonic() + 60
    while id in [one.id async for one in client.instances.list()]:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def test_a_guard_keeps_others_out_and_is_not_passed_on(site: Site, web: str) -> None:
    guard = {"header": "X-Door", "value": SECRET}
    async with ingress(site, {"hostname": "g.example.com", "instance": web, "target_port": 9003, "guard": guard}):
        refused: list[dict[str, str]] = [{}, {"X-Door": "wrong"}, {"X-Door": SECRET + "x"}, {"X-Other": SECRET}]
        for headers in refused:
            answer = await site.ask("g.example.com", headers=headers)
            assert (answer.status_code, answer.text) == (403, "forbidden\n")
        told = await site.ask("g.example.com", headers={"x-door": SECRET, "X-Shown": "yes"})
        assert "X-Shown: yes" in told.text
        assert SECRET not in told.text
        for file in site.folder.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


async def test_tls_by_the_proxys_own_authority(site: Site, web: str) -> None:
    rules: list[dict[str, Any]] = [
        {"hostname": "t.example.com", "instance": web, "port": 8443, "tls": True, "redirect": True},
        {"hostname": "{vm}.t.example.com", "instance": "{vm}", "port": 8443, "tls": True},
    ]
    async with ingress(site, *rules):
        sent = await site.ask("t.example.com", "/a?b")
        assert (sent.status_code, sent.headers["location"]) == (301, "https://t.example.com:8443/a?b")
        root = site.folder / "own/data/pki/authorities/local/root.crt"
        for host in ("t.example.com", f"{web}.t.example.com"):
            assert b"web" in await asyncio.to_thread(by_tls, site.listen, 8443, host, root)
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(by_tls, site.listen, 8443, "other.example.com", root)


def by_tls(where: str, port: int, host: str, root: Path) -> bytes:
    """What is answered there to who asks for that name and believes that authority alone."""
    end = time.monotonic() + 60
    while True:
        try:
            context = ssl.create_default_context(cafile=root)
            plain = socket.create_connection((where, port), 60)
            with plain, context.wrap_socket(plain, server_hostname=host) as sock:
                sock.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                return b"".join(iter(lambda: sock.recv(65536), b""))
        except (ssl.SSLError, FileNotFoundError):  # the certificate is being made
            if time.monotonic() > end or host == "other.example.com":
                raise
            time.sleep(0.2)


async def test_upgrades_and_streams_pass(site: Site, web: str) -> None:
    rules: list[dict[str, Any]] = [
        {"hostname": "up.example.com", "instance": web, "target_port": 9001},
        {"hostname": "{vm}.slow.example.com", "instance": "{vm}", "target_port": 9002},
    ]
    async with ingress(site, *rules) as client:
        reader, writer = await asyncio.open_connection(site.listen, 80)
        writer.write(b"GET / HTTP/1.1\r\nHost: up.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
        for word in (b"one", b"two" * 200_000):
            writer.write(word)
            assert await asyncio.wait_for(reader.readexactly(len(word)), 60) == word
        writer.close()
        # A body comes as it is said, not when it is over.
        reader, writer = await asyncio.open_connection(site.listen, 80)
        writer.write(f"GET / HTTP/1.1\r\nHost: {web}.slow.example.com\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"first\n"), 60)
        await sh(client, web, "echo second > /tmp/gate")
        await asyncio.wait_for(reader.readuntil(b"second\n"), 60)
        writer.close()
        # Who hangs up leaves nothing behind in the guest.
        assert (await sh(client, web, "while pidof cat; do sleep 0.1; done >/dev/null; echo none")) == "none"


async def test_who_asks_wakes_who_sleeps(site: Site, web: str) -> None:
    async with ingress(site, {"hostname": "w.example.com", "instance": web}) as client:
        for _ in range(2):
            assert (await site.ask("w.example.com")).text == "web\n"
            await client.instances.standby(web)
            await client.instances.wait(web, ["suspended"], timeout=120)
            answers = await asyncio.gather(*(site.ask("w.example.com") for _ in range(5)))
            assert [one.text for one in answers] == ["web\n"] * 5
            assert (await client.instances.get(web)).state == "running"


async def test_nobody_is_lost_while_an_idle_one_falls_asleep_again_and_again(site: Site) -> None:
    async with site.server.client() as client:
        guests = Guests(client)
        vm = await serving(guests, "idle")
        async with ingress(site, {"hostname": "i.example.com", "instance": vm.name}):
            await client.instances.update(vm.id, UpdateInstance(standby=StandbyRequest(after=1)))
            for _ in range(3):
                end = time.monotonic() + 60
                while (await client.instances.get(vm.id)).state == "running":
                    assert time.monotonic() < end
                    await asyncio.sleep(0.02)
                assert (await site.ask("i.example.com")).text == "idle\n"  # on its way down, as a rule
        await guests.discard()


async def test_a_port_that_somebody_has_is_not_to_be_had(site: Site) -> None:
    rules: list[dict[str, Any]] = [
        {"hostname": "{v}.x", "instance": "{v}"},
        {"hostname": "{v}.y", "instance": "{v}", "port": 8090},
    ]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((site.listen, 8090))
        other.listen()
        with pytest.raises(Refused, match="port 8090 of this host is taken") as told:
            async with ingress(site, *rules):
                pass
        assert told.value.problem.field == "rules[1].port"
    async with site.server.client() as client:
        assert [one.id async for one in client.ingresses.list()] == []
    assert site.caddies() == []


async def test_caddy_killed_is_back(site: Site, web: str) -> None:
    async with ingress(site, {"hostname": "k.example.com", "instance": web}):
        for how in (signal.SIGKILL, signal.SIGSTOP):
            (pid,) = site.caddies()
            if os.geteuid() == 0:  # it is nobody, and may do nothing but take low ports
                status = Path(f"/proc/{pid}/status").read_text()
                assert "Uid:\t0" not in status
                assert "CapEff:\t0000000000000400" in status
            os.kill(pid, how)
            if how is signal.SIGSTOP:  # it is found out when it is told something
                async with ingress(site, {"hostname": "other.example.com", "instance": web}):
                    pass
            await_gone([pid])
            assert (await until_served(site, "k.example.com")).text == "web\n"


async def test_a_server_that_is_started_anew_keeps_who_asks_waiting(site: Site, web: str) -> None:
    async with ingress(site, {"hostname": "s.example.com", "instance": web}):
        (pid,) = site.caddies()
        for end in (site.server.kill, site.server.stop):
            end()
            assert site.caddies() == [pid]  # it runs on, as machines do
            waiting = asyncio.create_task(site.ask("s.example.com"))
            await asyncio.to_thread(site.server.start)
            assert (await waiting).text == "web\n"
            assert site.caddies() == [pid]
        # One that dies while there is no server is started by the next.
        site.server.kill()
        os.kill(pid, signal.SIGKILL)
        await_gone([pid])
        await asyncio.to_thread(site.server.start)
        assert (await until_served(site, "s.example.com")).text == "web\n"


async def test_a_stop_of_a_server_without_instances_leaves_nobody(base: Server, tmp_path: Path, site: Site) -> None:
    other = Site(Server(tmp_path / "data", "--config", str(config(tmp_path, listen := address()))).start(), listen)
    body = CreateIngress.model_validate(
        {"name": "one", "rules": [{"hostname": "{vm}.example.com", "instance": "{vm}", "target_port": 80}]}
    )
    async with other.server.client() as client:
        await client.ingresses.create(body)
    (pid,) = other.caddies()
    other.server.stop()
    await_gone([pid])
    await asyncio.to_thread(other.server.start)
    assert (await until_told(other, "x.example.com")) == 404
    other.server.stop()
    assert other.caddies() == []


async def until_told(site: Site, host: str) -> int:
    """The first status that is answered."""
    end = time.monotonic() + 60
    while True:
        try:
            return (await site.ask(host)).status_code
        except httpx.TransportError:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
