"""User mode: each instance behind the hypervisor's own NAT. Nothing on the host is touched, no rights are needed."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

from polyvisor.model.faults import Busy
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Port, Shape
from polyvisor.ports.hypervisor import UserNic

_SSH = 22


class UserNetwork:
    """A NetworkDriver that has nothing to set up or tear down: forwards are part of the launch."""

    async def start(self, known: Sequence[Blueprint]) -> None:
        """See NetworkDriver."""

    def check(self, blueprint: Blueprint) -> None:
        """See NetworkDriver: every spec can be met, host ports are tried when launched."""

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""

    def nic(self, blueprint: Blueprint) -> UserNic | None:
        """See NetworkDriver. A full-shape machine gets a way in to its SSH port unasked."""
        if blueprint.address is None:
            return None
        wanted = list(blueprint.spec.ports)
        if blueprint.spec.shape is Shape.FULL and not any(p.guest == _SSH for p in wanted):
            wanted.append(Port(_SSH))
        return UserNic(tuple((p.protocol, _host_port(p), p.guest) for p in wanted))

    def domain(self, blueprint: Blueprint) -> str:
        """See NetworkDriver."""
        return ""

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """See NetworkDriver."""

    async def stop(self) -> None:
        """See NetworkDriver."""


def _host_port(port: Port) -> int:
    """The host port to listen on, tried by binding it: the hypervisor's own refusal would come too late to explain."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port.host))
        except OSError as error:
            raise Busy(
                f"ports: {port.protocol} port {port.host} of the host is taken",
                field="ports",
                private=str(error),
            ) from error
        return int(probe.getsockname()[1])
