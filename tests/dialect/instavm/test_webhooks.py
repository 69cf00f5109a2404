"""Webhooks, by HTTP and with upstream's own check of a signature (instavm.md §1.15)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from instavm import InstaVM
from instavm.webhooks import WebhookVerificationError

from dialect.instavm.conftest import Caller, Json, Served, fresh
from dialect.instavm.receiver import Receiver, receiving
from dialect.served import serving
from polyvisor.dialects.instavm import hooks

pytestmark = pytest.mark.asyncio(loop_scope="session")
SETTINGS = {"instavm.image": "busybox", "instavm.webhooks_private": "true"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def near(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server whose webhooks may lead to loopback."""
    async with serving(tmp_path_factory.mktemp("near") / "data", SETTINGS) as running:
        yield running


@asynccontextmanager
async def calling(served: Served) -> AsyncIterator[Caller]:
    """A server's operator."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
        yield Caller(client, served.key)


@pytest_asyncio.fixture(loop_scope="session")
async def here(near: Served) -> AsyncIterator[Caller]:
    """The operator of that one."""
    async with calling(near) as caller:
        yield caller


@pytest_asyncio.fixture(loop_scope="session")
async def other(near: Served, here: Caller) -> Caller:
    """Somebody with a project there, below the operator's."""
    return Caller(here.http, await near.stranger())


