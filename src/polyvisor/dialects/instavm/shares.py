"""Shares: a port of a VM at an address of this host (instavm.md §1.10).

A share is an ingress with a port of the host to itself: clients keep no more of its URL than scheme, host and port. It
has the same one for as long as it is there, also when it becomes private: then who asks has to send a token. The
domains that lead to it are rules of the same ingress, so what becomes of it becomes of them.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polyvisor.dialects.instavm import names, vms
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.model.faults import Busy, Forbidden, Invalid, NoCapacity, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.ingress import Guard, Rule
from polyvisor.model.principal import Action

SHARE = "share"
HEADER = "X-Share-Token"
"""What who asks for a private share sends the token in."""
_PREFIX = "shr_"
_TRIES = 50


@dataclass(frozen=True, slots=True)
class Share:
    """`port` is the VM's, `outside` this host's; `ingress` is the id of ours that leads there, by `domains` too."""

    id: str
    project: ProjectId
    instance: str
    port: int
    is_public: bool
    outside: int
    ingress: str
    token: str = field(repr=False)
    domains: Sequence[str] = ()
    key: int = 0

    def row(self) -> Row:
        """As it is kept: it stays while its VM does, and is cleared away after that."""
        told = {name: one for name, one in asdict(self).items() if name not in ("id", "project", "key")}
        return Row(DIALECT, SHARE, self.id, self.project, names.vm_id(self.instance, 1), json.dumps(told), self.key)


def _share(row: Row) -> Share:
    return Share(row.name, row.project, key=row.key, **json.loads(row.data))


async def find(call: Call, id: str, action: Action) -> Share:
    """:raise NotFound:"""
    for row in await call.core.rows.of(DIALECT, [SHARE]):
        if row.name == id and call.principal.may(action, row.project):
            return _share(row)
    raise NotFound(f"Share {id[:80]} not found")


async def of(call: Call, vm: Vm) -> list[Share]:
    """A VM's."""
    return [_share(row) for row in await call.core.rows.of(DIALECT, [SHARE], [names.vm_id(vm.instance.id, 1)])]


async def create(call: Call, vm: Vm, port: int, *, is_public: bool) -> Share:
    """A share of that port; where there is one already, that, and public if it is asked to be.

    Clients that want no more than its URL ask for a private one, so that does not close one that is public.
    :raise Fault: nothing is made.
    """
    async with vms.one_at_a_time(f"shares of {vm.instance.id}"):
        for share in await of(call, vm):
            if share.port == port:
                return await _changed(call, share, is_public=True) if is_public and not share.is_public else share
        share = Share(
            _PREFIX + mint(), call.principal.project, vm.instance.id, port, is_public, 0, "", secrets.token_urlsafe(32)
        )
        share = await _serve(call, share, await _free(call))
        try:
            (row,) = await call.core.rows.add(call.principal, [share.row()], Action.INGRESS_CREATE)
        except BaseException:
            await call.core.ingresses.delete(call.principal, share.ingress)
            raise
    return replace(share, key=row.key)


async def _free(call: Call) -> Sequence[int]:
    """Ports of this host that no share has, the least used first; another process may have them."""
    taken = {_share(row).outside for row in await call.core.rows.of(DIALECT, [SHARE])}
    first, last = call.settings.ports
    free = [port for port in range(first, last + 1) if port not in taken]
    if not free:
        raise NoCapacity("no port of this host is left for a share", field="port")
    start = secrets.randbelow(len(free))
    return (free[start:] + free[:start])[:_TRIES]


async def _serve(call: Call, share: Share, ports: Sequence[int]) -> Share:
    """The share once it is served, at the first of the ports that can be had. :raise Fault:"""
    if not call.settings.share_host:
        raise Invalid("port: this server has no address for shares (instavm.share_host)", field="port")
    for outside in ports:
        rules = _rules(call, replace(share, outside=outside))
        try:
            made = await call.core.ingresses.create(call.principal, f"share-{mint()}", rules)
        except Busy as fault:
            if fault.field != "rules[0].port":
                raise
            continue
        return replace(share, outside=outside, ingress=made.id)
    raise NoCapacity("no port of this host could be had for a share", field="port")


