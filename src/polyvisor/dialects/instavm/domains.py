"""Custom domains: names of owners' own that lead to a share (instavm.md §1.10, ADR 52).

A domain is asked for, shown to be its owner's by a TXT record, and from then on served as the share is: whoever may
come in there may come in by it. How it stands with its certificate is the proxy's to say, and is kept nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from polyvisor.dialects.instavm import providers, shares, vms
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.shares import Share
from polyvisor.dialects.instavm.vms import stamp
from polyvisor.dialects.instavm.wire import CustomDomainRequest
from polyvisor.model.domain import LONGEST, Record, address_kind, parse_name
from polyvisor.model.faults import Exists, Fault, Invalid, NotFound, OverQuota, Unsupported
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.model.ingress import MAX_RULES, Certificate
from polyvisor.model.principal import Action

log = logging.getLogger("polyvisor.instavm")
DOMAIN = "custom-domain"
_AT = "_instavm."
"""What stands before a domain where its TXT record is."""
_KEPT = timedelta(days=1)
"""So long a domain is kept for who asked for it and has not shown that it is his."""
_PATIENCE = 60.0  # seconds of a sweep; a zone that does not answer takes twenty


@dataclass(frozen=True, slots=True)
class Domain:
    """`sealed` are the credentials of its zone, `records` what was written there, `error` why it could not be shown to
    be its owner's, `verified` when it was. `key` is the id that callers know it by."""

    name: str
    project: ProjectId
    share: str
    created: datetime
    provider: str
    sealed: str = field(default="", repr=False)
    records: Sequence[Record] = ()
    verified: datetime | None = None
    error: str = ""
    key: int = 0

    def row(self) -> Row:
        """As it is kept: by its name, so that it is one project's."""
        told = {name: one for name, one in asdict(self).items() if name not in ("name", "project", "key")}
        told |= {"created": self.created.isoformat(), "verified": self.verified and self.verified.isoformat()}
        return Row(DIALECT, DOMAIN, self.name, self.project, self.share, json.dumps(told), self.key)


def _domain(row: Row) -> Domain:
    data = json.loads(row.data)
    data |= {"created": datetime.fromisoformat(data["created"])}
    data |= {"verified": datetime.fromisoformat(data["verified"]) if data["verified"] else None}
    data |= {"records": [Record(**one) for one in data["records"]]}
    return Domain(row.name, row.project, key=row.key, **data)


# -- finding -----------------------------------------------------------------------------------------------------------


async def everything(call: Call) -> list[Domain]:
    """Those that the caller may see, oldest first."""
    rows = await call.core.rows.of(DIALECT, [DOMAIN])
    return [_domain(row) for row in rows if call.principal.may(Action.INGRESS_VIEW, row.project)]


async def find(call: Call, key: int, action: Action) -> Domain:
    """:raise NotFound: there is none, or it is another's."""
    missing = NotFound(f"Custom domain {key} not found", subject=str(key))
    try:
        row = await call.core.rows.get(DIALECT, key)
    except NotFound as fault:
        raise missing from fault
    if row.kind != DOMAIN or not call.principal.may(action, row.project):
        raise missing
    return _domain(row)


# -- asking for one ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for, looked through. `where` stands before the names of its fields in faults."""

    name: str
    provider: str
    credentials: Mapping[str, str] = field(repr=False)
    where: str


def admit(call: Call, body: CustomDomainRequest, where: str = "") -> Wanted:
    """:raise Invalid, Unsupported: naming the field."""
    if not call.settings.domains:
        at = f"{where}domain"
        raise Unsupported(f"{at}: this server takes no custom domains (instavm.domains is not set)", field=at)
    name = parse_name(body.domain, f"{where}domain")
    if name in (call.settings.domains, call.settings.share_host.lower()):
        raise Invalid(f"{where}domain: is this server's own", field=f"{where}domain")
    if len(_AT + name) > LONGEST:
        raise Invalid(f"{where}domain: is too long for a TXT record below it", field=f"{where}domain")
    provider, credentials = providers.admit(body.dns_provider, body.dns_credentials, name, where)
    return Wanted(name, provider, credentials, where)


async def _there(call: Call, name: str) -> Domain | None:
    for row in await call.core.rows.of(DIALECT, [DOMAIN]):
        if row.name == name:
            return _domain(row)
    return None


