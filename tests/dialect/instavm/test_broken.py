"""What somebody does who wants to break it: two calls at once, and what is left of a refusal."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from dialect.instavm.conftest import Caller, Served
from polyvisor.dialects.instavm.names import DIALECT
from polyvisor.model import faults

pytestmark = pytest.mark.asyncio(loop_scope="session")
KINDS = ["session", "vm", "share", "build"]


async def rows(served: Served) -> Counter[str]:
    """How many there are of each kind."""
    return Counter(row.kind for row in await served.parts.engine.rows.of(DIALECT, KINDS))


async def test_nothing_is_left_of_a_vm_that_did_not_come_up(
    root: Caller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await root.session()
    first = await root.vm(session_id=session)
    await root.ok(f"DELETE /v1/vms/{first['vm_id']}")
    had = await rows(served)

    async def settle(*_: object) -> Any:
        raise faults.WrongState("it did not come up")

    with monkeypatch.context() as patch:
        patch.setattr(served.parts.engine.instances, "settle", settle)
        await root.refused(409, "POST /v1/vms", {})
        await root.refused(409, "POST /v1/vms", {"session_id": session, "memory_mb": 256, "metadata": {"a": 1}})
    assert await rows(served) == had
    told = await root.ok(f"GET /v1/sessions/session/{session}")
    assert (told["vm_id"], told["memory_mb"], told["metadata"]) == (first["vm_id"], None, {})


async def test_a_name_that_a_vm_does_not_have_yet_is_nobodys(root: Caller) -> None:
    vm = (await root.vm())["vm_id"]
    await root.refused(404, f"GET /v1/vms/{vm}-2")
    await root.ok(f"POST /v1/vms/{vm}/suspend")
    await root.became(vm, "suspended")
    again = (await root.ok(f"POST /v1/vms/{vm}/resume"))["vm_id"]
    assert again == f"{vm}-2"
    for name in (vm, again):
        assert (await root.ok(f"GET /v1/vms/{name}"))["vm_id"] == again
    await root.ok(f"DELETE /v1/vms/{vm}")
    assert (await root.ok(f"GET /v1/vms/{again}"))["status"] == "terminated"
    await root.refused(404, f"GET /v1/vms/{vm}-3")


async def test_a_vm_that_is_resumed_by_many_at_once_has_one_new_name(root: Caller) -> None:
    made = await root.vm(auto_resume=True)
    vm, session = made["vm_id"], made["session_id"]
    await root.ok(f"POST /v1/vms/{vm}/suspend")
    await root.became(vm, "suspended")
    code = {"session_id": session, "command": "true", "language": "bash", "timeout": 20}
    resumed = await asyncio.gather(
        root.ok(f"POST /v1/vms/{vm}/resume"), root.ok(f"POST /v1/vms/{vm.split('-')[1]}/resume", wait=False),
        root.ok("POST /execute", code), root.ok(f"PATCH /v1/vms/{vm}", {"metadata": {"a": 1}}),
    )  # fmt: skip
    assert resumed[0]["status"] == "active"
    assert {one["vm_id"] for one in resumed[:2]} == {f"{vm}-2"}
    told = await root.became(vm, "active")
    assert (told["vm_id"], told["metadata"]) == (f"{vm}-2", {"a": 1})
    assert await root.refused(404, f"GET /v1/vms/{vm}-3")
    await root.ok(f"DELETE /v1/vms/{vm}")
