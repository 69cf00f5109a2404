"""The proxy of this host, kept as it is wanted: what is refused changes nothing, what has died is started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from polyvisor.host.ingress import certificates
from polyvisor.host.ingress.caddy import Caddy
from polyvisor.host.ingress.document import DOORS, ROOTS, Json, Settings, document, listened, ports
from polyvisor.host.ingress.free import probe
from polyvisor.host.ingress.gateway import Connect, Gateway
from polyvisor.model.faults import Busy, Fault, Invalid, Unavailable
from polyvisor.model.ingress import Certificate, Route
from polyvisor.ports.proxy import Switch

log = logging.getLogger("polyvisor.host")
_MEND_EVERY = 2.0


class CaddyProxy:
    """A Proxy."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._caddy = Caddy(folder)
        self._gateway: Gateway | None = None
        self._wanted: tuple[Route, ...] = ()
        self._told: Json = {}  # what Caddy was told last, as far as is known
        self._missing: set[int] = set()  # ports that somebody else has
        self._turn = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    def join(self, connect: Connect) -> None:
        """How guests are connected to. Once, before all else."""
        self._gateway = Gateway(self._folder / DOORS, self._caddy.gid, connect)

    @property
    def _doors(self) -> Gateway:
        assert self._gateway is not None
        return self._gateway

    async def start(self, switch: Switch, routes: Sequence[Route]) -> None:
        """See Proxy."""
        self._doors.follow(switch)
        async with self._turn:
            self._wanted = tuple(routes)
            try:
                self._told = await self._caddy.adopt() or {}
            except OSError as error:  # it has just ended
                log.warning("the proxy of an earlier server cannot be taken over: %r", error)
            await self._try()
        self._keeping = asyncio.create_task(self._keep(), name="proxy")

    async def serve(self, routes: Sequence[Route]) -> None:
        """See Proxy."""
        async with self._turn:
            new = ports(routes) - ports(self._wanted)
            for port in sorted(new - listened(self._told)):
                probe(self._settings.listen, port)
            try:
                await self._tell(_without(routes, self._missing))
            except BaseException:
                self._doors.keep(self._wanted)
                raise
            self._wanted = tuple(routes)
            self._missing &= ports(routes)

    async def certificate(self, site: str, since: datetime) -> Certificate:
        """See Proxy."""
        served = self._caddy.running and any(
            route.rule.tls and route.rule.site == site for route in _without(self._wanted, self._missing)
        )
        return await asyncio.to_thread(certificates.look, self._folder, site, self._settings, since, served=served)

    async def forget(self, site: str) -> None:
        """See Proxy."""
        async with self._turn:
            if not any(route.rule.tls and route.rule.site == site for route in self._wanted):
                await asyncio.to_thread(certificates.forget, self._folder, site)

    async def close(self, *, idle: bool) -> None:
        """See Proxy."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._gateway is not None:
            await self._gateway.close()
        if idle or not self._wanted:
            await self._stop()
        else:
            self._caddy.let_go()

    async def _stop(self) -> None:
        await self._caddy.stop()
        self._told = {}
        self._caddy.remove()

    # -- what Caddy is told ------------------------------------------------------------------------------------------

    async def _tell(self, routes: Sequence[Route]) -> None:
        """All or nothing. One that has died is started, one that is deaf is replaced.

        :raise Invalid, Busy, Unsupported, Unavailable:
        """
        if not routes:
            await self._stop()
            self._doors.keep(routes)
            return
        if not self._caddy.running:
            self._told = {}
            await self._caddy.start()
        await self._stand(routes)
        if self._settings.roots:
            self._caddy.put(ROOTS, self._settings.roots)
        whole = document(routes, self._settings)
        if whole != self._told:  # a change of nothing would send those away who wait in it for a server
            try:
                await self._load(whole)
            except Invalid as fault:
                log.warning("the proxy refuses: %s", fault.private)
                if "address already in use" in fault.private:
                    raise Busy(_taken(fault.private), private=fault.private) from fault
                raise
        self._doors.keep(routes)

    async def _load(self, whole: Json) -> None:
        try:
            await self._caddy.load(whole)
        except Unavailable as deaf:
            log.warning("the proxy is replaced: %s", deaf.private)
            self._told = {}
            await self._caddy.stop()
            await self._caddy.start()
            await self._caddy.load(whole)
        self._told = whole

    async def _stand(self, routes: Sequence[Route]) -> None:
        self._caddy.make_folders()
        try:
            await self._doors.stand(routes)
        except OSError as error:
            raise Unavailable("ingresses: a door cannot be made on this host", private=repr(error)) from error

    # -- kept --------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """What has died is started, and who was kept from a port gets it when it is free."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MEND_EVERY):
                    await self._died()
            async with self._turn:
                if self._wanted and not self._caddy.running:
                    log.warning("the proxy has ended, and is started again")
                    await self._try()
                elif self._wanted and self._free(self._missing):
                    await self._try()

    async def _died(self) -> None:
        if not self._caddy.running:
            await asyncio.Event().wait()  # it was tried already, or there is nothing to serve
        await self._caddy.ended()

    async def _try(self) -> None:
        """Serve what is wanted, as far as its ports can be had."""
        if not self._caddy.running:
            self._told = {}
        needed = ports(self._wanted) - listened(self._told)
        self._missing = needed - self._free(needed)
        if self._missing:
            log.warning("ingresses: ports that cannot be had: %s", sorted(self._missing))
        try:
            await self._tell(_without(self._wanted, self._missing))
        except Fault as fault:
            log.error("ingresses are not served: %s %s", fault.public, fault.private)
        except Exception:
            log.exception("ingresses are not served; it is tried again")

    def _free(self, some: Iterable[int]) -> set[int]:
        found = set()
        for port in some:
            with contextlib.suppress(Fault):
                probe(self._settings.listen, port)
                found.add(port)
        return found


def _without(routes: Sequence[Route], missing: set[int]) -> list[Route]:
    return [route for route in routes if not ports([route]) & missing]


def _taken(words: str) -> str:
    port = words.partition("listening on ")[2].partition(": ")[0].rpartition(":")[2]
    return f"port {port} of this host is taken"
