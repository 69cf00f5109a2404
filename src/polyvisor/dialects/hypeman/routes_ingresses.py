"""Ingresses over HTTP. Upstream's code for each refusal is found by what it is about (hypeman.md §1.4)."""

from __future__ import annotations

import re

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal, of_fault
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.model.faults import Busy, Exists, Fault, Forbidden, Invalid, NotFound
from polyvisor.model.ingress import HTTP_PORT, Guard, Ingress, Rule
from polyvisor.model.principal import Action, Principal

routes = Routes()
_PLACE = re.compile(r"rules\[(\d+)\]\.(\w+(?:\.\w+)?)")
_FIELDS = {
    "hostname": "match.hostname",
    "port": "match.port",
    "instance": "target.instance",
    "target_port": "target.port",
    "tls": "tls",
    "redirect": "redirect_http",
    "guard.header": "request_header_auth.header",
    "guard.value": "request_header_auth.value",
}
_CODES: dict[tuple[type[Fault], str], tuple[int, str]] = {
    (Exists, "name"): (409, "already_exists"),
    (Exists, "hostname"): (409, "hostname_in_use"),
    (Busy, "port"): (409, "port_in_use"),
    (NotFound, "instance"): (400, "instance_not_found"),
    (Forbidden, "tls"): (400, "domain_not_allowed"),
    (Invalid, "rules"): (400, "config_validation_failed"),
}


@routes.add("GET /ingresses", "ingress:read", 200, list[wire.Ingress], query=asks.ListTagged)
async def list_ingresses(call: Call) -> Response:
    """Every ingress, or those with all of some tags."""
    query: asks.ListTagged = call.query
    wanted = (query.tags or {}).items()
    found = await resolve.all_ingresses(call)
    return said([ingress_to(one, call.principal) for one in found if wanted <= dict(one.labels).items()])


@routes.add("POST /ingresses", "ingress:write", 201, wire.Ingress, body=asks.CreateIngressRequest)
async def create_ingress(call: Call) -> Response:
    """Rules that are served when this is answered."""
    body: asks.CreateIngressRequest = call.body
    policies.check_tags(body.tags)
    rules = [await _found(call, number, rule_of(rule)) for number, rule in enumerate(body.rules)]
    try:
        made = await call.core.ingresses.create(call.principal, body.name, rules, sorted((body.tags or {}).items()))
    except Fault as fault:
        raise refusal_of(fault) from fault
    return said(ingress_to(made, call.principal), 201)


async def _found(call: Call, number: int, rule: Rule) -> Rule:
    """With the id of the instance that it names, which may be the beginning of one."""
    if rule.pattern or not rule.instance:
        return rule
    try:
        found = await resolve.find_instance(call, rule.instance)
    except Refusal as refusal:
        text = f'rules[{number}].target.instance: instance "{rule.instance}" not found'
        if refusal.status != 404:
            text = f"rules[{number}].target.instance: {refusal.message}"
        raise Refusal(400, "instance_not_found", text) from refusal
    return Rule(rule.hostname, found.id, rule.target_port, rule.port, rule.tls, rule.redirect, rule.guard)


@routes.add("GET /ingresses/{id}", "ingress:read", 200, wire.Ingress, finder=resolve.ingress)
async def get_ingress(call: Call) -> Response:
    """One ingress."""
    return said(ingress_to(call.thing, call.principal))


@routes.add("DELETE /ingresses/{id}", "ingress:delete", 204, None, finder=resolve.ingress)
async def delete_ingress(call: Call) -> Response:
    """Its rules lead nobody any more."""
    await call.core.ingresses.delete(call.principal, call.thing.id)
    return Response(status_code=204)


def rule_of(rule: asks.IngressRule) -> Rule:
    """A rule as the engine wants it."""
    auth = rule.request_header_auth
    return Rule(
        rule.match.hostname, rule.target.instance, rule.target.port, rule.match.port or HTTP_PORT, rule.tls,
        rule.redirect_http, Guard(auth.header, auth.value) if auth is not None else None,
    )  # fmt: skip


def ingress_to(ingress: Ingress, reader: Principal) -> wire.Ingress:
    """An ingress for its reader. What a guard asks for is told to whoever could have set it."""
    told = reader.may(Action.INGRESS_CREATE, ingress.project)
    return wire.Ingress(
        id=ingress.id, name=ingress.name, tags=dict(ingress.labels) or None,
        rules=[_rule_to(rule, told) for rule in ingress.rules], created_at=ingress.created,
    )  # fmt: skip


def _rule_to(rule: Rule, told: bool) -> wire.IngressRule:
    guard = rule.guard
    return wire.IngressRule(
        match=wire.IngressMatch(hostname=rule.hostname, port=rule.port),
        target=wire.IngressTarget(instance=rule.instance, port=rule.target_port),
        tls=rule.tls, redirect_http=rule.redirect,
        request_header_auth=(
            wire.IngressRequestHeaderAuth(header=guard.header, value=guard.value if told else "") if guard else None
        ),
    )  # fmt: skip


def refusal_of(fault: Fault) -> Refusal:
    """What this dialect says of a create that was refused, with its own words for the fields."""
    place = _PLACE.fullmatch(fault.field or "")
    about = place[2] if place else fault.field or ""
    text = fault.public
    if place and about in _FIELDS:
        text = text.replace(f"rules[{place[1]}].{about}", f"rules[{place[1]}].{_FIELDS[about]}", 1)
    code = _CODES.get((type(fault), about))
    if code is None and isinstance(fault, Invalid):
        code = 400, "bad_request"
    if code is None:
        return of_fault(fault)
    return Refusal(*code, text)
