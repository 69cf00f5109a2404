"""Ingresses over HTTP, and by our own client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.client import Client
from polyvisor.wire.native import CreateIngress

pytestmark = pytest.mark.asyncio(loop_scope="session")
SECRET = "0123456789abcdef0123456789abcdef"


def body(vm: str, **rule: Any) -> dict[str, Any]:
    """A create with one rule."""
    name = fresh("in")
    whole = {"hostname": f"{name}.example.com", "instance": vm, "target_port": 8000, **rule}
    return {"name": name, "rules": [whole]}


async def test_an_ingress_comes_is_told_of_and_goes(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    wanted = body(vm["id"], tls=True, port=443, redirect=True, guard={"header": "X-Door", "value": SECRET})
    made = await http.post("/api/v1/ingresses", json=wanted | {"labels": {"a": "b"}})
    assert made.status_code == 201, made.text
    one = made.json()
    assert one["labels"] == {"a": "b"}
    assert one["rules"] == [
        {
            "hostname": wanted["rules"][0]["hostname"], "port": 443, "instance": vm["name"], "target_port": 8000,
            "tls": True, "redirect": True, "guard": "X-Door",
        }
    ]  # fmt: skip
    assert SECRET not in made.text
    for key in (one["id"], one["name"]):
        assert (await http.get(f"/api/v1/ingresses/{key}")).json() == one
    assert one in (await http.get("/api/v1/ingresses")).json()["items"]
    assert (await http.delete(f"/api/v1/ingresses/{one['name']}")).status_code == 204
    assert (await http.get(f"/api/v1/ingresses/{one['id']}")).status_code == 404
    assert (await http.delete(f"/api/v1/ingresses/{one['id']}")).status_code == 404


async def test_refusals_name_the_rule_and_its_field(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    for rule, status, field in (
        ({"hostname": "*.example.com"}, 422, "rules[0].hostname"),
        ({"redirect": True}, 422, "rules[0].redirect"),
        ({"guard": {"header": "Host", "value": SECRET}}, 422, "rules[0].guard.header"),
        ({"guard": {"header": "X-Door", "value": "short"}}, 422, "rules[0].guard.value"),
        ({"instance": "nothing"}, 404, "rules[0].instance"),
        ({"port": 0}, 422, "rules.0.port"),
        ({"colour": "blue"}, 422, "rules.0.colour"),
    ):
        answer = await http.post("/api/v1/ingresses", json=body(vm["name"], **rule))
        assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


async def test_strangers_are_strangers(served: Served) -> None:
    vm = await served.make()
    async with served.client() as owner, served.client(await served.stranger()) as stranger:
        made = await owner.ingresses.create(CreateIngress.model_validate(body(vm["name"])))
        assert [one.id async for one in stranger.ingresses.list()] == []
        for verb in (stranger.ingresses.get, stranger.ingresses.delete):
            with pytest.raises(Exception, match="no ingress"):
                await verb(made.id)
        with pytest.raises(Exception, match="no instance"):
            await stranger.ingresses.create(CreateIngress.model_validate(body(vm["id"])))
        assert await _ids(owner) == [made.id]
        await owner.ingresses.delete(made.id)


async def _ids(client: Client) -> list[str]:
    return [one.id async for one in client.ingresses.list(limit=1)]