async def require_free(call: Call, name: str, project: ProjectId) -> Domain | None:
    """One of somebody who has to make room, if there is: who has not shown that it is his keeps it from nobody who
    does, and for a day from those who do not.

    :raise Exists: somebody has it; who is not told. :raise Throttled:
    """
    there = await _there(call, name)
    if there is None:
        return None
    taken = Exists(f"Custom domain {name} is already in use")
    if there.project == project or there.verified is not None:
        raise taken
    if vms.now() - there.created > _KEPT:
        return there
    at, word = f"{_AT}{name}", call.core.domains.word(project, name)
    if await call.core.domains.check(project, at, word):
        raise Exists(f"{taken.public}; its owner has it, who writes a TXT record {word!r} at {at} and asks again")
    return there


async def add(call: Call, share: Share, wanted: Wanted) -> Domain:
    """It is asked for; its records are written where its provider takes them. :raise Fault: nothing is made."""
    async with vms.one_at_a_time(f"domain {wanted.name}"):
        there = await require_free(call, wanted.name, share.project)
        theirs = await call.core.rows.of(DIALECT, [DOMAIN], [share.id])
        if len(theirs) >= MAX_RULES - 1:
            raise OverQuota(f"a share has {MAX_RULES - 1} custom domains at most")
        if there is not None:
            await call.core.courier.forget([there.row()])
            await _withdrawn(call, there)
        domain = Domain(wanted.name, share.project, share.id, vms.now(), wanted.provider)
        if wanted.credentials:
            sealed = call.core.domains.seal(json.dumps(dict(wanted.credentials)), wanted.name)
            domain = replace(domain, sealed=sealed, records=records_of(call, domain))
        (row,) = await call.core.rows.add(call.principal, [domain.row()], Action.INGRESS_CREATE)
        domain = replace(domain, key=row.key)
        return await _published(call, domain, wanted) if wanted.credentials else domain


async def _published(call: Call, domain: Domain, wanted: Wanted) -> Domain:
    """With its records in its zone; those that are there by another hand are none of its own."""
    at = f"{wanted.where}dns_credentials"
    zone = providers.zone(wanted.credentials)
    try:
        added = await call.core.domains.add(zone, domain.records, private=call.settings.dns_private)
    except BaseException as error:
        await call.core.rows.remove(call.principal, [domain.row()], Action.INGRESS_CREATE)
        if isinstance(error, Invalid):
            raise Invalid(f"{at}: {error.public}", field=at, private=error.private) from error
        raise
    domain = replace(domain, records=added)
    await call.core.rows.save(call.principal, [domain.row()], Action.INGRESS_CREATE)
    return domain


def records_of(call: Call, domain: Domain) -> list[Record]:
    """What its owner, or this server, writes into the DNS: the proof, and the way here."""
    target = call.settings.domains
    word = call.core.domains.word(domain.project, domain.name)
    return [Record(f"{_AT}{domain.name}", "TXT", word), Record(domain.name, address_kind(target) or "CNAME", target)]


# -- showing that it is one's own --------------------------------------------------------------------------------------


async def verify(call: Call, domain: Domain) -> Domain:
    """Look for the proof now. Once it is there the domain is served, and a certificate is had for it; of one that has
    none for some reason that is tried again. :raise Throttled: it is asked for all the time; nothing is changed."""
    async with vms.one_at_a_time(f"domain {domain.name}"):
        domain = await find(call, domain.key, Action.INGRESS_CREATE)
        certificate = await _certificate(call, domain)
        if domain.verified is not None and certificate.served and not certificate.error:
            return domain
        proof = records_of(call, domain)[0]
        error = await call.core.domains.check(domain.project, proof.name, proof.value)
        if not error:
            call.core.domains.admit_order(domain.project)
        domain = replace(domain, verified=None if error else vms.now(), error=error)
        if error or certificate.error:
            await _unserved(call, domain)
        if not error:
            domain = await _served(call, domain)
        await call.core.rows.save(call.principal, [domain.row()], Action.INGRESS_CREATE)
    return domain


async def _served(call: Call, domain: Domain) -> Domain:
    try:
        await shares.lead(call, domain.share, domain.name)
    except Fault as fault:
        if fault.private:
            log.warning("custom domain %s: %s", domain.name, fault.private)
        return replace(domain, verified=None, error=_bare(fault))
    return domain


def _bare(fault: Fault) -> str:
    """Without the field's name, which is one of an ingress."""
    return fault.public.removeprefix(f"{fault.field}: ") if fault.field else fault.public


