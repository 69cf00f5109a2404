"""Network namespaces of a test: the server's own machine, and the world outside of it, joined by one cable.

Nothing is ever made in the namespace of the machine that runs the tests. All goes away with them, whatever happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOST = "198.51.100.1"  # the server's machine, as the world sees it
WORLD = "198.51.100.2"  # a machine in the world
METADATA = "169.254.169.254"
WORLD_NAME = "outside.example"
OTHER = "198.51.100.3"  # another one
OTHER_NAME = "elsewhere.example"
NEAR_NAME = "near.example"  # what its owner says of it is not so: it stands for the server's machine, and for metadata
_ETC = Path("/etc/netns")
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(fd: int) -> None:
    if _libc.setns(fd, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Namespace:
    """One network namespace, by name."""

    def __init__(self) -> None:
        self.name = "pvt" + uuid.uuid4().hex[:8]
        self.prefix = ("ip", "netns", "exec", self.name)
        command("ip", "netns", "add", self.name)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, check: bool = True) -> str:
        """What a command says in here."""
        return command(*self.prefix, *argv, check=check)

    def links(self) -> dict[str, dict[str, Any]]:
        """Network devices by name."""
        return {row["ifname"]: row for row in json.loads(self.run("ip", "-d", "-j", "link", "show"))}

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and what it opens or starts, is in here meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(home)
            os.close(there)

    def remove(self) -> None:
        """End what runs in here, then take it away."""
        for pid in command("ip", "netns", "pids", self.name).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        command("ip", "netns", "del", self.name)
        shutil.rmtree(_ETC / self.name, ignore_errors=True)


def command(*argv: str, check: bool = True) -> str:
    """What a command of the test's own says."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, (argv, done)
    return done.stdout


@contextmanager
def listening(space: Namespace | None, address: str, port: int = 0, *, udp: bool = False) -> Iterator[int]:
    """Somebody who answers with the peer's address, as HTTP over TCP and bare over UDP; the port. None: right here."""
    with space.inside() if space else contextlib.nullcontext():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    thread = threading.Thread(target=_echo if udp else _answer, args=[sock], daemon=True)
    if not udp:
        sock.listen()
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):  # wakes the thread
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        sock.close()


def _answer(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer, (address, *_) = sock.accept()
            with peer, contextlib.suppress(OSError):
                peer.settimeout(5)
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 200 OK\r\n\r\nyou are " + address.encode())


def _echo(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, peer = sock.recvfrom(4096)
            if not peer[0]:
                return  # shut down
            sock.sendto(b"you are " + peer[0].encode(), peer)


@contextmanager
def ticking(space: Namespace, address: str) -> Iterator[int]:
    """Somebody who says something to each peer again and again, for as long as the peer listens; the port."""
    with space.inside():
        sock = socket.create_server((address, 0))
    done = threading.Event()

    def speak(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while not done.wait(0.1):
                peer.sendall(b".")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=speak, args=[sock.accept()[0]], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        done.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        sock.close()


class Ground:
    """The server's machine and the world, which has a DNS server and a metadata address."""

    def __init__(self) -> None:
        self.host = Namespace()
        self.world = Namespace()
        self._dns: subprocess.Popen[bytes] | None = None

    def lay(self) -> None:
        """Cable, addresses, routes, DNS."""
        self.host.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", self.world.name)
        for space, address in ((self.host, HOST), (self.world, WORLD)):
            space.run("ip", "addr", "add", f"{address}/24", "dev", "up0")
            space.run("ip", "link", "set", "up0", "up")
        self.host.run("ip", "route", "add", "default", "via", WORLD)
        self.world.run("ip", "addr", "add", f"{METADATA}/32", "dev", "lo")
        self.world.run("ip", "addr", "add", f"{OTHER}/24", "dev", "up0")
        etc = _ETC / self.host.name
        etc.mkdir(parents=True)
        (etc / "resolv.conf").write_text(f"nameserver {WORLD}\n")
        self._dns = subprocess.Popen(
            [
                *self.world.prefix, "dnsmasq", "-k", "--conf-file=/dev/null", "--pid-file", "--no-hosts", "--no-resolv",
                f"--listen-address={WORLD},{OTHER}", "--bind-interfaces", "--user=root",
                f"--address=/{WORLD_NAME}/{WORLD}", f"--address=/{OTHER_NAME}/{OTHER}",
                f"--address=/{NEAR_NAME}/{HOST}", f"--address=/{NEAR_NAME}/{METADATA}",
            ],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def remove(self) -> None:
        """All of it."""
        if self._dns is not None:
            self._dns.kill()
            self._dns.wait()
        self.world.remove()
        self.host.remove()


@contextmanager
def ground() -> Iterator[Ground]:
    """A Ground, gone afterwards."""
    made = Ground()
    try:
        made.lay()
        yield made
    finally:
        made.remove()