def _rules(call: Call, share: Share) -> list[Rule]:
    """At its port, and at the port of domains by these."""
    guard = None if share.is_public else Guard(HEADER, share.token)
    port = call.settings.domain_port
    return [
        Rule(call.settings.share_host, share.instance, share.port, share.outside, guard=guard),
        *(Rule(one, share.instance, share.port, port, True, True, guard) for one in share.domains),
    ]


async def change(call: Call, share: Share, *, is_public: bool) -> Share:
    """Public or private from now on, at the same address. :raise Fault: it is as it was."""
    async with vms.one_at_a_time(f"shares of {share.instance}"):
        share = await find(call, share.id, Action.INGRESS_CREATE)
        return share if share.is_public is is_public else await _changed(call, share, is_public=is_public)


async def _changed(call: Call, share: Share, *, is_public: bool) -> Share:
    if not call.principal.may(Action.INGRESS_CREATE, share.project):
        raise Forbidden("you may not change this share", subject=share.id)
    return await _become(call, share, replace(share, is_public=is_public))


async def _become(call: Call, share: Share, wanted: Share) -> Share:
    """Served before it is written down: if the server ends in between, one that is to be private is.

    :raise Fault: it is as it was.
    """
    ingresses, rows = call.core.ingresses, call.core.rows
    await ingresses.replace(call.principal, share.ingress, _rules(call, wanted), wanted.domains)
    try:
        await rows.save(call.principal, [wanted.row()], Action.INGRESS_CREATE)
    except BaseException:
        await ingresses.replace(call.principal, share.ingress, _rules(call, share), share.domains)
        raise
    return wanted


async def lead(call: Call, id: str, domain: str) -> Share:
    """A domain leads to it from now on. :raise Fault: it is as it was."""
    return await _led(call, id, lambda there: [*there, domain])


async def lead_no_more(call: Call, id: str, domain: str) -> None:
    """Not by that domain any more. :raise NotFound: the share is gone, and so are the ways to it."""
    await _led(call, id, lambda there: [one for one in there if one != domain])


async def _led(call: Call, id: str, change: Callable[[Sequence[str]], Sequence[str]]) -> Share:
    found = await find(call, id, Action.INGRESS_CREATE)
    async with vms.one_at_a_time(f"shares of {found.instance}"):
        share = await find(call, id, Action.INGRESS_CREATE)
        wanted = tuple(dict.fromkeys(change(share.domains)))
        return await _become(call, share, replace(share, domains=wanted))


async def revoke(call: Call, share: Share) -> None:
    """It is no more; the row goes last, so that one which could not be taken away is tried again."""
    with contextlib.suppress(NotFound):
        await call.core.ingresses.delete(call.principal, share.ingress)
    with contextlib.suppress(NotFound):
        await call.core.rows.remove(call.principal, [share.row()], Action.INGRESS_DELETE)


async def sweep(call: Call) -> None:
    """Take those away whose VM is no more."""
    for row in await call.core.rows.of(DIALECT, [SHARE]):
        share = _share(row)
        try:
            await call.core.instances.get(call.principal, share.instance)
        except NotFound:
            await revoke(call, share)


def told(call: Call, share: Share, vm_id: str) -> dict[str, Any]:
    """As its routes have it; the token is for whoever may see the share."""
    shown = {
        "share_id": share.id,
        "id": share.id,
        "vm_id": vm_id,
        "port": share.port,
        "is_public": share.is_public,
        "url": f"http://{call.settings.share_host}:{share.outside}/",
    }
    return shown if share.is_public else shown | {"token": share.token, "token_header": HEADER}
