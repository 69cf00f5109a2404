"""Custom domains with a real authority: certificates by ACME, and what is left after each death (instavm.md §5.29)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from instavm import CustomDomainError, InstaVM

from nameserver import NameServer, name_server
from real.authorities import Authority, authority_in
from real.conftest import finish, share
from real.test_image_sources import tenant
from real.test_ingress import Site, address
from real.test_instavm import client, sh, vm_of
from real.verges import eventually
from serving import Server, await_gone

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("trusting")]
TARGET = "here.vms.test"
# At 9001 what says yes to an upgrade, and from then on what it hears.
SERVE = r"""
mkdir -p /www; echo hello > /www/index.html; httpd -p 8000 -h /www
cat > /tmp/up <<'EOF'
#!/bin/sh
while read line && [ "$line" != "$(printf '\r')" ]; do :; done
printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
exec cat
EOF
chmod +x /tmp/up; (nc -ll -p 9001 -e /tmp/up >/dev/null 2>&1 &)"""


@dataclass(frozen=True)
class Place:
    """A server whose domains are at an address of its own, the DNS that leads there, and the authority that looks."""

    site: Site
    names: NameServer
    authority: Authority
    vm: str

    def point(self, name: str, record: dict[str, str]) -> None:
        """Its owner does what he was told: the proof, and the way here."""
        self.names.put(record["name"], "TXT", f'"{record["value"]}"')
        self.names.put(name, "CNAME", f"{TARGET}.")

    def connected(self, name: str, port: int = 443) -> ssl.SSLSocket:
        """TLS with who is at the address that the DNS leads to, and shows a certificate of the authority."""
        context = ssl.create_default_context(cafile=self.authority.issued)
        plain = socket.create_connection((self.site.listen, port), 60)
        try:
            return context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    def get(self, name: str, *headers: str) -> bytes:
        """What is answered there."""
        with self.connected(name) as sock:
            head = "".join(f"{line}\r\n" for line in (f"Host: {name}", *headers))
            sock.sendall(f"GET / HTTP/1.0\r\n{head}\r\n".encode())
            return b"".join(iter(lambda: sock.recv(65536), b""))

    def certificate(self, name: str) -> bytes:
        """The one that is shown."""
        with self.connected(name) as sock:
            return sock.getpeercert(binary_form=True) or b""

    def kept(self, name: str) -> list[Path]:
        """What the proxy has of a name on the disk."""
        return [path for path in self.site.folder.rglob("*") if name in path.name]


@pytest.fixture(scope="module")
def place(base: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All of it, with a guest that answers."""
    folder, listen = tmp_path_factory.mktemp("domains"), address()
    share(base.data, folder / "data")
    with name_server() as names, authority_in(folder / "authority", names) as authority:
        names.put(TARGET, "A", listen)
        settings = folder / "settings.toml"
        settings.write_text(
            f'[ingress]\nlisten = "{listen}"\ntls_domains = "nobody.example.org"\nacme_ca = "{authority.directory}"\n'
            f'acme_root = "{authority.root}"\n[instavm]\nimage = "busybox"\ndomains = "{TARGET}"\n'
            f'dns = "127.0.0.1:{names.port}"\ndns_private = true\n'
        )
        server = Server(folder / "data", "--config", str(settings)).start()
        site = Site(server, listen)
        sdk = client(server, auto_start_session=False)
        vm = vm_of(sdk, memory_mb=128, vcpu_count=1)
        sh(sdk, SERVE)
        yield Place(site, names, authority, vm)
        finish(server)
        assert site.caddies() == []


def begun(place: Place, sdk: InstaVM, name: str, port: int = 8000, **more: Any) -> tuple[dict[str, Any], str]:
    """A public share of the guest's and a domain that is to lead to it."""
    way = sdk.shares.create(port, vm_id=place.vm, is_public=True)
    made = sdk.custom_domains.create(name, way["share_id"], "manual", **more)
    assert made["status"] == "pending"
    return made, str(way["share_id"])


