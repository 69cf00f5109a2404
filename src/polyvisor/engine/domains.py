"""Names of owners' own: that they are theirs, where they lead, and their certificates.

Which domains there are a dialect keeps in its rows, and they are served by rules of an ingress. What it takes beside
that is here: a proof that the name's owner gives in the DNS, changes of zones that take them, and what the proxy has of
a certificate.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime
from time import monotonic

from polyvisor.access.seal import Seal
from polyvisor.model.domain import Record, Zone
from polyvisor.model.faults import Throttled, Unsupported, Upstream
from polyvisor.model.ids import ProjectId
from polyvisor.model.ingress import Certificate
from polyvisor.ports.dns import Dns
from polyvisor.ports.host import Host

_SHOWN, _LONGEST = 3, 80
_BEFORE, _WORD = "polyvisor-verify=", 32
_AT_ONCE = 16  # questions of everybody
_QUESTIONS = 30, 60.0  # of a project, and in how many seconds
_ORDERS = 30, 3600.0  # likewise; an authority of certificates counts those of a whole installation


class _Budget:
    """So many of a project's in so many seconds."""

    def __init__(self, most: int, within: float, words: str) -> None:
        self._most, self._within, self._words = most, within, words
        self._spent: defaultdict[ProjectId, deque[float]] = defaultdict(lambda: deque(maxlen=most))

    def spend(self, project: ProjectId) -> None:
        """One more. :raise Throttled:"""
        spent, now = self._spent[project], monotonic()
        if len(spent) == self._most and (left := self._within - (now - spent[0])) > 0:
            text = f"{self._words} at most {self._most} times in {self._within:.0f} seconds"
            raise Throttled(text, retry_after=left)
        spent.append(now)


class DomainsEngine:
    """What a dialect's custom domains are made of."""

    def __init__(self, host: Host, dns: Dns | None, seal: Seal | None, secret: str) -> None:
        self._host = host
        self._dns = dns
        self._seal = seal
        self._secret = secret
        self._asking = asyncio.Semaphore(_AT_ONCE)
        self._questions = _Budget(*_QUESTIONS, "domains are looked up")
        self._orders = _Budget(*_ORDERS, "certificates are asked for")

    def _names(self) -> Dns:
        if self._dns is None:
            raise Unsupported("this server asks nobody for names")
        return self._dns

    def _sealed(self) -> Seal:
        if self._seal is None:
            raise Unsupported("this server keeps no secrets")
        return self._seal

    # -- proofs ------------------------------------------------------------------------------------------------------

    def word(self, project: ProjectId, domain: str) -> str:
        """What a project's owner writes into the DNS of a name to show that it is his: the same whenever he asks, and
        no other project's."""
        about = f"domain {project} {domain}"
        return _BEFORE + hmac.digest(self._secret.encode(), about.encode(), "sha256").hex()[:_WORD]

    async def check(self, project: ProjectId, name: str, wanted: str) -> str:
        """What is wrong with the TXT records at a name, where one is to say that; empty: nothing.

        :raise Throttled: the project asks all the time, and who is asked is not ours.
        """
        self._questions.spend(project)
        try:
            async with self._asking:
                found = await self._names().texts(name)
        except Upstream as fault:
            return fault.public
        if wanted in found:
            return ""
        if not found:
            return f"there is no TXT record at {name}"
        shown = ", ".join(repr(one[:_LONGEST]) for one in found[:_SHOWN])
        return f"the TXT records at {name} are {shown}, and none is {wanted!r}"

    # -- zones -------------------------------------------------------------------------------------------------------

    def seal(self, secret: str, domain: str) -> str:
        """A secret about a name, as it may be kept."""
        return self._sealed().seal(secret, domain)

    def unseal(self, sealed: str, domain: str) -> str:
        """:raise Internal: it was sealed with another key."""
        return self._sealed().reveal(sealed, domain)

    async def add(self, zone: Zone, records: Sequence[Record], *, private: bool) -> Sequence[Record]:
        """See `ports.dns`. :raise Invalid: without a field."""
        return await self._names().add(zone, records, private=private)

    async def remove(self, zone: Zone, records: Sequence[Record], *, private: bool) -> None:
        """See `ports.dns`. :raise Invalid: without a field."""
        await self._names().remove(zone, records, private=private)

    # -- certificates ------------------------------------------------------------------------------------------------

    def admit_order(self, project: ProjectId) -> None:
        """A name of the project's is about to have a certificate asked for. :raise Throttled:"""
        self._orders.spend(project)

    async def certificate(self, domain: str, since: datetime) -> Certificate:
        """How it stands with a name's; what went wrong before `since` is not told any more."""
        return await self._host.proxy.certificate(domain, since)

    async def forget(self, domain: str) -> None:
        """Its certificate and key, once it is not served any more."""
        await self._host.proxy.forget(domain)