@pytest_asyncio.fixture(loop_scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    """Who is told."""
    async with receiving() as found:
        yield found


async def hook(caller: Caller, receiver: Receiver, **more: Any) -> Json:
    """An endpoint there."""
    found: Json = await caller.ok("POST /v1/webhooks/endpoints", {"url": receiver.url, **more})
    return found


async def deliveries(caller: Caller, endpoint: str, **query: Any) -> list[Json]:
    """The latest of an endpoint's, newest first."""
    found = await caller.ok("GET /v1/webhooks/deliveries", endpoint_id=endpoint, **query)
    items: list[Json] = found["items"]
    return items


async def settled(caller: Caller, endpoint: str, count: int) -> list[Json]:
    """So many, once none of them waits."""
    found: list[Json] = await caller.until(
        lambda: deliveries(caller, endpoint),
        lambda told: len(told) == count and all(one["status"] != "pending" for one in told),
    )
    return found


async def test_a_vm_is_told_of_from_its_create_to_its_end(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver, event_patterns=["vm.created", "vm.suspended", "vm.resumed", "vm.terminated"])
    vm = await here.vm()
    await here.ok(f"POST /v1/vms/{vm['vm_id']}/suspend")
    await here.became(vm["vm_id"], "suspended")
    again = await here.ok(f"POST /v1/vms/{vm['vm_id']}/resume")
    await here.ok(f"DELETE /v1/vms/{again['vm_id']}")
    wanted = ["vm.created", "vm.suspended", "vm.resumed", "vm.terminated"]

    def told() -> list[Json]:
        found = [one.verified(made["secret"]) for one in receiver.got]
        return [one for one in found if one["event_type"] in wanted and one["data"]["session_id"] == vm["session_id"]]

    async def heard() -> list[Json]:
        return told()

    found = await here.until(heard, lambda events: len(events) == 4)
    assert [one["event_type"] for one in found] == wanted
    assert found[-1]["data"]["vm_id"] == again["vm_id"]
    assert len({one["id"] for one in found}) == 4
    first = receiver.got[0].headers
    assert (first[":line"], first["Host"]) == ("POST /hook?a=b HTTP/1.1", f"127.0.0.1:{receiver.port}")
    await here.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")


async def test_a_snapshot_is_told_of_and_nothing_else(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver, event_patterns=["snapshot.*"])
    vm = await here.vm()
    taken = await here.ok(f"POST /v1/vms/{vm['vm_id']}/snapshot", {})
    await here.ok(f"DELETE /v1/snapshots/{taken['snapshot_id']}")
    one, two = [got.verified(made["secret"]) for got in await receiver.some(2)]
    assert (one["event_type"], two["event_type"]) == ("snapshot.created", "snapshot.deleted")
    assert one["data"]["snapshot_id"] == taken["snapshot_id"]
    assert (one["data"]["vm_id"], one["data"]["session_id"]) == (vm["vm_id"], vm["session_id"])
    assert len(await settled(here, made["id"], 2)) == 2
    await here.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")


async def test_what_fails_is_tried_again_and_in_the_end_not(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver, max_retries=1)
    receiver.answers += [500]
    sent = await here.ok(f"POST /v1/webhooks/endpoints/{made['id']}/test")
    assert (sent["status"], sent["event_type"], sent["attempt_count"]) == ("pending", "webhook.test", 0)
    one, two = await receiver.some(2)
    assert one.body == two.body
    (done,) = await settled(here, made["id"], 1)
    assert (done["id"], done["status"], done["attempt_count"]) == (sent["id"], "delivered", 2)
    assert (done["response_status"], done["payload"]) == (200, two.verified(made["secret"]))
    receiver.answers += [302, 500]  # whither it leads does not matter
    await here.ok(f"POST /v1/webhooks/endpoints/{made['id']}/test")
    failed, _ = await settled(here, made["id"], 2)
    assert (failed["status"], failed["attempt_count"], failed["response_status"]) == ("failed", 2, 500)
    assert failed["error_message"] == "HTTP status 500"
    assert len(receiver.got) == 4
    again = await here.ok(f"POST /v1/webhooks/deliveries/{failed['id']}/replay")
    assert (again["replay_of"], again["event_id"]) == (failed["id"], failed["event_id"])
    assert (await receiver.some(5))[4].body == receiver.got[3].body
    assert [one["status"] for one in await settled(here, made["id"], 3)] == ["delivered", "failed", "delivered"]
    first = await here.ok("GET /v1/webhooks/deliveries", endpoint_id=made["id"], limit=2)
    rest = await deliveries(here, made["id"], cursor=first["next_cursor"])
    assert [one["id"] for one in (*first["items"], *rest)] == [again["id"], failed["id"], sent["id"]]
    assert [one["id"] for one in await deliveries(here, made["id"], status="failed")] == [failed["id"]]
    assert await deliveries(here, made["id"], event_type="vm.created") == []
    await here.refused(404, "POST /v1/webhooks/deliveries/whd_none/replay")
    await here.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")


async def test_a_secret_is_told_once_and_another_one_after_that(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver)
    assert made["secret"].startswith("whsec_")
    shown = await here.ok(f"GET /v1/webhooks/endpoints/{made['id']}")
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert shown in await here.ok("GET /v1/webhooks/endpoints")
    assert made["secret"] not in json.dumps(shown)
    turned = await here.ok(f"POST /v1/webhooks/endpoints/{made['id']}/rotate-secret")
    assert turned["secret_hint"] != made["secret_hint"]
    told = await here.ok(f"POST /v1/webhooks/endpoints/{made['id']}/verify")
    assert (told["status"], told["verified"], told["response_status"]) == ("verified", True, 200)
    (got,) = await receiver.some(1)
    assert got.verified(turned["secret"])["event_type"] == "webhook.verification"
    with pytest.raises(WebhookVerificationError, match="mismatch"):
        got.verified(made["secret"])
    receiver.answers += [404]
    told = await here.ok(f"POST /v1/webhooks/endpoints/{made['id']}/verify")
    assert (told["status"], told["response_status"]) == ("failed", 404)
    assert (await here.ok(f"GET /v1/webhooks/endpoints/{made['id']}"))["verified_at"] is not None
    gone = await here.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")
    assert gone["status"] == "deleted"
    for line in ("GET ", "DELETE ", "POST "):
        path = f"/v1/webhooks/endpoints/{made['id']}" + ("/test" if line == "POST " else "")
        await here.refused(404, line + path)


async def test_one_that_is_disabled_hears_nothing(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver, description="mine", event_patterns=["vm.terminated"])
    path = f"/v1/webhooks/endpoints/{made['id']}"
    off = await here.ok(f"PATCH {path}", {"enabled": False, "timeout_seconds": 3})
    assert (off["status"], off["enabled"], off["timeout_seconds"]) == ("disabled", False, 3)
    assert (off["description"], off["event_patterns"]) == ("mine", ["vm.terminated"])
    await here.refused(409, f"POST {path}/test")
    missed, heard = await here.vm(), await here.vm()
    await here.ok(f"DELETE /v1/vms/{missed['vm_id']}")
    assert (await here.ok(f"PATCH {path}", {"enabled": True}))["status"] == "active"
    await here.ok(f"DELETE /v1/vms/{heard['vm_id']}")
    (got,) = await receiver.some(1)
    assert got.verified(made["secret"])["data"]["vm_id"] == heard["vm_id"]
    assert len(await settled(here, made["id"], 1)) == 1
    await here.ok(f"DELETE {path}")


async def test_a_tenant_hears_of_its_own(here: Caller, other: Caller, receiver: Receiver) -> None:
    above = await hook(here, receiver, event_patterns=["vm.terminated"])
    async with receiving() as second:
        mine = await hook(other, second, event_patterns=["vm.terminated"])
        assert [one["id"] for one in await other.ok("GET /v1/webhooks/endpoints")] == [mine["id"]]
        theirs, ours = await here.vm(), await other.vm()
        for caller, vm in ((here, theirs), (other, ours)):
            await caller.ok(f"DELETE /v1/vms/{vm['vm_id']}")
        heard = [one.verified(above["secret"])["data"]["vm_id"] for one in await receiver.some(2)]
        assert heard == [theirs["vm_id"], ours["vm_id"]]  # also of what is below
        (got,) = await second.some(1)
        assert got.verified(mine["secret"])["data"]["vm_id"] == ours["vm_id"]
        assert len(await settled(other, mine["id"], 1)) == 1
    (sent, *_) = await settled(here, above["id"], 2)
    await other.refused(404, f"POST /v1/webhooks/deliveries/{sent['id']}/replay")
    await other.refused(404, "GET /v1/webhooks/deliveries", endpoint_id=above["id"])
    assert {one["endpoint_id"] for one in (await other.ok("GET /v1/webhooks/deliveries"))["items"]} == {mine["id"]}
    for line in ("GET {}", "PATCH {}", "DELETE {}", "POST {}/rotate-secret", "POST {}/test", "POST {}/verify"):
        path = line.format(f"/v1/webhooks/endpoints/{above['id']}")
        await other.refused(404, path, {} if path.startswith("PATCH") else None)
    for caller, id in ((here, above["id"]), (here, mine["id"])):
        await caller.ok(f"DELETE /v1/webhooks/endpoints/{id}")


async def test_by_upstreams_client(near: Served, here: Caller, receiver: Receiver) -> None:
    client = await asyncio.to_thread(InstaVM, near.key, base_url=near.url)
    hooks = client.webhooks
    made = await asyncio.to_thread(hooks.create_endpoint, receiver.url, "mine", ["vm.*"], 5, 2)
    id = made["id"]
    assert (made["timeout_seconds"], made["max_retries"], made["status"]) == (5, 2, "active")
    assert [one["id"] for one in await asyncio.to_thread(hooks.list_endpoints) if one["id"] == id] == [id]
    assert (await asyncio.to_thread(hooks.update_endpoint, id, description="ours"))["description"] == "ours"
    assert (await asyncio.to_thread(hooks.verify_endpoint, id))["status"] == "verified"
    sent = await asyncio.to_thread(hooks.send_test_event, id)
    (told,) = await settled(here, id, 1)
    assert (await asyncio.to_thread(hooks.list_deliveries, id, "delivered"))["items"] == [told]
    heard = [one.verified(made["secret"]) for one in await receiver.some(2)]
    assert [one["event_type"] for one in heard] == ["webhook.verification", "webhook.test"]
    assert (await asyncio.to_thread(hooks.replay_delivery, sent["id"]))["replay_of"] == told["id"]
    secret = (await asyncio.to_thread(hooks.rotate_secret, id))["secret"]
    assert secret not in (made["secret"], "")
    assert (await asyncio.to_thread(hooks.delete_endpoint, id))["status"] == "deleted"
    left = (await here.ok("GET /v1/webhooks/deliveries"))["items"]
    assert id not in {one["endpoint_id"] for one in left}


async def test_who_only_looks_changes_nothing(near: Served, here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver)
    body = {"name": fresh("viewer"), "scopes": ["event.view", "instance.view"]}
    answer = await near.http.post("/api/v1/keys", json=body)
    assert answer.status_code == 201, answer.text
    viewer = Caller(here.http, answer.json()["key"])
    assert made["id"] in {one["id"] for one in await viewer.ok("GET /v1/webhooks/endpoints")}
    path = f"/v1/webhooks/endpoints/{made['id']}"
    await viewer.refused(403, "POST /v1/webhooks/endpoints", {"url": receiver.url})
    await viewer.refused(403, f"PATCH {path}", {"url": receiver.url})
    for line in (f"DELETE {path}", f"POST {path}/rotate-secret", f"POST {path}/test", f"POST {path}/verify"):
        await viewer.refused(403, line)
    assert receiver.got == []
    await here.ok(f"DELETE {path}")


async def test_there_are_so_many_in_a_project(near: Served, here: Caller, receiver: Receiver) -> None:
    crowd = Caller(here.http, await near.stranger())
    for _ in range(hooks.MOST):
        await hook(crowd, receiver)
    await crowd.refused(429, "POST /v1/webhooks/endpoints", {"url": receiver.url})


async def test_what_is_wrong_is_named(here: Caller, receiver: Receiver) -> None:
    made = await hook(here, receiver)
    path = f"PATCH /v1/webhooks/endpoints/{made['id']}"
    for url in (
        "",
        "ftp://127.0.0.1/",
        "http://",
        "nonsense",
        "http://u:p@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://a\nb/",
    ):
        for line in ("POST /v1/webhooks/endpoints", path):
            await here.wrong("url", line, {"url": url})
    await here.wrong("url", "POST /v1/webhooks/endpoints", {})
    wrong: list[tuple[str, Any]] = [
        ("event_patterns", []), ("event_patterns", "vm.*"), ("timeout_seconds", 0), ("timeout_seconds", 31),
        ("max_retries", -1), ("max_retries", 11), ("description", "x" * 501),
    ]  # fmt: skip
    for field, value in wrong:
        await here.wrong(field, "POST /v1/webhooks/endpoints", {"url": receiver.url, field: value})
        await here.wrong(field, path, {field: value})
    for pattern in ("execution.completed", "vm", "VM.*", "*.*", "vm.cre*", ""):
        body = {"url": receiver.url, "event_patterns": ["vm.*", pattern]}
        await here.wrong("event_patterns.1", "POST /v1/webhooks/endpoints", body)
    await here.wrong("enabled", path, {"enabled": "perhaps"})
    for field, value in (("limit", 0), ("limit", 201), ("status", "odd"), ("cursor", "x")):
        await here.wrong(field, f"GET /v1/webhooks/deliveries?{field}={value}", place="query")
    assert await here.ok(f"GET /v1/webhooks/endpoints/{made['id']}") == {k: v for k, v in made.items() if k != "secret"}
    await here.refused(404, "GET /v1/webhooks/endpoints/whe_none")
    await here.refused(404, "GET /v1/webhooks/endpoints/%00")
    await here.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")


PRIVATE = ("127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "2130706433", "0x7f.1", "0.0.0.0",
           "[::ffff:127.0.0.1]", "192.168.1.1", "[fe80::1]", "100.64.0.1", "224.0.0.1", "none.invalid")  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
async def test_what_is_not_public_is_refused(root: Caller, host: str) -> None:
    for scheme in ("http", "https"):
        await root.wrong("url", "POST /v1/webhooks/endpoints", {"url": f"{scheme}://{host}/x"})
    made = await root.ok("POST /v1/webhooks/endpoints", {"url": "https://1.1.1.1/x", "event_patterns": ["vm.error"]})
    await root.wrong("url", f"PATCH /v1/webhooks/endpoints/{made['id']}", {"url": f"http://{host}/x"})
    await root.ok(f"DELETE /v1/webhooks/endpoints/{made['id']}")


async def test_nothing_is_lost_over_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    async with serving(tmp_path / "data", SETTINGS) as first, calling(first) as caller:
        made = await hook(caller, receiver, event_patterns=["vm.terminated"])
        vm = await caller.vm()
        await caller.ok(f"DELETE /v1/vms/{vm['vm_id']}")  # a moment later this is told, and the server has gone
    before = len(receiver.got)
    async with serving(tmp_path / "data", SETTINGS) as second, calling(second) as caller:
        assert (await settled(caller, made["id"], 1))[0]["status"] == "delivered"
    assert before == 0
    assert receiver.got[0].verified(made["secret"])["data"]["session_id"] == vm["session_id"]