def test_from_the_create_to_the_certificate_and_the_end(place: Place) -> None:
    server, name = place.site.server, "app.example.com"
    sdk = client(server, auto_start_session=False)
    made, way = begun(place, sdk, name)
    with pytest.raises(CustomDomainError, match="there is no TXT record"):
        sdk.custom_domains.verify_and_wait(made["id"], poll_interval=0.5)
    with pytest.raises(OSError):  # it is served nowhere
        place.connected(name)
    place.point(name, made["setup"]["txt_record"])
    issued = sdk.custom_domains.verify_and_wait(made["id"], timeout=120, poll_interval=0.5)
    assert issued["url"] == f"https://{name}/"
    assert place.get(name).endswith(b"hello\n")
    sent = asyncio.run(place.site.ask(name, "/a?b"))
    assert (sent.status_code, sent.headers["location"]) == (301, f"https://{name}/a?b")
    health = sdk.custom_domains.health(made["id"])
    assert (health["cert_present"], health["key_present"], health["proxy_active"]) == (True, True, True)
    asyncio.run(refused_to_another(server, name))
    # It is as private as its share.
    private = sdk.shares.update(way, is_public=False)
    assert b" 403 " in place.get(name)
    assert place.get(name, f"{private['token_header']}: {private['token']}").endswith(b"hello\n")
    # Who asks wakes who sleeps.
    sdk.shares.update(way, is_public=True)
    sdk.vms.suspend(place.vm)
    eventually(lambda: sdk.vms.get(place.vm)["status"] == "suspended", 60)
    assert place.get(name).endswith(b"hello\n")
    upgraded(place, sdk)
    assert sdk.custom_domains.delete(made["id"])["status"] == "deleted"
    with pytest.raises(OSError):
        place.connected(name)
    assert place.kept(name) == []
    sdk.shares.update(way, revoke=True)


async def refused_to_another(server: Server, name: str) -> None:
    """Somebody with a share of their own asks for the name."""
    async with await tenant(server) as stranger:
        body = {"memory_mb": 128, "vcpu_count": 1, "share": {"port": 80}, "custom_domain": {"domain": name}}
        answer = await stranger.post("/v1/vms", json=body)
        assert answer.status_code == 409, answer.text
        assert (await stranger.get("/v1/vms/")).json() == []
        assert (await stranger.get("/v1/custom-domains")).json() == {"domains": []}


def upgraded(place: Place, sdk: InstaVM) -> None:
    """A connection that has become another one passes bytes both ways."""
    name = "socket.example.com"
    made, way = begun(place, sdk, name, 9001)
    place.point(name, made["setup"]["txt_record"])
    sdk.custom_domains.verify_and_wait(made["id"], timeout=120, poll_interval=0.5)
    with place.connected(name) as sock:
        sock.settimeout(60)
        sock.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
        file = sock.makefile("rb")
        assert b" 101 " in file.readline()
        while file.readline() != b"\r\n":
            pass
        for word in (b"one\n", b"two" * 100_000 + b"\n"):
            sock.sendall(word)
            assert file.readline() == word
    sdk.shares.update(way, revoke=True)
    assert not [one for one in sdk.custom_domains.list() if one["domain"] == name]
    assert place.kept(name) == []


def test_a_certificate_that_cannot_be_had_says_why(place: Place) -> None:
    name = "lost.example.com"
    sdk = client(place.site.server, auto_start_session=False)
    made, way = begun(place, sdk, name)
    record = made["setup"]["txt_record"]
    place.names.put(record["name"], "TXT", f'"{record["value"]}"')  # and no way here
    sdk.custom_domains.verify(made["id"])
    with pytest.raises(CustomDomainError) as told:
        sdk.custom_domains.wait_until_issued(made["id"], timeout=120, poll_interval=0.5)
    assert name in str(told.value)
    place.names.put(name, "CNAME", f"{TARGET}.")
    issued = sdk.custom_domains.verify_and_wait(made["id"], timeout=120, poll_interval=0.5)
    assert issued["last_error"] is None
    assert place.get(name).endswith(b"hello\n")
    sdk.shares.update(way, revoke=True)


def test_it_outlives_who_is_killed(place: Place) -> None:
    server, name = place.site.server, "killed.example.com"
    sdk = client(server, auto_start_session=False)
    made, way = begun(place, sdk, name)
    place.point(name, made["setup"]["txt_record"])
    sdk.custom_domains.verify(made["id"])
    server.kill()
    (pid,) = place.site.caddies()
    server.start()
    sdk = client(server, auto_start_session=False)
    issued = sdk.custom_domains.wait_until_issued(made["id"], timeout=120, poll_interval=0.5)
    assert place.site.caddies() == [pid]
    first = place.certificate(name)
    os.kill(pid, signal.SIGKILL)
    await_gone([pid])
    eventually(lambda: shown(place, name), 60)
    (pid,) = place.site.caddies()
    server.stop()
    os.kill(pid, signal.SIGKILL)
    await_gone([pid])
    server.start()
    eventually(lambda: shown(place, name), 60)
    assert place.certificate(name) == first  # kept, and not asked for again
    assert place.get(name).endswith(b"hello\n")
    assert len(place.site.caddies()) == 1
    sdk = client(server, auto_start_session=False)
    assert sdk.custom_domains.get(issued["id"])["status"] == "issued"
    sdk.shares.update(way, revoke=True)
    assert place.kept(name) == []


def shown(place: Place, name: str) -> bytes:
    """The certificate, once somebody is there; time goes by between two looks."""
    try:
        return place.certificate(name)
    except OSError:
        time.sleep(0.1)
        return b""
