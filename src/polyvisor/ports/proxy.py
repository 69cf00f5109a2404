"""The proxy of a host: it answers HTTP requests at ports of the host by passing them to instances."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Protocol

from polyvisor.model.host import Blueprint
from polyvisor.model.ids import IngressId
from polyvisor.model.ingress import Certificate, Route

Switch = Callable[[IngressId, int, str], Awaitable[tuple[Blueprint, int]]]
"""For a request of the rule of that number, and the host name that it asks for (empty where the rule has one name
alone): the instance that is to answer it, which runs by then, and the port. :raise NotFound: there is none. :raise
Fault: it is not there to answer."""


class Proxy(Protocol):
    """What rules become on a host. Every verb is safe to repeat."""

    async def start(self, switch: Switch, routes: Sequence[Route]) -> None:
        """Serve these from now on, as far as that can be done: what cannot be is tried again later, never raised."""

    async def serve(self, routes: Sequence[Route]) -> None:
        """Serve exactly these. When it is refused all is as it was.

        :raise Busy: a port that is new is taken; `subject` is its number. :raise Forbidden: it needs rights; the same.
        :raise Invalid: the proxy refuses them. :raise Unsupported: there is no proxy here. :raise Unavailable:
        """

    async def certificate(self, site: str, since: datetime) -> Certificate:
        """Of a name, no pattern. What went wrong before `since` is not told any more."""

    async def forget(self, site: str) -> None:
        """Certificate and key of a name that is not served any more."""

    async def close(self, *, idle: bool) -> None:
        """Let go; where there are routes the proxy runs on, and has who asks wait a moment. `idle`: nothing is left."""
