"""Sessions, who may use them, and terminals, by HTTP and WebSocket alone (instavm.md §1.1, §1.5, §1.14)."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from dialect.instavm.conftest import Caller, Served
from dialect.served import fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIMIT = 20.0


async def test_one_is_begun_with_a_key_in_the_body_and_has_no_vm(root: Caller, http: httpx.AsyncClient) -> None:
    before = len(await root.ok("GET /v1/vms/"))
    session = await root.session(vm_lifetime_seconds=300, memory_mb=256, vcpu_count=1, metadata={"a": 1})
    assert len(await root.ok("GET /v1/vms/")) == before
    status = await root.ok(f"GET /v1/sessions/status/{session}")
    assert list(status) == [
        "session_id", "exists", "vm_assigned", "vm_alive", "vm_status", "vm_id", "uptime_seconds",
        "expires_in_seconds", "created_at",
    ]  # fmt: skip
    assert list(status.values())[:-1] == [session, True, False, False, None, None, None, None]
    info = await root.ok(f"GET /v1/sessions/session/{session}")
    assert (info["memory_mb"], info["vcpu_count"], info["metadata"]) == (256, 1, {"a": 1})
    assert (await root.ok(f"GET /v1/sessions/usage/{session}"))["uptime_seconds"] == 0
    for body, status_code in (({}, 422), ({"api_key": "wrong"}, 401), ({"api_key": 1}, 422), ({"api_key": ""}, 401)):
        answer = await http.post("/v1/sessions/session", json=body)
        assert answer.status_code == status_code, answer.text
        assert "detail" in answer.json()


@pytest.mark.parametrize(
    ("field", "value"),
    [("vm_lifetime_seconds", 19), ("vm_lifetime_seconds", 86401), ("memory_mb", 127), ("vcpu_count", 0), ("env", [1])],
)
async def test_its_bounds(root: Caller, field: str, value: object) -> None:
    await root.wrong(field, "POST /v1/sessions/session", {"api_key": root.key, field: value})


async def test_with_variables_it_has_a_vm_at_once(root: Caller, served: Served) -> None:
    session = await root.session(env={"A": "1"})
    told = await root.until(
        lambda: root.ok(f"GET /v1/sessions/status/{session}"), lambda told: told["vm_status"] == "active"
    )
    assert told["vm_alive"]
    assert 0 < told["expires_in_seconds"] <= 300
    assert told["uptime_seconds"] >= 0
    vm = await root.ok(f"GET /v1/vms/{told['vm_id']}")
    assert (vm["env_status"], vm["session_id"]) == ("applied", session)


async def test_a_vm_for_a_session_that_has_none(root: Caller) -> None:
    session = await root.session(metadata={"a": 1}, memory_mb=256)
    made = await root.vm(session_id=session, env={"B": "2"})
    assert made["session_id"] == session
    vm = await root.ok(f"GET /v1/vms/{made['vm_id']}")
    assert (vm["memory_mb"], vm["metadata"], vm["env_status"]) == (256, {"a": 1}, "applied")
    assert "session" in await root.refused(409, "POST /v1/vms", {"session_id": session})
    await root.refused(404, "POST /v1/vms", {"session_id": str(uuid4())})
    await root.refused(404, "POST /v1/vms", {"session_id": "no uuid"})
    killed = await root.ok("POST /kill", {"session_id": session})
    assert (killed["vm_id"], killed["status"]) == (made["vm_id"], "killed")
    await root.refused(404, "POST /kill", {"session_id": session})
    again = await root.vm(session_id=session)
    assert again["vm_id"] != made["vm_id"]
    status = await root.ok(f"GET /v1/sessions/status/{session}")
    assert (status["vm_status"], status["vm_id"]) == ("active", again["vm_id"])


async def test_kill_says_what_is_wrong(root: Caller) -> None:
    await root.wrong("session_id", "POST /kill", {"session_id": "x"})
    await root.wrong("session_id", "POST /kill", {})
    await root.refused(404, "POST /kill", {"session_id": str(uuid4())})
    await root.refused(404, "POST /kill", {"session_id": await root.session()})


async def test_sandboxes_are_found_by_what_their_metadata_contains(root: Caller) -> None:
    tag = fresh("tag")
    made = [await root.vm(metadata={"tag": tag, "n": n, "deep": {"x": [n, 7]}}) for n in range(3)]

    async def found(metadata: Any, **more: Any) -> list[str]:
        told = await root.ok("GET /v1/sessions/sandboxes", metadata=json.dumps(metadata), **more)
        return [one["sandbox_id"] for one in told]

    ids = [one["session_id"] for one in made]
    assert await found({"tag": tag}) == ids[::-1]
    assert await found({"tag": tag}, limit=2) == ids[:0:-1]
    assert await found({"tag": tag, "n": 1}) == [ids[1]]
    assert await found({"tag": tag, "deep": {"x": [2]}}) == [ids[2]]
    assert await found({"tag": tag, "n": True}) == []
    (told,) = await root.ok("GET /v1/sessions/sandboxes", metadata=json.dumps({"tag": tag, "n": 0}))
    assert told.keys() >= {"sandbox_id", "template_id", "name", "metadata", "started_at", "end_at", "status"}
    assert (told["status"], told["end_at"]) == ("active", None)
    await root.wrong("metadata", "GET /v1/sessions/sandboxes", metadata="{")
    await root.wrong("limit", "GET /v1/sessions/sandboxes", place="query", limit=0)
    await root.wrong("limit", "GET /v1/sessions/sandboxes", place="query", limit=1001)


# -- who asks ----------------------------------------------------------------------------------------------------------


async def test_the_door(root: Caller, http: httpx.AsyncClient) -> None:
    async def status(**headers: str) -> int:
        return (
            await http.get("/v1/vms", headers={key.replace("_", "-"): one for key, one in headers.items()})
        ).status_code

    assert await status() == 401
    assert await status(X_API_Key="wrong") == 401
    assert await status(Authorization="Bearer wrong") == 401
    assert await status(Authorization="Basic x") == 401
    assert await status(X_API_Key=root.key) == 200
    assert await status(Authorization=f"Bearer {root.key}") == 200
    answer = await http.get("/v1/vms")
    assert answer.json() == {"detail": "Not authenticated"}
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    double = await http.get(f"{http.base_url}".rstrip("/") + "//v1/vms", headers={"X-API-Key": root.key})
    assert double.status_code == 200  # of a client whose base address ends in a slash
    assert (await http.post("/v1/vms", json={"vcpu_count": "x"})).status_code == 401  # before the body is looked at


async def test_where_nothing_is(root: Caller) -> None:
    assert await root.refused(404, "GET /v1/nothing") == "Not Found"
    assert await root.refused(405, "PUT /v1/vms") == "Method Not Allowed"


# -- terminals ---------------------------------------------------------------------------------------------------------


def url(served: Served, path: str, key: str | None = None) -> str:
    """Of a terminal's socket."""
    query = "" if key is None else f"?api_key={key}"
    return served.url.replace("http", "ws", 1) + path + query


