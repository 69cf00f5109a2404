"""Ingresses, over HTTP."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from polyvisor.dialects.native.auth import Caller, Core
from polyvisor.dialects.native.params import Cursor, Key, PageSize
from polyvisor.model.ingress import Guard, Ingress, Rule
from polyvisor.wire import native as wire

router = APIRouter(prefix="/ingresses", tags=["ingresses"])


@router.post("", status_code=201)
async def create_ingress(body: wire.CreateIngress, caller: Caller, core: Core) -> wire.Ingress:
    """Lead HTTP requests to instances. Served when it is answered. A request wakes an instance that is in standby."""
    rules = [rule_of(rule) for rule in body.rules]
    return ingress_to(await core.ingresses.create(caller, body.name, rules, sorted(body.labels.items())))


@router.get("")
async def list_ingresses(caller: Caller, core: Core, cursor: Cursor = None, limit: PageSize = 100) -> wire.IngressPage:
    """A page of ingresses, oldest first."""
    page = await core.ingresses.list(caller, cursor, limit)
    return wire.IngressPage(items=[ingress_to(one) for one in page.items], next=page.next)


@router.get("/{key}")
async def get_ingress(key: Key, caller: Caller, core: Core) -> wire.Ingress:
    """One ingress, by id or name."""
    return ingress_to(await core.ingresses.get(caller, key))


@router.delete("/{key}", status_code=204)
async def delete_ingress(key: Key, caller: Caller, core: Core) -> Response:
    """Lead nobody by it any more. Connections that are under way end by themselves."""
    await core.ingresses.delete(caller, key)
    return Response(status_code=204)


def rule_of(body: wire.RuleRequest) -> Rule:
    """A rule as the engine wants it."""
    guard = Guard(body.guard.header, body.guard.value) if body.guard is not None else None
    return Rule(body.hostname, body.instance, body.target_port, body.port, body.tls, body.redirect, guard)


def ingress_to(ingress: Ingress) -> wire.Ingress:
    """An ingress for its reader, without the values of its guards."""
    rules = [
        wire.Rule(
            hostname=rule.hostname, port=rule.port, instance=rule.instance, target_port=rule.target_port, tls=rule.tls,
            redirect=rule.redirect, guard=rule.guard.header if rule.guard else None,
        )
        for rule in ingress.rules
    ]  # fmt: skip
    return wire.Ingress(
        id=ingress.id, name=ingress.name, project=ingress.project, rules=rules, labels=dict(ingress.labels),
        created=ingress.created,
    )  # fmt: skip
