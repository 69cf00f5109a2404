"""Keys, the audit log, and what is not here (instavm.md §1.15)."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
from instavm import InstaVM, InstaVMError
from requests import HTTPError

from dialect.instavm.conftest import Caller, Served
from dialect.served import fresh
from polyvisor.dialects.instavm.routes_platform import ABSENT

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_keys(root: Caller) -> None:
    name = fresh("ci")
    made = await root.ok("POST /v1/api-keys/", {"description": name})
    other = Caller(root.http, made["key"])
    assert (await other.ok("GET /v1/users/me")).keys() >= {"id", "email", "name", "is_verified"}
    assert isinstance(made["id"], int)
    told = await root.ok(f"GET /v1/api-keys/{made['id']}")
    assert (told["description"], "key" in told) == (name, False)
    assert told["id"] in {one["id"] for one in await root.ok("GET /v1/api-keys/")}
    changed = await root.ok(f"PATCH /v1/api-keys/{made['id']}", {"description": f"{name}-b"})
    assert changed["description"] == f"{name}-b"
    await root.wrong("description", "POST /v1/api-keys/", {"description": "/"})
    await root.wrong("number", "GET /v1/api-keys/x", place="path")
    assert (await root.ok(f"DELETE /v1/api-keys/{made['id']}"))["status"] == "deleted"
    await root.refused(404, f"DELETE /v1/api-keys/{made['id']}")
    await other.refused(401, "GET /v1/users/me")


async def test_ssh_keys(root: Caller, tenant: Caller, tmp_path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@here", "-f", str(tmp_path / "key")]
    await asyncio.to_thread(subprocess.run, argv, check=True)
    public = (tmp_path / "key.pub").read_text()
    argv = ["ssh-keygen", "-lf", str(tmp_path / "key.pub")]
    told = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True)
    made = await root.ok("POST /v1/ssh-keys", {"public_key": public})
    assert (made["fingerprint"], made["comment"]) == (told.stdout.split()[1], "me@here")
    assert isinstance(made["id"], int)
    assert made in (await root.ok("GET /v1/ssh-keys"))["keys"]
    assert (await tenant.ok("GET /v1/ssh-keys"))["keys"] == []
    await tenant.refused(404, f"DELETE /v1/ssh-keys/{made['id']}")
    await root.wrong("public_key", "POST /v1/ssh-keys", {"public_key": "ssh-ed25519 nonsense"})
    await root.wrong("public_key", "POST /v1/ssh-keys", {})
    assert (await root.ok(f"DELETE /v1/ssh-keys/{made['id']}"))["status"] == "deleted"
    await root.refused(404, f"DELETE /v1/ssh-keys/{made['id']}")


async def test_the_log(root: Caller, tenant: Caller) -> None:
    made = await root.vm()
    vm = made["vm_id"]
    await root.ok(f"DELETE /v1/vms/{vm}")
    events = (await root.ok("GET /v1/audit/events", vm_id=vm))["items"]
    assert [one["event_type"] for one in events] == ["vm.terminated", "vm.created"]
    assert {one["status"] for one in events} == {"success"}
    assert (await root.ok("GET /v1/audit/events", session_id=made["session_id"]))["items"] == events
    assert await root.ok(f"GET /v1/audit/events/{events[0]['id']}") == events[0]
    one = await root.ok("GET /v1/audit/events", event_type="vm.created", limit=1)
    assert len(one["items"]) == 1
    for _ in range(2):
        await root.vm()
    first = await root.ok("GET /v1/audit/events", event_group="vm", status="success", limit=1)
    second = await root.ok("GET /v1/audit/events", event_group="vm", cursor=first["next_cursor"], limit=1)
    assert int(second["items"][0]["id"]) < int(first["items"][0]["id"])
    catalog = (await root.ok("GET /v1/audit/catalog"))["catalog"]
    assert {"vm.created", "vm.terminated"} <= set(catalog["vm"])
    await root.wrong("limit", "GET /v1/audit/events", place="query", limit=201)
    await root.refused(404, "GET /v1/audit/events/999999999")
    assert (await tenant.ok("GET /v1/audit/events", vm_id=vm))["items"] == []


async def test_the_log_page_by_page_by_upstreams_client(tenant: Caller, served: Served) -> None:
    client = await asyncio.to_thread(InstaVM, tenant.key, base_url=served.url, auto_start_session=False)

    def events(**more: Any) -> dict[str, Any]:
        found: dict[str, Any] = client.audit.events(event_group="vm", **more)
        return found

    for _ in range(5):
        await tenant.ok(f"DELETE /v1/vms/{(await tenant.vm())['vm_id']}")
    whole = await asyncio.to_thread(events, limit=200)
    types = [one["event_type"] for one in whole["items"]]
    assert (types, whole["next_cursor"]) == (["vm.terminated", "vm.created"] * 5, None)
    walked: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = await asyncio.to_thread(events, limit=3, cursor=cursor)
        walked += page["items"]
        if (cursor := page["next_cursor"]) is None:
            break
        assert (len(page["items"]), isinstance(cursor, str)) == (3, True)
    assert walked == whole["items"]
    assert await asyncio.to_thread(client.audit.get_event, walked[0]["id"]) == walked[0]
    made = await asyncio.to_thread(events, event_type="vm.created", status="success")
    assert made["items"] == walked[1::2]
    assert (await asyncio.to_thread(events, status="denied"))["items"] == []
    assert {"vm.created", "vm.terminated"} <= set((await asyncio.to_thread(client.audit.catalog))["catalog"]["vm"])
    with pytest.raises((InstaVMError, HTTPError), match="422"):
        await asyncio.to_thread(events, user_id=1)


@pytest.mark.parametrize("path", sorted(ABSENT))
async def test_what_is_not_here_says_so(root: Caller, path: str) -> None:
    for line in (f"GET {path}/x", f"POST {path}/a/b", f"DELETE {path}/a"):
        assert (
            await root.refused(501, line, {} if line.startswith("P") else None) == f"This server has no {ABSENT[path]}"
        )
