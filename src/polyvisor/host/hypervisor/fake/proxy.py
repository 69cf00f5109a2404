"""A proxy that listens nowhere: it knows what it was told to serve."""

from __future__ import annotations

from collections.abc import Sequence

from polyvisor.host.ingress.document import ports
from polyvisor.host.ingress.gateway import Connect
from polyvisor.model.faults import Busy, Fault
from polyvisor.model.ingress import Route
from polyvisor.ports.proxy import Switch


class FakeProxy:
    """A Proxy. `taken` are ports that somebody else has; `fail` holds faults, used up one per change."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.routes: tuple[Route, ...] = ()
        self.fail: list[Fault] = []

    def join(self, connect: Connect) -> None:
        """See Joined. Nobody ever comes."""

    async def start(self, switch: Switch, routes: Sequence[Route]) -> None:
        """See Proxy."""
        self.routes = tuple(routes)

    async def serve(self, routes: Sequence[Route]) -> None:
        """See Proxy."""
        for port in sorted((ports(routes) - ports(self.routes)) & self.taken):
            raise Busy(f"port {port} of this host is taken", subject=str(port))
        if self.fail:
            raise self.fail.pop(0)
        self.routes = tuple(routes)

    async def close(self, *, idle: bool) -> None:
        """See Proxy."""