async def told(socket: ClientConnection, wanted: bytes) -> bytes:
    """What it says, until that was said."""
    said = b""
    async with asyncio.timeout(LIMIT):
        while wanted not in said:
            piece = await socket.recv()
            assert isinstance(piece, bytes)
            said += piece
    return said


@pytest.mark.parametrize("by", ["vm", "session"])
async def test_a_terminal_is_used(root: Caller, served: Served, by: str) -> None:
    vm = await root.vm()
    base = f"/v1/vms/{vm['vm_id']}" if by == "vm" else f"/v1/sessions/{vm['session_id']}"
    made = await root.ok(f"POST {base}/pty/sessions", {"cols": 90, "rows": 30, "shell": "cat", "id": "pty-abc"})
    assert (made["session_id"], made["alive"], made["cols"]) == ("pty-abc", True, 90)
    async with connect(url(served, f"{base}/pty/pty-abc/connect", root.key), proxy=None) as socket:
        await socket.send(b"hello")
        assert await told(socket, b"hello") == b"hello"
        await socket.send(json.dumps({"type": "resize", "cols": 120, "rows": 40}))
        await socket.send("not an order")
        await root.until(lambda: root.ok(f"GET {base}/pty/sessions/pty-abc"), lambda one: one["cols"] == 120)
    assert (await root.ok(f"GET {base}/pty/sessions"))["sessions"][0]["alive"]  # it is there for the next one
    await root.refused(409, f"POST {base}/pty/sessions", {"id": "pty-abc"})
    assert (await root.ok(f"POST {base}/pty/sessions/pty-abc/resize", {"cols": 10, "rows": 5}))["rows"] == 5
    await root.wrong("cols", f"POST {base}/pty/sessions/pty-abc/resize", {"cols": 0, "rows": 5})
    async with connect(url(served, f"{base}/pty/pty-abc/connect", root.key), proxy=None) as socket:
        await socket.send(b"again")
        await told(socket, b"again")
        assert (await root.ok(f"DELETE {base}/pty/sessions/pty-abc"))["session_id"] == "pty-abc"
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(LIMIT):
                while True:
                    await socket.recv()
    await root.refused(404, f"GET {base}/pty/sessions/pty-abc")
    await root.refused(404, f"DELETE {base}/pty/sessions/pty-abc")


async def test_a_terminal_ends_and_says_how(root: Caller, served: Served) -> None:
    vm = (await root.vm())["vm_id"]
    made = await root.ok(f"POST /v1/vms/{vm}/pty/sessions", {"shell": "false"})
    id = made["session_id"]
    assert id.startswith("pty-")
    async with connect(url(served, f"/v1/vms/{vm}/pty/{id}/connect", root.key), proxy=None) as socket:
        async with asyncio.timeout(LIMIT):
            assert json.loads(await socket.recv()) == {"type": "exit", "exit_code": 1}
            with pytest.raises(ConnectionClosed):
                await socket.recv()
    assert socket.close_code == 1000
    told = await root.ok(f"GET /v1/vms/{vm}/pty/sessions/{id}")
    assert (told["alive"], told["exit_code"]) == (False, 1)


