"""What one guest asks the resolver of all does not keep the others from asking, in namespaces of the test's own."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from polyvisor.host.network import rules
from polyvisor.model.network import Network, NetworkMode
from real.namespaces import Namespace

pytestmark = [
    pytest.mark.bridge,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
NET = Network(NetworkMode.BRIDGE, ipaddress.IPv4Network("10.77.0.0/24"))
GATEWAY, ONE, TWO = str(NET.gateway), "10.77.0.10", "10.77.0.11"


@pytest.fixture
def spaces() -> Iterator[tuple[Namespace, Namespace]]:
    """A host, with the rules of bridge mode, and its guests behind a cable that is called as a bridge."""
    host, guests = Namespace(), Namespace()
    try:
        host.run("ip", "link", "add", "br0", "type", "veth", "peer", "name", "eth0", "netns", guests.name)
        host.run("ip", "addr", "add", f"{GATEWAY}/24", "dev", "br0")
        for address in (ONE, TWO):
            guests.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        for space, device in ((host, "br0"), (guests, "eth0")):
            space.run("ip", "link", "set", device, "up")
        words = rules.table(NET, "br0", [])
        subprocess.run([*host.prefix, "nft", "-f", "-"], input=words.encode(), check=True, timeout=60)
        yield host, guests
    finally:
        host.remove()
        guests.remove()


def test_who_asks_all_the_time_is_not_heard_all_the_time(spaces: tuple[Namespace, Namespace]) -> None:
    host, guests = spaces
    with contextlib.ExitStack() as stack:
        with host.inside():
            asked = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        asked.bind((GATEWAY, 53))
        with guests.inside():
            one, two = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        for sock, address, count in ((one, ONE, 20_000), (two, TWO, 50)):
            sock.bind((address, 0))
            for _ in range(count):
                sock.sendto(b"?", (GATEWAY, 53))
        heard = {ONE: 0, TWO: 0}
        asked.settimeout(2)
        with contextlib.suppress(TimeoutError):
            while heard[TWO] < 50:
                heard[asked.recvfrom(16)[1][0]] += 1
        assert heard[TWO] == 50 and 0 < heard[ONE] < 5000


def test_who_calls_it_holds_few_of_its_lines(spaces: tuple[Namespace, Namespace]) -> None:
    host, guests = spaces
    with contextlib.ExitStack() as stack:
        with host.inside():
            stack.enter_context(socket.create_server((GATEWAY, 53), backlog=64))
        for address, most in ((ONE, 4), (TWO, 4)):
            through = 0
            for _ in range(8):
                with guests.inside():
                    sock = stack.enter_context(socket.socket())
                sock.settimeout(0.5)
                sock.bind((address, 0))
                with contextlib.suppress(TimeoutError):
                    sock.connect((GATEWAY, 53))
                    through += 1
            assert through == most