async def _unserved(call: Call, domain: Domain) -> None:
    """Nobody is led by it any more. A share whose VM is gone, and which cannot be changed, goes as a whole."""
    try:
        await shares.lead_no_more(call, domain.share, domain.name)
    except NotFound:
        with contextlib.suppress(NotFound):
            await shares.revoke(call, await shares.find(call, domain.share, Action.INGRESS_CREATE))


# -- the end -----------------------------------------------------------------------------------------------------------


async def remove(call: Call, domain: Domain) -> str:
    """It is no more, nor are its certificate and what was written into its zone. What is wrong with the last, if
    something is: that is its owner's to mend."""
    async with vms.one_at_a_time(f"domain {domain.name}"):
        domain = await find(call, domain.key, Action.INGRESS_CREATE)
        await _unserved(call, domain)
        await call.core.domains.forget(domain.name)
        error = await _withdrawn(call, domain)
        await call.core.rows.remove(call.principal, [domain.row()], Action.INGRESS_CREATE)
    return error


async def _withdrawn(call: Call, domain: Domain) -> str:
    if not domain.sealed:
        return ""
    try:
        zone = providers.zone(json.loads(call.core.domains.unseal(domain.sealed, domain.name)))
        await call.core.domains.remove(zone, domain.records, private=call.settings.dns_private)
    except Fault as fault:
        log.warning("records of custom domain %s are left: %s %s", domain.name, fault.public, fault.private)
        return f"its DNS records are left: {fault.public}"
    return ""


async def end(call: Call, share: Share) -> None:
    """Those of a share that is no more."""
    for row in await call.core.rows.of(DIALECT, [DOMAIN], [share.id]):
        await remove(call, _domain(row))


async def sweep(call: Call) -> None:
    """Take those away whose share is no more. A name server that does not answer keeps its project's waiting, and no
    other's; what takes too long goes on the next time."""
    there = {row.name for row in await call.core.rows.of(DIALECT, [shares.SHARE])}
    gone: dict[ProjectId, list[Domain]] = {}
    for domain in await everything(call):
        if domain.share not in there:
            gone.setdefault(domain.project, []).append(domain)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*(_swept(call, those) for those in gone.values()))


async def _swept(call: Call, those: Sequence[Domain]) -> None:
    for domain in those:
        try:
            await remove(call, domain)
        except Fault as fault:
            log.warning("custom domain %s stays for now: %s %s", domain.name, fault.public, fault.private)


# -- telling -----------------------------------------------------------------------------------------------------------


async def _certificate(call: Call, domain: Domain) -> Certificate:
    if domain.verified is None:
        return Certificate()
    return await call.core.domains.certificate(domain.name, domain.verified)


async def told(call: Call, domain: Domain) -> dict[str, Any]:
    """As its routes have it."""
    return _told(call, domain, await _certificate(call, domain))


async def health(call: Call, domain: Domain) -> dict[str, Any]:
    """The same, and what there is of it in the proxy."""
    found = await _certificate(call, domain)
    return _told(call, domain, found) | {
        "cert_present": found.until is not None,
        "key_present": found.key,
        "proxy_active": found.served,
        "cert_expires_at": None if found.until is None else stamp(found.until),
    }


def status(domain: Domain, certificate: Certificate) -> str:
    """The client knows these four: while a certificate is being had a domain is `verified`."""
    if domain.verified is None:
        return "failed" if domain.error else "pending"
    if certificate.issued:
        return "issued"
    return "failed" if certificate.error else "verified"


def _told(call: Call, domain: Domain, certificate: Certificate) -> dict[str, Any]:
    proof, way = records_of(call, domain)
    port = "" if call.settings.domain_port == 443 else f":{call.settings.domain_port}"
    leads = {"name": way.name, "target": way.value} if way.kind == "CNAME" else None
    return {
        "id": domain.key,
        "domain": domain.name,
        "share_id": domain.share,
        "status": status(domain, certificate),
        "url": None if domain.verified is None else f"https://{domain.name}{port}/",
        "last_error": domain.error or certificate.error or None,
        "dns_provider": domain.provider,
        "created_at": stamp(domain.created),
        "verified_at": None if domain.verified is None else stamp(domain.verified),
        "setup": {
            "txt_record": {"name": proof.name, "value": proof.value},
            "cname": leads,
            "address_record": None if leads else {"name": way.name, "type": way.kind, "value": way.value},
            "written": [f"{one.kind} {one.name}" for one in domain.records],
            "verify_endpoint": f"/v1/custom-domains/{domain.key}/verify",
        },
    }