async def test_who_may_not_is_told_by_the_close(root: Caller, tenant: Caller, served: Served) -> None:
    vm = (await root.vm())["vm_id"]
    id = (await root.ok(f"POST /v1/vms/{vm}/pty/sessions", {"shell": "cat"}))["session_id"]
    for path, key, code in (
        (f"/v1/vms/{vm}/pty/{id}/connect", "wrong", 4401), (f"/v1/vms/{vm}/pty/{id}/connect", None, 4401),
        (f"/v1/vms/{vm}/pty/{id}/connect", tenant.key, 4500), (f"/v1/vms/{vm}/pty/other/connect", root.key, 4500),
        (f"/v1/vms/vmid-none/pty/{id}/connect", root.key, 4500),
    ):  # fmt: skip
        async with connect(url(served, path, key), proxy=None) as socket:
            with pytest.raises(ConnectionClosed):
                async with asyncio.timeout(LIMIT):
                    await socket.recv()
            assert socket.close_code == code
    await root.wrong("id", f"POST /v1/vms/{vm}/pty/sessions", {"id": "a/b"})
    await root.wrong("cols", f"POST /v1/vms/{vm}/pty/sessions", {"cols": -1})


async def test_a_suspended_vm_is_woken_by_use_only_if_its_owner_wants_that(root: Caller) -> None:
    vm = (await root.vm())["vm_id"]
    await root.ok(f"POST /v1/vms/{vm}/suspend")
    await root.became(vm, "suspended")
    assert "suspended" in await root.refused(409, f"POST /v1/vms/{vm}/pty/sessions", {"shell": "cat"})
    await root.ok(f"PATCH /v1/vms/{vm}", {"auto_resume": True})
    made = await root.ok(f"POST /v1/vms/{vm}/pty/sessions", {"shell": "cat"})
    assert made["vm_id"] != vm
    assert (await root.ok(f"GET /v1/vms/{made['vm_id']}"))["status"] == "active"


async def test_staged_variables_are_in_the_vm_alone(root: Caller, served: Served) -> None:
    vm = (await root.vm())["vm_id"]
    entries = [{"env_name": "TOKEN", "value": "s3cret-value"}, {"env_name": "B", "value": ""}]
    told = await root.ok(f"POST /v1/vms/{vm}/stage-env", {"entries": entries})
    assert (told["status"], told["staged"]) == ("ok", ["TOKEN", "B"])
    made = await root.ok(f"POST /v1/vms/{vm}/pty/sessions", {"shell": "env"})
    async with connect(url(served, f"/v1/vms/{vm}/pty/{made['id']}/connect", root.key), proxy=None) as socket:
        assert b"B=\n" in await told_all(socket)
    for path in served.parts.config.data.rglob("*.db*"):
        assert b"s3cret-value" not in path.read_bytes()
    await root.wrong("entries.0.value", f"POST /v1/vms/{vm}/stage-env", {"entries": [{"env_name": "A"}]})
    await root.wrong("entries", f"POST /v1/vms/{vm}/stage-env", {"entries": [{"env_name": "9", "value": ""}]})


async def told_all(socket: ClientConnection) -> bytes:
    """Everything that it says until its end."""
    said = b""
    async with asyncio.timeout(LIMIT):
        while isinstance(piece := await socket.recv(), bytes):
            said += piece
    assert b"TOKEN=s3cret-value\n" in said
    return said


async def test_a_terminal_of_one_id_is_one_however_many_begin_it(root: Caller, served: Served) -> None:
    vm = (await root.vm())["vm_id"]
    body = {"shell": "cat", "id": "pty-one"}
    answers = await asyncio.gather(*(root.ask(f"POST /v1/vms/{vm}/pty/sessions", body) for _ in range(4)))
    assert sorted(one.status_code for one in answers) == [200, 409, 409, 409]
    await root.ok(f"DELETE /v1/vms/{vm}/pty/sessions/pty-one")


async def test_a_close_has_room_for_what_is_said(root: Caller, served: Served) -> None:
    async with connect(url(served, f"/v1/vms/{'%E2%82%AC' * 80}/pty/x/connect", root.key), proxy=None) as socket:
        with pytest.raises(ConnectionClosed):
            async with asyncio.timeout(LIMIT):
                await socket.recv()
    assert (socket.close_code, (socket.close_reason or "")[:4]) == (4500, "VM €")


async def test_a_staged_variable_that_is_none_is_named(root: Caller) -> None:
    vm = (await root.vm())["vm_id"]
    entries = [{"env_name": "NO NAME", "value": "hunter2"}]
    await root.wrong("entries", f"POST /v1/vms/{vm}/stage-env", {"entries": entries})
