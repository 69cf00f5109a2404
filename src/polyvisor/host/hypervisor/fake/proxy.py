"""A proxy that listens nowhere: it knows what it was told to serve."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from polyvisor.host.ingress.document import ports
from polyvisor.host.ingress.gateway import Connect
from polyvisor.model.faults import Busy, Fault
from polyvisor.model.ingress import Certificate, Route
from polyvisor.ports.proxy import Switch


class FakeProxy:
    """A Proxy. `taken` are ports that somebody else has; `fail` holds faults, used up one per change. Who wants TLS has
    a certificate at once, but for those in `withheld`, with the reason why not."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.routes: tuple[Route, ...] = ()
        self.fail: list[Fault] = []
        self.withheld: dict[str, str] = {}

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

    async def certificate(self, site: str, since: datetime) -> Certificate:
        """See Proxy."""
        served = any(route.rule.tls and route.rule.site == site for route in self.routes)
        if not served or site in self.withheld:
            return Certificate(served=served, error=self.withheld.get(site, ""))
        return Certificate(datetime.now(UTC) + timedelta(days=90), key=True, served=True)

    async def forget(self, site: str) -> None:
        """See Proxy. It keeps none."""

    async def close(self, *, idle: bool) -> None:
        """See Proxy."""
