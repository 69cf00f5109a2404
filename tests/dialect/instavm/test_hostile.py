"""An outsider with the SDK's routes and any bytes: what is refused names what is wrong, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import pytest

from dialect.instavm.conftest import Caller
from polyvisor.dialects.instavm.app import make_app
from polyvisor.dialects.instavm.wire import VMCreateRequest

pytestmark = pytest.mark.asyncio(loop_scope="session")
DEEP = "[" * 2000 + "]" * 2000
WRONG = [
    "null", "true", "false", '""', '" "', '"x"', "-1", "0", "1.5", "1e400", "NaN", "-Infinity", "1" + "0" * 30,
    "1" * 5000, "[]", "{}", "[1]", "[null]",
    '["x"]', "[{}]", '{"a": 1}', '{"": ""}', '{"a": null}', r'"\u0000"', r'"\ud800"',
    r'{"\ud800": "x"}', r'{"a": "\ud800"}', '"../../etc/passwd"', '"é😀\u202e"', '"%s%n{0}"', json.dumps("x" * 100_000),
    DEEP, '{"a=b": "c"}', '{"port": 0}', '{"port": 70000}', '{"port": 80, "is_public": "maybe"}', '{"port": "80x"}',
    '[{"volume_id": "vol_none", "mount_path": "/x"}]', '[{"volume_id": 1}]', '[{"volume_id": "", "mount_path": ""}]',
    '{"allowed_cidrs": ["x"]}', '{"allowed_domains": "x"}', '{"allow_http": 7}', '{"domain": "x"}',
]  # fmt: skip


async def raw(caller: Caller, line: str, content: str, kind: str = "application/json", **query: Any) -> Any:
    """The answer to a body as it is."""
    method, path = line.split()
    headers = {"X-API-Key": caller.key, "Content-Type": kind}
    return await caller.http.request(method, path, content=content.encode(), headers=headers, params=query or None)


def proper(answer: Any, what: object) -> None:
    """A refusal in the dialect's words, that is no fault of the server's."""
    assert answer.status_code < 500, (what, answer.status_code, answer.text[:500])
    told = answer.json()
    if answer.status_code == 422:
        assert isinstance(told["detail"], list), (what, told)
        for one in told["detail"]:
            assert {"loc", "msg", "type"} <= one.keys() and one["loc"], (what, told)
    elif answer.status_code >= 400:
        assert isinstance(told["detail"], str), (what, told)


@pytest.mark.parametrize("field", list(VMCreateRequest.model_fields))
async def test_each_field_of_a_create_alone(root: Caller, field: str) -> None:
    before = {one["vm_id"] for one in await root.ok("GET /v1/vms/")}
    for value in WRONG:
        answer = await raw(root, "POST /v1/vms", f'{{"{field}": {value}}}')
        proper(answer, (field, value[:80]))
        if answer.status_code == 200:
            await root.ok(f"DELETE /v1/vms/{answer.json()['vm_id']}")
    found = [one for one in await root.ok("GET /v1/vms/") if one["vm_id"] not in before]
    assert {one["status"] for one in found} <= {"terminated"}


IDS = ["none", "9" * 40, "%00", "../é😀"]
ALL: dict[str, Any] = {
    "session_id": "none", "vm_id": "none", "volume_id": "none", "mount_path": "/x", "port": 80, "cols": 80, "rows": 24,
    "command": "true", "language": "bash", "path": "x", "name": "x", "url": "http://127.0.0.1/", "description": "x",
    "entries": [{"env_name": "A", "value": "b"}], "public_key": "ssh-ed25519 x", "is_public": True, "filename": "x",
    "quota_bytes": 1 << 20, "enabled": True, "oci_image": "none/none:1", "image_variant": "none",
}  # fmt: skip
BODIES = ["", "{}", "[]", "null", '"x"', "{", json.dumps(ALL), json.dumps(dict.fromkeys(ALL, "\ud800"))]


def routes() -> list[tuple[str, str]]:
    """Each method and path that the dialect has, but for WebSockets."""
    told = make_app(MagicMock()).app.openapi()["paths"]  # nothing is asked of the engine for it
    found = [(method.upper(), path) for path, methods in told.items() for method in methods]
    assert len(found) > 60
    return found


@pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
async def test_every_route_of_what_is_not_there(root: Caller, tenant: Caller, id: str) -> None:
    for method, path in routes():
        if "{" not in path and id != IDS[0]:
            continue
        where = re.sub(r"{[^}]*}", quote(id, safe=""), path)
        for body in BODIES if id == IDS[0] else BODIES[-2:]:
            answer = await raw(tenant, f"{method} {where}", body)
            if answer.status_code != 501:
                proper(answer, (method, where[:80], body[:40]))
                assert "{" not in path or answer.status_code >= 400, (method, where, answer.text)


@pytest.mark.parametrize("value", ["\0", "x", "9" * 40, '{"a": {"b": [1, "\\u0000"]}}', "[" * 900])
async def test_every_question(root: Caller, value: str) -> None:
    vm = await root.vm()
    for path, names in (
        ("/v1/audit/events", ["event_group", "status", "vm_id", "session_id", "cursor", "limit"]),
        ("/v1/sessions/sandboxes", ["metadata", "limit"]),
        ("/v1/snapshots", ["type"]),
        ("/v1/volumes", ["refresh_usage"]),
        (f"/v1/sessions/app-url/{vm['session_id']}", ["port"]),
        ("/v1/webhooks/deliveries", ["cursor", "limit", "status"]),
    ):
        for name in names:
            answer = await root.ask(f"GET {path}", **{name: value})
            proper(answer, (path, name, value))
    proper(await root.ask("POST /v1/vms", {}, wait=value), value)
    proper(await root.ask(f"DELETE /v1/vms/{vm['vm_id']}/volumes/vol_x", mount_path=value, wait=value), value)
    await root.ok(f"DELETE /v1/vms/{vm['vm_id']}")


async def test_all_at_once_upon_one_vm(root: Caller) -> None:
    """Whatever may be asked, while it is made and after: it ends in one way, and nothing of it is left."""
    for waited in (False, True):
        made = await root.ok("POST /v1/vms", {"auto_resume": True}, wait=waited)
        listed = await root.ok("GET /v1/vms/")
        vm = made["vm_id"] or next(one["vm_id"] for one in listed if one["session_id"] == made["session_id"])
        path, code = (
            f"/v1/vms/{vm}",
            {"session_id": made["session_id"], "command": "true", "language": "bash", "timeout": 20},
        )
        asks = [
            ("POST", f"{path}/suspend", None), ("POST", f"{path}/resume", None), ("POST", f"{path}/resume", None),
            ("POST", f"{path}/snapshot", {}), ("PATCH", path, {"memory_mb": 256}), ("PATCH", path, {"memory_mb": 512}),
            ("POST", f"{path}/clone", {}), ("POST", "/execute", code), ("POST", f"{path}/suspend", None),
            ("POST", "/v1/shares", {"port": 80, "vm_id": vm}), ("POST", f"{path}/pty/sessions", {}),
            ("POST", f"/v1/egress/vm/{vm}", {"allow_http": False}), ("DELETE", path, None), ("DELETE", path, None),
            ("POST", "/kill", {"session_id": made["session_id"]}),
        ]  # fmt: skip
        for answer in await asyncio.gather(*(root.ask(f"{method} {where}", body) for method, where, body in asks)):
            proper(answer, answer.request.url)
        found = await root.ok(f"GET {path}")
        if found["status"] != "terminated":  # what was asked last has brought it back
            await root.ok(f"DELETE {path}")
        await root.became(vm, "terminated")
        for one in await root.ok("GET /v1/snapshots"):
            if one["vm_id"] and one["vm_id"].startswith(f"vmid-{vm.split('-')[1]}"):
                await root.ok(f"DELETE /v1/snapshots/{one['id']}")
        for one in await root.ok("GET /v1/vms"):
            await root.ok(f"DELETE /v1/vms/{one['vm_id']}")
