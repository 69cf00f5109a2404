"""`/u`: every row of the specification's table, each of its refusals, and each way to show a key."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from dialect.velocity.conftest import Caller, login
from polyvisor.dialects.velocity.permissions import PERMISSIONS

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = 999_999
UNAUTHORIZED = {"code": 100, "message": "Unauthorized: Authkey is invalid or not present"}


# -- authkeys ------------------------------------------------------------------------------------------------------


async def test_an_authkey_is_a_uuid_with_an_end(served: Served, http: httpx.AsyncClient) -> None:
    admin = served.parts.facts["admin"]
    for name in ("username", "name"):
        answer = await http.post("/u/auth", json={name: admin["username"], "password": admin["password"]})
        said = answer.json()
        assert set(said) == {"authkey", "expires"}
        assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", said["authkey"])
        assert 3500 < said["expires"] - time.time() <= 3600


async def test_a_wrong_password_and_an_unknown_name_are_told_alike(http: httpx.AsyncClient, root: Caller) -> None:
    user = await root.user()
    said = set()
    for name, password in ((user.name, "wrong"), (fresh("nobody"), "secret")):
        answer = await http.post("/u/auth", json={"username": name, "password": password})
        assert answer.status_code == 403
        said.add(answer.text)
    assert len(said) == 1
    assert '"code":1100' in said.pop()


async def test_a_key_is_shown_in_any_of_three_places(http: httpx.AsyncClient, root: Caller) -> None:
    key = root.authkey
    headers: list[dict[str, str]] = [
        {"Authorization": f"Bearer {key}"}, {"Authorization": f"bEARER {key}"}, {"x-velocity-authkey": key},
    ]  # fmt: skip
    for header in headers:
        assert (await http.post("/u/user", json={}, headers=header)).json()["uid"] == 0
        assert (await http.post("/u/user", headers=header)).json()["uid"] == 0
    assert (await http.post("/u/user", json={"authkey": key})).json()["uid"] == 0


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nonesuch"}, {"Authorization": "Basic cm9vdDpyb290"}])
@pytest.mark.parametrize("path", ["/u/user", "/u/user/list", "/u/group/list", "/v/vm/list", "/v/vm/state"])
async def test_without_a_key_nothing_is_answered(http: httpx.AsyncClient, header: dict[str, str], path: str) -> None:
    answer = await http.post(path, json={"gid": 0, "vmid": 1, "authkey": "none"}, headers=header)
    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    assert (await http.post(path, content=b"{", headers=header)).status_code == 401  # before the body is understood


async def test_keys_are_renewed_and_dropped(http: httpx.AsyncClient, root: Caller) -> None:
    user = await root.user()
    answer = await http.patch("/u/auth", json={"authkey": user.authkey})
    new = Caller(http, answer.json()["authkey"], user.uid, user.name)
    assert (await user.ask("POST /u/user")).status_code == 401
    assert (await new.ok("POST /u/user"))["uid"] == user.uid
    gone = await http.patch("/u/auth", json={"authkey": user.authkey})
    assert (gone.status_code, gone.json()["code"]) == (403, 1400)
    for _ in range(2):  # also one that is gone
        dropped = await http.request("DELETE", "/u/auth", json={"authkey": new.authkey})
        assert (dropped.status_code, dropped.content) == (200, b"")
    assert (await new.ask("POST /u/user")).status_code == 401


async def test_an_api_key_of_ours_is_a_key_too(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.post("/u/group/list", headers={"Authorization": f"Bearer {served.key}"})
    assert answer.json()["groups"][0]["gid"] == 0


# -- what the framework says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"", "application/json", 422, "Unprocessable Entity"),
        (b'{"gid": 0}', "text/plain", 415, "Unsupported Media Type"),
        (b"{", "application/json", 400, "valid JSON"),
        (b"[]", "application/json", 400, "body"),
        (b"{}", "application/json", 400, "No such key 'gid'"),
        (b'{"gid": "x"}', "application/json", 400, "'Int' at path 'gid'"),
        (b'{"gid": 1.5}', "application/json", 400, "'gid'"),
        (b'{"gid": null}', "application/json", 400, "'gid'"),
        (b'{"gid": 0, "x": "' + b"y" * 20_000 + b'"}', "application/json", 413, "Payload Too Large"),
    ],
)
async def test_a_body_that_is_none_is_refused_in_the_frameworks_words(
    http: httpx.AsyncClient, root: Caller, content: bytes, kind: str, status: int, words: str
) -> None:
    headers = {"Authorization": f"Bearer {root.authkey}", "Content-Type": kind}
    answer = await http.post("/u/group", content=content, headers=headers)
    said = answer.json()
    assert (answer.status_code, said["error"]) == (status, True)
    assert words in said["reason"]
    assert (said.get("code"), said.get("message")) == ((400, said["reason"]) if status == 400 else (None, None))


@pytest.mark.parametrize("line", ["GET /u/user", "POST /u/nothing", "PATCH /v/vm", "GET /v/vm/list", "PUT /u/auth"])
async def test_what_is_not_there_is_404(http: httpx.AsyncClient, root: Caller, line: str) -> None:
    answer = await root.ask(line)
    assert (answer.status_code, answer.json()) == (404, {"error": True, "reason": "Not Found"})


async def test_browsers_may_ask(http: httpx.AsyncClient, root: Caller) -> None:
    asked = await http.options(
        "/u/user", headers={"Origin": "http://x.example", "Access-Control-Request-Method": "PUT"}
    )
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "*")
    assert "PATCH" in asked.headers["access-control-allow-methods"]
    assert (await root.ask("POST /u/user")).headers["access-control-allow-origin"] == "*"


# -- users ---------------------------------------------------------------------------------------------------------


async def test_the_administrator_may_everything(root: Caller) -> None:
    me = await root.ok("POST /u/user")
    assert (me["uid"], me["name"]) == (0, "root")
    (membership,) = me["memberships"]
    assert (membership["gid"], membership["parent_gid"], membership["name"]) == (0, 0, "root")
    assert [one["name"] for one in membership["permissions"]] == list(PERMISSIONS)
    assert all(set(one) == {"pid", "name", "description"} for one in membership["permissions"])


async def test_a_user_is_made_seen_and_removed(root: Caller) -> None:
    gid = await root.group()
    user = await root.user((gid, "vm.view"), (gid, "vm.create"))
    me = await user.ok("POST /u/user")
    assert [one["name"] for one in me["memberships"][0]["permissions"]] == ["velocity.vm.create", "velocity.vm.view"]
    assert await root.ok("POST /u/user", uid=user.uid) == me
    assert await root.ok("POST /u/user", uid=str(user.uid)) == me  # a number in quotes is one
    assert {"uid": user.uid, "name": user.name} in (await root.ok("POST /u/user/list"))["users"]
    assert await root.ok("DELETE /u/user", uid=user.uid) is None
    assert (await user.ask("POST /u/user")).status_code == 401
    await root.refused(2110, 404, "POST /u/user", uid=user.uid)
    again = await root.user()
    assert again.uid > user.uid  # numbers are not given twice


async def test_refusals_about_users(root: Caller) -> None:
    gid = await root.group()
    user = await root.user((gid, "vm.view"))
    await user.refused(2100, 403, "POST /u/user", uid=0)
    await user.refused(2200, 403, "PUT /u/user", name=fresh("n"), password="x")
    await user.refused(2300, 403, "DELETE /u/user", uid=0)
    await user.refused(3100, 403, "POST /u/user/list")
    await root.refused(2220, 409, "PUT /u/user", name=user.name, password="x")
    await root.refused(2310, 404, "DELETE /u/user", uid=NOBODY)
    await root.refused(2300, 403, "DELETE /u/user", uid=0)  # the last administrator stays
    for name in ("", " x", "a:b", "x" * 300):
        answer = await root.ask("PUT /u/user", name=name, password="x")
        assert (answer.status_code, "name" in answer.json()["reason"]) == (400, True)
    assert (await root.ask("PUT /u/user", name=fresh("n"), password="")).status_code == 400


async def test_who_removes_users_must_hold_what_they_hold(root: Caller) -> None:
    mine, other = await root.group(), await root.group()
    boss = await root.user(*((mine, f"user.{verb}") for verb in ("create", "remove", "view", "assign")))
    made = await boss.user((mine, "user.view"))
    assert (await boss.ok("POST /u/user", uid=made.uid))["name"] == made.name
    await root.ok("PUT /u/user/permission", uid=made.uid, gid=other, permission="velocity.vm.view")
    await boss.refused(2300, 403, "DELETE /u/user", uid=made.uid)
    await root.ok("DELETE /u/user/permission", uid=made.uid, gid=other)
    await boss.ok("DELETE /u/user", uid=made.uid)


async def test_permissions_are_passed_on_by_who_holds_them(root: Caller) -> None:
    above = await root.group()
    below = await root.group(above)
    elsewhere = await root.group()
    boss = await root.user((above, "user.assign"), (above, "user.revoke"), (above, "vm.view"))
    user = await root.user()
    view: dict[str, Any] = {"uid": user.uid, "gid": below, "permission": "velocity.vm.view"}
    for _ in range(2):  # twice is well
        assert await boss.ok("PUT /u/user/permission", **view) is None
    assert (await user.ok("POST /v/vm/list", gid=below)) == {"vms": []}
    await boss.refused(4220, 403, "PUT /u/user/permission", **{**view, "permission": "velocity.vm.state"})
    await boss.refused(4210, 404, "PUT /u/user/permission", **{**view, "uid": NOBODY})
    await boss.refused(4211, 404, "PUT /u/user/permission", **{**view, "gid": NOBODY})
    await boss.refused(4212, 404, "PUT /u/user/permission", **{**view, "permission": "velocity.fly"})
    await boss.refused(4200, 403, "PUT /u/user/permission", **{**view, "gid": elsewhere})
    await user.refused(4200, 403, "PUT /u/user/permission", **view)
    await user.refused(4300, 403, "DELETE /u/user/permission", **view)
    await boss.refused(4310, 404, "DELETE /u/user/permission", **{**view, "uid": NOBODY})
    await boss.refused(4311, 404, "DELETE /u/user/permission", **{**view, "gid": NOBODY})
    await boss.refused(4312, 404, "DELETE /u/user/permission", **{**view, "permission": "velocity.fly"})
    for _ in range(2):  # one that is not held is gone already
        await boss.ok("DELETE /u/user/permission", **view)
    await user.refused(17200, 401, "POST /v/vm/list", gid=below)
    await boss.ok("PUT /u/user/permission", **view)
    await boss.ok("DELETE /u/user/permission", uid=user.uid, gid=below)
    assert (await user.ok("POST /u/user"))["memberships"] == []


# -- groups --------------------------------------------------------------------------------------------------------


async def test_groups_are_a_tree(root: Caller) -> None:
    name = fresh("g")
    made = await root.ok("PUT /u/group", name=name, parent_gid=0)
    assert (made["parent_gid"], made["name"]) == (0, name)
    gid = made["gid"]
    inner = await root.group(gid)
    user = await root.user((inner, "vm.view"), (gid, "group.view"))
    seen = await root.ok("POST /u/group", gid=gid)
    assert seen["memberships"] == [
        {"uid": user.uid, "name": user.name, "permissions": [{
            "pid": 9, "name": "velocity.group.view", "description": PERMISSIONS["velocity.group.view"].description,
        }]}
    ]  # fmt: skip
    assert [one["gid"] for one in (await user.ok("POST /u/group/list"))["groups"]] == [0, gid, inner]
    assert [one["uid"] for one in (await root.ok("POST /u/group", gid=0))["memberships"]][:1] == [0]
    await root.refused(5220, 409, "PUT /u/group", name=name, parent_gid=0)
    await root.refused(5210, 404, "PUT /u/group", name=name, parent_gid=NOBODY)
    await root.refused(5320, 409, "DELETE /u/group", gid=gid)  # there is a group in it
    await root.refused(5320, 409, "DELETE /u/group", gid=0)
    await root.refused(5110, 404, "POST /u/group", gid=NOBODY)
    await root.refused(5310, 404, "DELETE /u/group", gid=NOBODY)
    await user.refused(5200, 403, "PUT /u/group", name=fresh("g"), parent_gid=gid)
    await user.refused(5300, 403, "DELETE /u/group", gid=inner)
    await user.refused(5100, 403, "POST /u/group", gid=0)
    await root.ok("DELETE /u/group", gid=inner)
    await root.ok("DELETE /u/group", gid=gid)
    assert (await user.ok("POST /u/group/list")) == {"groups": []}
    for wrong in ("", "a b", "x" * 64):
        assert (await root.ask("PUT /u/group", name=wrong, parent_gid=0)).status_code == 400


async def test_a_group_goes_with_its_machines(served: Served, root: Caller) -> None:
    gid = await root.group()
    project = next(one.id for one in await served.parts.engine.projects.tree() if one.number == gid)
    body = {"image": "busybox", "name": "it"}
    made = await served.http.post("/api/v1/instances?wait=ready", json=body, headers={"X-Project": project})
    assert made.status_code == 201
    await root.ok("DELETE /u/group", gid=gid)
    assert (await served.http.get(f"/api/v1/instances/{made.json()['id']}")).status_code == 404


async def test_a_key_ends_with_its_time(served: Served, http: httpx.AsyncClient, root: Caller) -> None:
    user = await root.user()
    async with served.parts.store.write() as unit:
        await unit.identities.end_sessions(of=(await unit.identities.users())[-1].id)
    assert (await user.ask("POST /u/user")).status_code == 401
    assert (await login(http, user.name, "secret", user.uid)).authkey != user.authkey
