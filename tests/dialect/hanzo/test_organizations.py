"""`organization.*` and `orgTeam.*`, and what each role may do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from dialect.hanzo.conftest import Caller, member
from dialect.served import Served, fresh
from polyvisor.dialects.hanzo.app import PROCEDURES
from polyvisor.dialects.hanzo.roles import ROLES, role_of, scopes_of
from polyvisor.model.principal import Action

pytestmark = pytest.mark.asyncio(loop_scope="session")
ALL = set(ROLES)
SEE = {"Owner", "Admin", "Developer", "Viewer"}
DO = {"Owner", "Admin", "Developer"}
RULE = {"Owner", "Admin"}
MATRIX: dict[str, set[str]] = {
    "vm.all": SEE, "vm.one": SEE, "vm.volumes": SEE, "vm.launch": DO, "vm.start": DO, "vm.stop": DO, "vm.restart": DO,
    "vm.attachVolume": DO, "vm.detachVolume": DO, "vm.terminal": DO, "vm.destroy": DO,
    "volume.all": SEE, "volume.one": SEE, "volume.create": DO, "vm.createVolume": DO, "volume.resize": DO,
    "volume.remove": DO, "vm.deleteVolume": DO,
    "organization.all": ALL, "organization.one": ALL, "organization.update": RULE, "organization.create": {"Owner"},
    "orgTeam.all": ALL, "orgTeam.update": RULE, "orgTeam.remove": RULE, "organization.remove": {"Owner"},
    "user.tokens": ALL, "user.createToken": ALL, "user.revokeToken": ALL,
}  # fmt: skip
"""Who may. What each of them does is in its own test; here it is whether it is let through."""


async def test_the_matrix_has_every_procedure() -> None:
    assert set(MATRIX) == set(PROCEDURES)


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_may_do_what_the_matrix_says(served: Served, root: Caller, role: str) -> None:
    org = await root.organization()
    caller = await member(served, root, org, role)
    other = await member(served, root, org, "Viewer")
    vm = await root.running(org)
    volume = await root.volume(org)
    for name, may in MATRIX.items():
        fields: dict[str, Any] = {
            "organizationId": org, "vmId": vm["id"], "volumeId": volume["id"], "name": fresh("new"), "plan": "nano",
            "region": "us-east", "os": "busybox", "sizeGb": 20, "userId": other.user, "role": "Billing",
            "tokenId": "tok_" + "a" * 24,
        }  # fmt: skip
        if name == "vm.destroy":
            fields["vmId"] = (await root.launch(org))["id"]
        if name in ("volume.remove", "vm.deleteVolume"):
            fields["volumeId"] = (await root.volume(org))["id"]
        if name == "organization.remove":
            fields["organizationId"] = (await root.ok("POST organization.create", 201, name=fresh("x")))["id"]
            await root.ok(
                "PATCH orgTeam.update", organizationId=fields["organizationId"], userId=caller.user, role=role
            )
        method = PROCEDURES[name].methods[0]
        if method == "GET":
            fields = {key: value for key, value in fields.items() if key in PROCEDURES[name].body.model_fields}
        answer = await caller.ask(f"{method} {name}", **fields)
        if role in may:
            assert answer.status_code not in (401, 403), (role, name, answer.text)
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN"), (role, name, answer.text)
        if name in ("vm.stop", "vm.start", "vm.restart"):
            await _settled(root, vm["id"])


async def _settled(root: Caller, vm: str) -> None:
    while (await root.ok("GET vm.one", vmId=vm))["status"] not in ("running", "stopped"):
        pass


async def test_an_organization_is_made_changed_and_removed(root: Caller) -> None:
    name = fresh("My Company & Söhne")
    made = await root.ok("POST organization.create", 201, name=name, description="of ours")
    assert made == {
        "id": made["id"], "name": name, "description": "of ours", "createdAt": made["createdAt"], "memberCount": 0,
        "clusterCount": 0,
    }  # fmt: skip
    assert await root.ok("GET organization.one", organizationId=made["id"]) == made | {"members": []}
    assert made in await root.ok("GET organization.all")
    await root.refused(409, "CONFLICT", "POST organization.create", name=name)
    changed = await root.ok("PATCH organization.update", organizationId=made["id"], description="of theirs")
    assert changed == made | {"description": "of theirs"}
    plain = fresh("plain")
    renamed = await root.ok("PATCH organization.update", organizationId=made["id"], name=plain)
    assert renamed == changed | {"name": plain}
    again = await root.ok("POST organization.create", 201, name=name)  # the name is free
    await root.refused(409, "CONFLICT", "PATCH organization.update", organizationId=made["id"], name=name)
    await root.ok("PATCH organization.update", organizationId=again["id"], name=fresh("a b"))
    vm = (await root.launch(made["id"]))["id"]
    await root.refused(409, "CONFLICT", "DELETE organization.remove", organizationId=made["id"])
    await root.ok("DELETE vm.destroy", 204, vmId=vm)
    await root.ok("DELETE organization.remove", 204, organizationId=made["id"])
    await root.refused(403, "FORBIDDEN", "GET organization.one", organizationId=made["id"])
    await root.ok("DELETE organization.remove", 204, organizationId=again["id"])
    wrong: list[tuple[str, Any]] = [("name", "x"), ("name", "x" * 51), ("name", "a\nb"), ("description", "x" * 1001)]
    for field, value in wrong:
        body = {"name": "good", field: value}
        assert (await root.refused(400, "BAD_REQUEST", "POST organization.create", **body)).startswith(field)


async def test_whoever_makes_one_owns_it(served: Served, root: Caller, org: str) -> None:
    owner = await member(served, root, org, "Owner")
    made = await owner.ok("POST organization.create", 201, name=fresh("sub"))
    assert made["memberCount"] == 1
    (found,) = (await owner.ok("GET organization.one", organizationId=made["id"]))["members"]
    assert (found["userId"], found["role"]) == (owner.user, "Owner")
    vm = await owner.launch(made["id"])
    assert [one["id"] for one in await owner.ok("GET vm.all", organizationId=made["id"])] == [vm["id"]]
    message = await owner.refused(
        409, "CONFLICT", "PATCH orgTeam.update", organizationId=made["id"], userId=owner.user, role="Viewer"
    )
    assert "Owner" in message
    await owner.refused(409, "CONFLICT", "DELETE orgTeam.remove", organizationId=made["id"], userId=owner.user)


async def test_nobody_gives_or_takes_more_than_he_has(served: Served, root: Caller, org: str) -> None:
    owner = await member(served, root, org, "Owner")
    admin = await member(served, root, org, "Admin")
    user = await member(served, root, org, None)
    where: dict[str, Any] = {"organizationId": org}
    await admin.refused(403, "FORBIDDEN", "PATCH orgTeam.update", userId=user.user, role="Owner", **where)
    await admin.refused(403, "FORBIDDEN", "PATCH orgTeam.update", userId=owner.user, role="Viewer", **where)
    await admin.refused(403, "FORBIDDEN", "DELETE orgTeam.remove", userId=owner.user, **where)
    made = await admin.ok("PATCH orgTeam.update", userId=user.user, role="Developer", **where)
    assert made["role"] == "Developer"
    vm = await user.launch(org)
    assert (await admin.ok("PATCH orgTeam.update", userId=user.user, role="Viewer", **where))["role"] == "Viewer"
    await user.refused(403, "FORBIDDEN", "POST vm.stop", vmId=vm["id"])
    roles = {one["userId"]: one["role"] for one in await user.ok("GET orgTeam.all", **where)}
    assert roles == {owner.user: "Owner", admin.user: "Admin", user.user: "Viewer"}
    await admin.ok("DELETE orgTeam.remove", 204, userId=user.user, **where)
    await admin.refused(404, "NOT_FOUND", "DELETE orgTeam.remove", userId=user.user, **where)
    await user.refused(404, "NOT_FOUND", "GET vm.one", vmId=vm["id"])
    await admin.refused(404, "NOT_FOUND", "PATCH orgTeam.update", userId="user_nobody", role="Viewer", **where)
    message = await admin.refused(400, "BAD_REQUEST", "PATCH orgTeam.update", userId=user.user, role="King", **where)
    assert message.startswith("role")


async def test_roles_hold_what_the_next_one_does() -> None:
    held = list(ROLES.values())
    assert all(more > less for more, less in pairwise(held))
    assert [role_of(actions) for actions in held] == list(ROLES)
    assert role_of({Action.KEY_CREATE}) is None
    assert scopes_of(None) == ["*"]
    assert scopes_of(frozenset({Action.HOST_VIEW})) == ["host.view"]
