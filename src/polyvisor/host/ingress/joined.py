"""How a proxy is joined to its host."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from polyvisor.host.ingress.gateway import Connect
from polyvisor.model.faults import Unsupported
from polyvisor.model.ingress import Certificate, Route
from polyvisor.ports.proxy import Proxy, Switch


class Joined(Proxy, Protocol):
    """A proxy that is told how guests are connected to."""

    def join(self, connect: Connect) -> None:
        """Once, before all else."""


class NoProxy:
    """Of a host that has none."""

    def join(self, connect: Connect) -> None:
        """See Joined."""

    async def start(self, switch: Switch, routes: Sequence[Route]) -> None:
        """See Proxy."""

    async def serve(self, routes: Sequence[Route]) -> None:
        """See Proxy."""
        raise Unsupported("this host has no proxy for ingresses")

    async def certificate(self, site: str, since: datetime) -> Certificate:
        """See Proxy."""
        return Certificate()

    async def forget(self, site: str) -> None:
        """See Proxy."""

    async def close(self, *, idle: bool) -> None:
        """See Proxy."""
