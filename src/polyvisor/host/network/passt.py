"""The way out of a user-mode guest: one `passt` per machine, joined to its hypervisor by a pair of sockets.

It copies connections instead of translating packets, needs no rights, and ends with the hypervisor's end of the pair:
nobody has to find or end it. Unlike the hypervisor's own NAT it leads nowhere on this host's loopback. Its sockets are
bound to the interface of the default route, since a guest may put any address on the wire, 127.0.0.1 too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.network import enclosed
from polyvisor.host.run import run
from polyvisor.model.faults import Busy, Unsupported
from polyvisor.model.instance import Address
from polyvisor.ports.hypervisor import UserNic

_LIMIT = 10.0
MAC = "02:00:00:00:00:02"  # by which the guest's agent knows it: guest/handshake.c
_ROUTES = Path("/proc/self/net/route")


def outbound() -> str | None:
    """The interface of the default route; None: this host leads nowhere."""
    rows = [line.split() for line in _ROUTES.read_text().splitlines()[1:]]
    default = [row for row in rows if row[1] == row[7] == "00000000"]
    return min(default, key=lambda row: int(row[6]))[0] if default else None


def argv(fd: int, nic: UserNic, address: Address, way_out: str | None, uid: int | None) -> list[str]:
    """The command line. Without a way out only the forwards work: outbound protocols have nothing to be bound to."""
    line = [
        "passt", "--quiet", "--fd", str(fd), "--ipv4-only", "--address", address.ip, "--netmask", str(address.prefix),
        "--gateway", address.gateway, "--mac-addr", MAC, "--no-map-gw", "--no-dhcp-search",
        "--dns-forward", address.dns, "--interface", way_out or "lo", "--outbound-if4", way_out or "lo",
    ]  # fmt: skip
    if uid is not None:
        line += ["--runas", f"{uid}:{uid}"]
    return [*line, *ports(nic, named=True)]


def ports(nic: UserNic, *, named: bool) -> list[str]:
    """Where it listens on this host's loopback, and which ports of the guest's these are, if they are `named`."""
    words: list[str] = []
    for protocol, host, guest in nic.inner or nic.forwards:
        words += [f"--{protocol}-ports", f"127.0.0.1/{host}:{guest if named else host}"]
    return words


def join(nic: UserNic, address: Address, uid: int | None) -> tuple[socket.socket, asyncio.Task[None]]:
    """The hypervisor's end of the pair, and the start of passt at the other one, which the hypervisor need not await:
    what it sends meanwhile waits in the pair. When our end is closed, passt has ended.

    The task raises Busy: a host port is taken. Unsupported: passt is not installed or does not run here.
    """
    ours, theirs = socket.socketpair()
    return ours, asyncio.create_task(_start(theirs, nic, address, uid), name="passt")


async def _start(theirs: socket.socket, nic: UserNic, address: Address, uid: int | None) -> None:
    with theirs:
        if nic.enclosure is not None:
            said = await enclosed.start(theirs.fileno(), nic, nic.enclosure, address, outbound(), uid)
            if said:
                raise _refusal(nic.forwards, said)
            return
        line = argv(theirs.fileno(), nic, address, outbound(), uid)
        done = await run(line, timeout=_LIMIT, fds=[theirs.fileno()], check=False)
    if done.code:
        raise _refusal(nic.forwards, done.err.decode(errors="replace"))


def _refusal(forwards: Sequence[tuple[str, int, int]], words: str) -> Busy | Unsupported:
    if "Failed to bind" in words:
        ports = ", ".join(str(host) for _, host, _ in forwards)
        return Busy(f"ports: one of the host's ports {ports} is taken", field="ports", private=words)
    return Unsupported("user mode: passt does not start", field="network", private=words)
