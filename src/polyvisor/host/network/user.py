"""User mode: each instance behind a NAT process of its own. Nothing on the host is touched, no rights are needed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from polyvisor.model.faults import Busy, Invalid, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Port, Shape
from polyvisor.ports.hypervisor import UserNic
from polyvisor.ports.network import Forwards

_SSH = 22
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class UserNetwork:
    """A NetworkDriver that has nothing to set up or tear down: forwards are part of the launch."""

    async def start(self, known: Sequence[Blueprint]) -> None:
        """See NetworkDriver."""

    def check(self, blueprint: Blueprint) -> None:
        """See NetworkDriver. Whether host ports are free is tried at each launch.

        :raise Invalid: one that only a process with rights may take, which what forwards it never is.
        :raise Unsupported: a limit of speed: the NAT process copies streams and has none, nor has the hypervisor.
        """
        for name in ("download_rate", "upload_rate"):
            if getattr(blueprint.spec, name):
                raise Unsupported(f"{name}: only bridge mode can limit a network's speed", field=name)
        first = _first_free()
        for port in blueprint.spec.ports:
            if 0 < port.host < first:
                raise Invalid(
                    f"ports: host port {port.host} needs rights; the first free one is {first}", field="ports"
                )

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""

    def nic(self, blueprint: Blueprint) -> UserNic | None:
        """See NetworkDriver. A full-shape machine gets a way in to its SSH port unasked, and every one to
        the port that its health is asked at."""
        if blueprint.address is None:
            return None
        wanted = list(blueprint.spec.ports)
        if blueprint.spec.shape is Shape.FULL and not any(p.guest == _SSH for p in wanted):
            wanted.append(Port(_SSH))
        check = blueprint.spec.health
        if check is not None and check.port and not any((p.protocol, p.guest) == ("tcp", check.port) for p in wanted):
            wanted.append(Port(check.port))
        found: dict[int, int] = {}
        with contextlib.ExitStack() as held:  # all at once, the wanted ones first: no port is found free twice
            for index in sorted(range(len(wanted)), key=lambda i: not wanted[i].host):
                found[index] = held.enter_context(_bound(wanted[index])).getsockname()[1]
        return UserNic(tuple((p.protocol, found[index], p.guest) for index, p in enumerate(wanted)))

    def reach(self, blueprint: Blueprint, forwards: Forwards, port: int) -> tuple[str, int] | None:
        """See NetworkDriver."""
        return next((("127.0.0.1", host) for kind, host, guest in forwards if (kind, guest) == ("tcp", port)), None)

    def domain(self, blueprint: Blueprint) -> str:
        """See NetworkDriver."""
        return ""

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """See NetworkDriver."""

    async def stop(self) -> None:
        """See NetworkDriver."""


def _first_free() -> int:
    """The first port that a process without rights may listen on."""
    return int(_UNPRIVILEGED.read_text())


def _bound(port: Port) -> socket.socket:
    """A socket at the host port: tried by binding it, since later refusals cannot say which one was taken."""
    udp = port.protocol == "udp"
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    if not udp:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(("127.0.0.1", port.host))
    except OSError as error:
        probe.close()
        raise Busy(
            f"ports: {port.protocol} port {port.host} of the host is taken", field="ports", private=str(error)
        ) from error
    return probe
