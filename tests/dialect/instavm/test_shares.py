"""Shares, by HTTP alone; that something answers there is shown with real machines (instavm.md §1.10)."""

from __future__ import annotations

from typing import Any

import pytest

from dialect.instavm.conftest import Caller, Served
from polyvisor.dialects.instavm import shares
from polyvisor.dialects.instavm.door import Call
from polyvisor.model.faults import Busy
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def rules(served: Served) -> list[dict[str, Any]]:
    """What is led where, of every ingress."""
    found = (await served.http.get("/api/v1/ingresses", params={"limit": 1000})).json()["items"]
    return [rule for one in found for rule in one["rules"]]


async def test_a_share_is_one_however_often_it_is_asked_for(root: Caller, served: Served) -> None:
    vm = await root.vm()
    other = await root.session()
    body = {"port": 8000, "is_public": True, "vm_id": vm["vm_id"], "session_id": other}  # a VM beats a session
    made = await root.ok("POST /v1/shares", body)
    assert made | {"port": 8000, "is_public": True, "vm_id": vm["vm_id"]} == made
    assert "token" not in made
    assert await root.ok("POST /v1/shares", {"port": 8000, "session_id": vm["session_id"]}) == made
    assert await root.ok(f"GET /v1/shares/{made['share_id']}") == made
    assert await root.ok("GET /v1/shares", vm_id=vm["vm_id"]) == [made]
    second = await root.ok("POST /v1/shares", {"port": 8001, "vm_id": vm["vm_id"]})
    assert second["url"] != made["url"]
    assert len(second["token"]) >= 32
    (rule,) = [
        one for one in await rules(served) if one["target_port"] == 8000 and made["url"].endswith(f":{one['port']}/")
    ]
    assert rule["hostname"] == "127.0.0.1"
    private = await root.ok(f"PATCH /v1/shares/{made['share_id']}", {"is_public": False})
    assert (private["url"], private["is_public"]) == (made["url"], False)
    assert private["token_header"] == "X-Share-Token"
    assert await root.ok(f"PATCH /v1/shares/{made['share_id']}", {"is_public": True}) == made
    assert (await root.ok(f"PATCH /v1/shares/{made['share_id']}", {"revoke": True}))["status"] == "revoked"
    await root.refused(404, f"GET /v1/shares/{made['share_id']}")
    await root.refused(404, f"PATCH /v1/shares/{made['share_id']}", {"revoke": True})
    assert not [one for one in await rules(served) if made["url"].endswith(f":{one['port']}/")]


async def test_what_is_wrong_with_one(root: Caller, tenant: Caller) -> None:
    vm = (await root.vm())["vm_id"]
    await root.wrong("port", "POST /v1/shares", {"vm_id": vm})
    await root.wrong("port", "POST /v1/shares", {"vm_id": vm, "port": 0})
    await root.wrong("is_public", "POST /v1/shares", {"vm_id": vm, "port": 1, "is_public": "perhaps"})
    await root.wrong("vm_id", "POST /v1/shares", {"port": 1})
    await root.refused(404, "POST /v1/shares", {"port": 1, "vm_id": "vmid-none"})
    made = await root.ok("POST /v1/shares", {"port": 1, "vm_id": vm})
    await tenant.refused(404, "POST /v1/shares", {"port": 1, "vm_id": vm})
    for line in (f"GET /v1/shares/{made['share_id']}", f"PATCH /v1/shares/{made['share_id']}"):
        await tenant.refused(404, line, {"revoke": True} if line.startswith("P") else None)


async def test_with_a_create(root: Caller, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await root.vm(share={"port": 3000, "is_public": True})
    assert made["share"] == await root.ok(f"GET /v1/shares/{made['share']['share_id']}")
    assert made["share"]["is_public"]
    before = {one["vm_id"] for one in await root.ok("GET /v1/vms/")}

    async def refuse(*_: object, **__: object) -> None:
        raise Busy("rules[0].port: taken", field="rules[0].port")

    monkeypatch.setattr(served.parts.engine.ingresses, "create", refuse)
    assert "port" in await root.refused(429, "POST /v1/vms", {"share": {"port": 3000}})
    assert {one["vm_id"] for one in await root.ok("GET /v1/vms/")} == before  # not even a record


async def test_the_address_of_an_application(root: Caller) -> None:
    vm = await root.vm(vm_lifetime_seconds=500)
    told = await root.ok(f"GET /v1/sessions/app-url/{vm['session_id']}", port=3000)
    assert told.keys() >= {
        "url", "direct_url", "vm_ip", "port", "vm_id", "session_id", "status", "expires_in_seconds",
    }  # fmt: skip
    assert (told["port"], told["vm_id"], told["status"]) == (3000, vm["vm_id"], "active")
    assert 0 < told["expires_in_seconds"] <= 500
    assert (await root.ok(f"GET /v1/sessions/app-url/{vm['session_id']}", port=3000))["url"] == told["url"]
    assert (await root.ok(f"GET /v1/sessions/app-url/{vm['session_id']}"))["port"] == 80
    await root.wrong("port", f"GET /v1/sessions/app-url/{vm['session_id']}", place="query", port=0)
    await root.refused(404, f"GET /v1/sessions/app-url/{await root.session()}")


async def test_it_goes_when_its_vm_does(root: Caller, served: Served) -> None:
    made = await root.vm(share={"port": 3000})
    port = int(made["share"]["url"].rsplit(":", 1)[1].strip("/"))
    assert port in [one["port"] for one in await rules(served)]
    await root.ok(f"DELETE /v1/vms/{made['vm_id']}")
    await shares.sweep(Call(served.parts.engine, SYSTEM, served.parts.config.sandboxes()))
    assert port not in [one["port"] for one in await rules(served)]
    await root.refused(404, f"GET /v1/shares/{made['share']['share_id']}")


async def test_one_that_is_to_be_public_is_also_where_it_was_private(root: Caller) -> None:
    vm = await root.vm()
    private = await root.ok(f"GET /v1/sessions/app-url/{vm['session_id']}", port=8000)
    public = await root.ok("POST /v1/shares", {"port": 8000, "vm_id": vm["vm_id"], "is_public": True})
    assert (public["is_public"], public["url"], "token" in public) == (True, private["url"], False)
    assert await root.ok("POST /v1/shares", {"port": 8000, "vm_id": vm["vm_id"], "is_public": False}) == public
