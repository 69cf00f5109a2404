"""What a VM may reach, by upstream's client; that it holds is shown where policies are (instavm.md §1.11, check 15)."""

from __future__ import annotations

import pytest
from instavm import InstaVM

from dialect.instavm.conftest import Caller, Served
from dialect.instavm.test_code import away, sdk

pytestmark = pytest.mark.asyncio(loop_scope="session")
__all__ = ["sdk"]  # fixtures
CLOSED = {
    "allow_http": False,
    "allow_https": False,
    "allowed_domains": ["example.com"],
    "allowed_cidrs": ["10.0.0.0/8"],
}


async def test_of_a_session_before_and_while_it_has_a_vm(sdk: InstaVM, root: Caller, served: Served) -> None:
    told = await away(sdk.get_session_egress)
    assert (told["allow_http"], told["allow_https"], told["allowed_domains"]) == (True, True, [])
    assert await away(lambda: sdk.set_session_egress(**CLOSED)) == {"status": "ok"}
    assert await away(sdk.get_session_egress) | CLOSED == await away(sdk.get_session_egress)
    await away(lambda: sdk.execute("true", language="bash"))
    vm = (await away(sdk.get_session_status))["vm_id"]
    assert await away(lambda: sdk.get_vm_egress(vm)) == await away(sdk.get_session_egress)
    assert await away(lambda: sdk.set_vm_egress(vm, allow_http=True, allow_https=True)) == {"status": "ok"}
    assert (await away(sdk.get_session_egress))["allowed_domains"] == []
    instance = (await served.http.get(f"/api/v1/instances/{vm.split('-')[1]}")).json()
    assert instance["egress"]["domains"] == []
    await away(sdk.kill)


@pytest.mark.parametrize("name", ["allow_package_managers", "allow_public_repos"])
async def test_with_a_create(root: Caller, name: str) -> None:
    vm = await root.vm(egress_policy=CLOSED | {name: False, "unknown": 1})
    told = await root.ok(f"GET /v1/egress/vm/{vm['vm_id']}")
    assert told | CLOSED | {name: False} == told
    assert await root.ok(f"GET /v1/egress/session/{vm['session_id']}") == told
    await root.ok("POST /kill", {"session_id": vm["session_id"]})
    again = await root.vm(session_id=vm["session_id"])
    assert await root.ok(f"GET /v1/egress/vm/{again['vm_id']}") == told


async def test_what_is_wrong_is_named(root: Caller, tenant: Caller) -> None:
    vm = await root.vm()
    path = f"POST /v1/egress/vm/{vm['vm_id']}"
    await root.wrong("allowed_domains", path, {"allowed_domains": ["a b"]})
    await root.wrong("allowed_cidrs", path, {"allowed_cidrs": ["10.0.0.0/99"]})
    await root.wrong("allow_http", path, {"allow_http": "perhaps"})
    await root.wrong("egress_policy.allowed_domains", "POST /v1/vms", {"egress_policy": {"allowed_domains": ["-"]}})
    await root.wrong("egress_policy.allow_http", "POST /v1/vms", {"egress_policy": {"allow_http": []}})
    assert (await root.ok(f"GET /v1/egress/vm/{vm['vm_id']}"))["allowed_domains"] == []
    for line in (f"GET /v1/egress/vm/{vm['vm_id']}", path, f"GET /v1/egress/session/{vm['session_id']}"):
        await tenant.refused(404, line, {} if line.startswith("P") else None)
