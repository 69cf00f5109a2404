"""Ingresses in upstream's words: bytes, codes, and who may."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, BadRequestError, ConflictError, NotFoundError

from dialect.hypeman.making import make
from dialect.served import Served, fresh
from polyvisor.host.hypervisor.fake.proxy import FakeProxy
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import InstanceId
from polyvisor.model.ingress import Route
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")
SECRET = "0123456789abcdef0123456789abcdef"
_ports = itertools.count(20_000)


def rule(host: str, instance: str, *, port: int | None = None, **more: Any) -> dict[str, Any]:
    """One rule, of a port of its own where none is named."""
    match = {"hostname": host, "port": next(_ports) if port is None else port}
    return {"match": match, "target": {"instance": instance, "port": 8000}, **more}


def asked(*rules: dict[str, Any], name: str = "") -> dict[str, Any]:
    """The body of a create."""
    return {"name": name or fresh("in"), "rules": list(rules)}


def proxy(served: Served) -> FakeProxy:
    """The proxy of the server."""
    found = served.parts.host.proxy
    assert isinstance(found, FakeProxy)
    return found


async def test_a_life_by_the_sdk(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    vm = await make(sdk)
    name = fresh("in")
    auth: Any = {"header": "X-Ingress-Verification", "value": SECRET}
    made = await sdk.ingresses.create(
        name=name,
        rules=[
            {"match": {"hostname": f"{name}.example.com"}, "target": {"instance": vm.id[:10], "port": 8000}},
            {
                "match": {"hostname": "{instance}." + name + ".dev", "port": 8443},
                "target": {"instance": "{instance}", "port": 80},
                "tls": True, "redirect_http": True, "request_header_auth": auth,
            },
        ],
        tags={"a": "b"},
    )  # fmt: skip
    plain = await http.get(f"/ingresses/{made.id}")
    created = plain.json()["created_at"]
    assert plain.text == (
        f'{{"created_at":"{created}","id":"{made.id}","name":"{name}","rules":['
        f'{{"match":{{"hostname":"{name}.example.com","port":80}},"redirect_http":false,'
        f'"target":{{"instance":"{vm.name}","port":8000}},"tls":false}},'
        f'{{"match":{{"hostname":"{{instance}}.{name}.dev","port":8443}},"redirect_http":true,"request_header_auth":'
        f'{{"header":"X-Ingress-Verification","value":"{SECRET}"}},'
        '"target":{"instance":"{instance}","port":80},"tls":true}],"tags":{"a":"b"}}\n'
    )
    for key in (made.id, name, made.id[:12]):
        assert (await sdk.ingresses.get(key)) == made
    assert made in await sdk.ingresses.list()
    assert await sdk.ingresses.list(tags={"a": "b", "c": "d"}) == []
    assert made.id in {route.ingress for route in proxy(served).routes}
    await sdk.ingresses.delete(name)
    assert made.id not in {route.ingress for route in proxy(served).routes}
    with pytest.raises(NotFoundError):
        await sdk.ingresses.get(made.id)
    gone = await http.delete(f"/ingresses/{made.id}")
    assert (gone.status_code, gone.content) == (404, b'{"code":"not_found","message":"resource not found"}')


async def test_the_beginning_of_many_ids_is_ambiguous(sdk: AsyncHypeman) -> None:
    made: list[Any] = []
    while len({one.id[0] for one in made}) == len(made):
        made.append(await sdk.ingresses.create(**asked(rule("{vm}.example.com", "{vm}"))))
    with pytest.raises(ConflictError, match="ambiguous"):
        await sdk.ingresses.get(made[-1].id[0])
    for one in made:
        await sdk.ingresses.delete(one.id)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"match": {"hostname": "", "port": 1}}, "rules[0].match.hostname: must have 1 to 253 characters"),
        ({"match": {"hostname": "*.example.com"}}, "rules[0].match.hostname: a wildcard is not a host name"),
        ({"match": {"hostname": "a b"}}, "rules[0].match.hostname: must be labels"),
        ({"match": {"hostname": "x-{vm}.example.com"}}, "rules[0].match.hostname: a capture is a whole label"),
        ({"match": {"hostname": "{a}.{a}.example.com"}}, "rules[0].match.hostname: {a} is there twice"),
        ({"match": {"hostname": "{a}.example.com"}}, "rules[0].target.instance: must be a capture"),
        (
            {"match": {"hostname": "{a}.example.com"}, "target": {"instance": "{b}", "port": 1}},
            "rules[0].target.instance: {b} is no capture of the host name",
        ),
        ({"match": {"hostname": "a.example.com", "port": 65536}}, "rules[0].match.port: must be 1 to 65535"),
        ({"target": {"instance": "VM", "port": 0}}, "rules[0].target.port: must be 1 to 65535"),
        ({"target": {"instance": "", "port": 1}}, "rules[0].target.instance: must name an instance"),
        ({"redirect_http": True}, "rules[0].redirect_http: needs tls"),
        ({"redirect_http": True, "tls": True, "match": {"hostname": "a.b"}}, "rules[0].redirect_http: leads from port"),
        (
            {"tls": True, "match": {"hostname": "{a}.{b}.example.com"}, "target": {"instance": "{a}", "port": 1}},
            "rules[0].tls: there are certificates only for patterns",
        ),
        (
            {"request_header_auth": {"header": "Bad Header", "value": SECRET}},
            "rules[0].request_header_auth.header: is no name of a header",
        ),
        *(
            (
                {"request_header_auth": {"header": name, "value": SECRET}},
                "rules[0].request_header_auth.header: is reserved",
            )
            for name in ("Host", "authorization", "Cookie", "Content-Length", "Connection", "Proxy-Connection", "TE",
                         "Transfer-Encoding", "Upgrade", "Sec-WebSocket-Key", "X-Forwarded-For")
        ),
        *(
            (
                {"request_header_auth": {"header": "X-Door", "value": SECRET + bad}},
                "rules[0].request_header_auth.value: must be 32 to 256 visible ASCII characters",
            )
            for bad in ("*", "{", "}", " ", "\n", "ü")
        ),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_and_no_secret_repeated(
    sdk: AsyncHypeman, http: httpx.AsyncClient, wrong: dict[str, Any], text: str
) -> None:
    vm = await make(sdk)
    wrong = {**wrong, "target": wrong.get("target", {"instance": "VM", "port": 8000})}
    if wrong["target"]["instance"] == "VM":
        wrong["target"] = wrong["target"] | {"instance": vm.name}
    answer = await http.post("/ingresses", json=asked(rule("a.example.com", vm.name) | wrong))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text
    assert answer.json()["message"].startswith(text)
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"rules": []}, 'property \\"name\\" is missing'),
        ({"name": "-x", "rules": [{}]}, 'Error at \\"/name\\": string doesn'),
        ({"name": "x", "rules": []}, 'Error at \\"/rules\\": there must be at least 1 items'),
        ({"name": "x", "rules": [{"match": {}, "target": {}}]}, 'Error at \\"/rules/0/match/hostname\\"'),
        (
            {"name": "x", "rules": [rule("a", "b", port=1, request_header_auth={"header": "x", "value": "short"})]},
            'Error at \\"/rules/0/request_header_auth/value\\": minimum string length is 32',
        ),
    ],
)
async def test_the_document_comes_first(http: httpx.AsyncClient, body: dict[str, Any], place: str) -> None:
    answer = await http.post("/ingresses", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "Bad Request")
    assert place in answer.text


async def test_each_conflict_has_its_code(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    vm, name = await make(sdk), fresh("in")
    port, other = next(_ports), next(_ports)
    made = await sdk.ingresses.create(**asked(rule(f"a.{name}", vm.name, port=port), name=name))
    cases = [
        (asked(rule("b.example.com", vm.name), name=name), "already_exists"),
        (asked(rule(f"A.{name}", vm.name, port=port)), "hostname_in_use"),
        (asked(rule("x.y", vm.name, port=other), rule("X.y", vm.name, port=other)), "hostname_in_use"),
        (asked(rule(f"c.{name}", vm.name, port=port, tls=True)), "port_in_use"),
    ]
    for body, code in cases:
        answer = await http.post("/ingresses", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, code), answer.text
    proxy(served).taken.add(other)
    answer = await http.post("/ingresses", json=asked(rule("b.example.com", vm.name, port=other)))
    text = f"rules[0].match.port: port {other} of this host is taken"
    assert (answer.status_code, answer.json()) == (409, {"code": "port_in_use", "message": text})
    # One name at two ports, a pattern beside a name that it covers: of one owner both are fine.
    also = await sdk.ingresses.create(**asked(rule(f"a.{name}", vm.name), rule("{vm}." + name, "{vm}", port=port)))
    for one in (made, also):
        await sdk.ingresses.delete(one.id)
    assert [one.id for one in await sdk.ingresses.list()] == []


async def test_what_the_proxy_refuses_changes_nothing(served: Served, sdk: AsyncHypeman) -> None:
    before = proxy(served).routes
    proxy(served).fail.append(Invalid("rules: the proxy refuses them", field="rules"))
    with pytest.raises(BadRequestError, match="config_validation_failed"):
        await sdk.ingresses.create(**asked(rule("{vm}.example.com", "{vm}")))
    assert proxy(served).routes == before
    assert await sdk.ingresses.list() == []


async def test_an_instance_has_to_be_there_and_to_be_ones_own(served: Served, sdk: AsyncHypeman) -> None:
    vm = await make(sdk)
    async with AsyncHypeman(api_key=await served.stranger(), base_url=served.url, max_retries=0) as stranger:
        for key in ("nothing", vm.name, vm.id, vm.id[:8]):
            with pytest.raises(BadRequestError, match="instance_not_found"):
                await stranger.ingresses.create(**asked(rule("a.example.com", key)))
        mine = await sdk.ingresses.create(**asked(rule("{vm}.mine.example", "{vm}", port=19_999)))
        assert await stranger.ingresses.list() == []
        for key in (mine.id, mine.name, mine.id[:10]):
            with pytest.raises(NotFoundError):
                await stranger.ingresses.get(key)
            with pytest.raises(NotFoundError):
                await stranger.ingresses.delete(key)
        # Nobody takes a name out of another's pattern.
        theirs = await stranger.instances.create(name=fresh("vm"), image="busybox", cmd=["sleep", "1"], size="256MB")
        for host in ("a.mine.example", "{x}.{y}.example"):
            body = rule(host, theirs.name if "{" not in host else "{x}", port=19_999)
            with pytest.raises(ConflictError, match="hostname_in_use"):
                await stranger.ingresses.create(**asked(body))
        await stranger.instances.delete(theirs.id)
    await sdk.ingresses.delete(mine.id)


async def test_an_ingress_outlives_its_instance(served: Served, sdk: AsyncHypeman) -> None:
    vm = await make(sdk)
    made = await sdk.ingresses.create(**asked(rule("a.example.com", vm.name)))
    await sdk.instances.delete(vm.id)
    assert (await sdk.ingresses.get(made.id)).rules[0].target.instance == vm.name
    await sdk.ingresses.delete(made.id)


async def known(served: Served) -> list[str]:
    """The instances that are on record."""
    async with served.parts.store.read() as unit:
        return [one.id for one in await unit.instances.all()]


async def test_what_cannot_be_put_on_record_is_not_served(
    served: Served, sdk: AsyncHypeman, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await make(sdk)
    serve, before = proxy(served).serve, proxy(served).routes

    async def and_then_it_is_gone(routes: Sequence[Route]) -> None:
        await serve(routes)
        if len(routes) > len(before):
            await served.parts.engine.power.delete(SYSTEM, InstanceId(vm.id), force=True)
            async with asyncio.timeout(20):
                while vm.id in await known(served):
                    await asyncio.sleep(0.02)

    monkeypatch.setattr(proxy(served), "serve", and_then_it_is_gone)
    with pytest.raises(BadRequestError, match="instance_not_found"):
        await sdk.ingresses.create(**asked(rule("gone.example.com", vm.name)))
    assert proxy(served).routes == before
    assert await sdk.ingresses.list() == []
