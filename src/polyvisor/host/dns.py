"""DNS by dnspython: questions to the name servers of the settings, and changes signed by TSIG (RFC 2136, RFC 8945).

The server of a zone is an address that a caller named: it is looked up once, judged, and then connected to, as the
courier does (ADR 50).
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.resolver
import dns.tsig
import dns.update

from polyvisor.host.courier import is_ours
from polyvisor.host.images.addresses import addresses, public_addresses
from polyvisor.model.domain import Record, Zone
from polyvisor.model.faults import Invalid, Upstream

log = logging.getLogger("polyvisor.host")
_ASK_LIMIT = 10.0
_CHANGE_LIMIT = 10.0
_TTL = 60
_MOST = 20  # TXT records that are looked at


class NameServers:
    """A Dns. `servers` are asked, as (address, port); none: those of this host."""

    def __init__(self, servers: Sequence[tuple[str, int]] = ()) -> None:
        self._servers = servers

    async def texts(self, name: str) -> Sequence[str]:
        """See Dns."""
        try:
            found = await self._resolver().resolve(name, "TXT", search=False, lifetime=_ASK_LIMIT)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
        except (dns.exception.DNSException, OSError) as error:
            raise Upstream(f"the name servers do not say what is at {name}", private=str(error)) from error
        parts = [b"".join(record.strings) for record in list(found)[:_MOST]]
        return [part.decode("utf-8", "replace") for part in parts]

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """A new one each time, without a cache: who has just set a record is not to wait."""
        resolver = dns.asyncresolver.Resolver(configure=not self._servers)
        if self._servers:
            resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in self._servers]
        return resolver

    async def add(self, zone: Zone, records: Sequence[Record], *, private: bool) -> Sequence[Record]:
        """See Dns. Each is a message of its own: what one of them asks first is no condition for the others."""
        server = await _reached(zone, private=private)
        added: list[Record] = []
        for record in records:
            update = _update(zone)
            if record.kind != "TXT":
                update.absent(_absolute(record.name))
            update.add(_absolute(record.name), _TTL, record.kind, _data(record))
            try:
                done = await _send(zone, server, update)
            except Invalid:
                await self._undo(zone, added, private=private)
                raise
            if done:
                added.append(record)
        return added

    async def _undo(self, zone: Zone, added: Sequence[Record], *, private: bool) -> None:
        try:
            await self.remove(zone, added, private=private)
        except Invalid as fault:
            log.warning("records are left in %s: %s", zone.name, fault.public)

    async def remove(self, zone: Zone, records: Sequence[Record], *, private: bool) -> None:
        """See Dns."""
        if records:
            server, update = await _reached(zone, private=private), _update(zone)
            for record in records:
                update.delete(_absolute(record.name), record.kind, _data(record))
            await _send(zone, server, update)


async def _reached(zone: Zone, *, private: bool) -> str:
    """The address of its server. :raise Invalid:"""
    look = addresses if private else public_addresses
    found = await look(zone.server, zone.port)
    if not found or (not private and any(map(is_ours, found))):
        kind = "an address" if private else "public addresses alone"
        raise Invalid(f"the name server {zone.server} must stand for {kind}")
    return found[0]


def _update(zone: Zone) -> dns.update.UpdateMessage:
    """:raise Invalid: the key is none."""
    try:
        secret = base64.b64decode(zone.secret, validate=True)
        key = dns.tsig.Key(dns.name.from_text(zone.key_name), secret, dns.name.from_text(zone.algorithm))
        return dns.update.UpdateMessage(_absolute(zone.name), keyring=key)
    except (ValueError, dns.exception.DNSException) as error:
        raise Invalid("the key is not one of TSIG: a name, and a secret in base64") from error


def _absolute(name: str) -> dns.name.Name:
    return dns.name.from_text(name)


def _data(record: Record) -> str:
    """As a zone file has it."""
    if record.kind == "TXT":
        return f'"{record.value}"'
    return f"{record.value}." if record.kind == "CNAME" else record.value


async def _send(zone: Zone, server: str, update: dns.update.UpdateMessage) -> bool:
    """Whether it was done; False: what it asks first is not so. :raise Invalid: it was refused, or nobody answers."""
    try:
        async with asyncio.timeout(_CHANGE_LIMIT):
            answer = await dns.asyncquery.tcp(update, server, port=zone.port, timeout=_CHANGE_LIMIT)
    except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadTime, dns.message.UnknownTSIGKey) as error:
        raise Invalid(f"the name server {zone.server} does not take this key", private=repr(error)) from error
    except dns.exception.FormError as error:
        text = f"the name server {zone.server} does not sign its answer with this key"
        raise Invalid(text, private=repr(error)) from error
    except (dns.exception.DNSException, OSError, EOFError, TimeoutError, NotImplementedError) as error:
        raise Invalid(f"the name server {zone.server} does not answer", private=repr(error)) from error
    rcode = answer.rcode()
    if rcode in (dns.rcode.YXDOMAIN, dns.rcode.YXRRSET):
        return False
    if rcode != dns.rcode.NOERROR:
        said = dns.rcode.to_text(rcode)
        raise Invalid(f"the name server {zone.server} refuses to change {zone.name}: {said}")
    return True
