"""`users`, `groups` and `members`: what they keep, who is let in, and who is in what (vergeos.md §2.15)."""

from __future__ import annotations

import httpx
import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api
from dialect.vergeos.people import PASSWORD, boss_of, someone

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASKED = (
    "$key,name,displayname,email,type,enabled,created,last_login,change_password,physical_access,"
    "two_factor_authentication,two_factor_type,account_locked,failed_attempts,auth_source,"
    "auth_source#name as auth_source_name,remote_name,identity,creator"
)


async def _token(http: httpx.AsyncClient, name: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/api/sys/tokens", json={"login": name, "password": password})


# -- users -------------------------------------------------------------------------------------------------------------


async def test_a_user_is_made_altered_and_removed(api: Api, http: httpx.AsyncClient) -> None:
    name = fresh("ann")
    key = await api.made("users", name=name, password=PASSWORD, displayname="Ann", email="a@x.example", type="api",
                         change_password="true")  # fmt: skip
    row = await api.get(f"users/{key}", fields=ASKED)
    assert set(row) == {word.split(" as ")[-1].strip() for word in ASKED.split(",")}
    assert (row["name"], row["displayname"], row["type"], row["change_password"]) == (name, "Ann", "api", True)
    assert (row["enabled"], row["identity"], row["auth_source_name"]) == (True, key, None)
    assert row["created"] > 0
    await api.put(f"users/{key}", displayname="Ann B.", password="another")
    assert (await api.get(f"users/{key}", fields="displayname,email")) == {
        "displayname": "Ann B.", "email": "a@x.example"
    }  # fmt: skip
    assert (await _token(http, name)).status_code == 401
    assert (await _token(http, name, "another")).status_code == 201
    await api.delete(f"users/{key}")
    assert (await api.ask("GET", f"users/{key}")).status_code == 404
    assert await api.get("permissions", filter=f"identity eq {key}") == []


async def test_a_password_is_never_told(api: Api) -> None:
    word = "geheim-" + fresh("x")
    key = await api.made("users", name=fresh("u"), password=word)
    for fields in ("all", "most", "$key,password"):
        assert word not in (await api.ask("GET", f"users/{key}", fields=fields)).text
    assert await api.get("users", filter=f"password eq '{word}'") == []
    assert (await api.get(f"users/{key}", fields="password")) == {"password": None}


async def test_refusals_about_users(api: Api) -> None:
    one = await someone(api)
    await api.refused(422, "already in use", "POST", "users", {"name": one.name, "password": "x"})
    await api.refused(422, "'password'", "POST", "users", {"name": fresh("u")})
    await api.refused(422, "'name'", "POST", "users", {"name": "a/b", "password": "x"})
    await api.refused(422, "name", "POST", "users", {"name": "a:b", "password": "x"})
    await api.refused(422, "'type'", "POST", "users", {"name": fresh("u"), "password": "x", "type": "king"})
    await api.refused(422, "readonly", "PUT", f"users/{one.key}", {"name": fresh("u")})
    await api.refused(422, "readonly", "PUT", f"users/{one.key}", {"identity": 5})
    await api.refused(404, "not found", "PUT", "users/999999", {"email": ""})
    await one.api.refused(403, "Denied", "POST", "users", {"name": fresh("u"), "password": "x"})
    other = await someone(api)
    await one.api.refused(404, "not found", "DELETE", f"users/{other.key}")  # it does not even see it


async def test_who_may_nothing_sees_and_alters_itself(api: Api) -> None:
    one = await someone(api)
    assert [row["$key"] for row in await one.api.get("users", fields="$key")] == [one.key]
    await one.api.put(f"users/{one.key}", displayname="Me")
    assert (await one.api.get(f"users/{one.key}", fields="displayname")) == {"displayname": "Me"}
    mine = await one.api.get("permissions", fields="table,row,list,read,create,modify,delete,rowdisplay")
    assert mine == [{"table": "users", "row": one.key, "list": True, "read": True, "create": False, "modify": True,
                     "delete": False, "rowdisplay": one.name}]  # fmt: skip


async def test_who_is_disabled_is_let_in_nowhere(served: Served, api: Api, http: httpx.AsyncClient) -> None:
    one = await someone(api)
    token = (await _token(http, one.name)).json()["$key"]
    native = {"Authorization": one.api.headers["Authorization"]}
    assert (await http.get("/api/v1/instances", headers=native)).status_code in (200, 403)
    answer = await api.ask("POST", f"users/{one.key}/disable", {})
    assert (answer.status_code, answer.json()) == (200, {})
    assert (await api.get(f"users/{one.key}", fields="enabled")) == {"enabled": False}
    assert (await http.get("/api/v4/vms", headers={"x-yottabyte-token": token})).status_code == 401
    assert (await one.api.ask("GET", "vms")).status_code == 401
    assert (await http.get("/api/v1/instances", headers=native)).status_code == 401
    assert (await http.get("/api/v4/vms", auth=(one.name, PASSWORD))).status_code == 401
    assert (await _token(http, one.name)).status_code == 401
    assert (await http.post("/u/auth", json={"username": one.name, "password": PASSWORD})).status_code == 403
    told = (await served.http.get(f"/api/v1/users/{one.name}")).json()
    assert told["disabled"] is True
    await api.put(f"users/{one.key}", enabled=True)
    assert (await one.api.ask("GET", "vms")).status_code == 200
    assert (await http.get("/api/v4/vms", headers={"x-yottabyte-token": token})).status_code == 401  # it has ended


async def test_one_can_begin_disabled(api: Api, http: httpx.AsyncClient) -> None:
    name = fresh("later")
    key = await api.made("users", name=name, password=PASSWORD, enabled="false")
    assert (await _token(http, name)).status_code == 401
    assert (await api.ask("POST", f"users/{key}/enable", {})).status_code == 200
    assert (await _token(http, name)).status_code == 201


async def test_the_last_operator_stays(served: Served, api: Api) -> None:
    name = served.parts.facts["admin"]["username"]
    key = (await api.get("users", filter=f"name eq '{name}'", fields="$key"))[0]["$key"]
    await api.refused(409, "last", "PUT", f"users/{key}", {"enabled": False})
    await api.refused(409, "last", "DELETE", f"users/{key}")
    all_of_it = await api.get("permissions", filter=f"identity eq {key} and table eq '/'", fields="all")
    assert [row["delete"] for row in all_of_it] == [True]
    await api.refused(409, "last", "DELETE", f"permissions/{all_of_it[0]['$key']}")


# -- groups ------------------------------------------------------------------------------------------------------------


async def test_a_group_is_made_altered_and_removed(api: Api) -> None:
    name = fresh("o'brien \\ \" ") + "x"
    key = await api.made("groups", name=name, description="d", email="g@x.example", id="ext")
    row = await api.get(f"groups/{key}", fields="all,count(members) as member_count")
    assert (row["name"], row["description"], row["email"], row["id"]) == (name, "d", "g@x.example", "ext")
    assert (row["enabled"], row["system_group"], row["member_count"], row["identity"]) == (True, False, 0, key)
    await api.refused(422, "already in use", "POST", "groups", {"name": name})
    other = await api.made("groups", name=fresh("g"))
    await api.refused(422, "already in use", "PUT", f"groups/{other}", {"name": name})
    await api.put(f"groups/{key}", name=name + "2", enabled="false")
    assert (await api.get(f"groups/{key}", fields="name,enabled")) == {"name": name + "2", "enabled": False}
    await api.delete(f"groups/{key}")
    assert (await api.ask("GET", f"groups/{key}")).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/v4/"])
async def test_members_are_users_and_groups(api: Api, prefix: str) -> None:
    one = await someone(api)
    outer, inner = await api.made("groups", name=fresh("g")), await api.made("groups", name=fresh("g"))
    user = await api.made("members", parent_group=outer, member=f"{prefix}users/{one.key}")
    group = await api.made("members", parent_group=outer, member=f"{prefix}groups/{inner}")
    rows = await api.get("members", filter=f"parent_group eq {outer}", fields="$key,member,member#$display as shown")
    assert [(row["$key"], row["member"]) for row in rows] == [
        (user, f"{prefix}users/{one.key}"), (group, f"{prefix}groups/{inner}"),
    ]  # fmt: skip
    assert rows[0]["shown"] == one.name
    assert (await api.get(f"groups/{outer}", fields="count(members) as n")) == {"n": 2}
    twice = {"parent_group": outer, "member": f"users/{one.key}"}
    await api.refused(409, "exists", "POST", "members", twice)
    await api.refused(422, "of itself", "POST", "members", {"parent_group": inner, "member": f"groups/{outer}"})
    await api.refused(422, "of itself", "POST", "members", {"parent_group": inner, "member": f"groups/{inner}"})
    await api.refused(404, "'member'", "POST", "members", {"parent_group": outer, "member": "users/999999"})
    await api.refused(422, "'member'", "POST", "members", {"parent_group": outer, "member": "vms/1"})
    await api.refused(404, "'parent_group'", "POST", "members", {**twice, "parent_group": 999_999})
    await api.delete(f"members/{group}")
    await api.delete(f"users/{one.key}")
    assert await api.get("members", filter=f"parent_group eq {outer}") == []


async def test_groups_of_another_project_are_not_shown(served: Served, api: Api, stranger: Api) -> None:
    _, boss = await boss_of(served, api)
    group = await boss.api.made("groups", name=fresh("g"))
    assert group in [row["$key"] for row in await api.get("groups", fields="$key")]
    assert group in [row["$key"] for row in await boss.api.get("groups", fields="$key")]
    assert await stranger.get("groups", fields="$key") == []
    await stranger.refused(404, "not found", "DELETE", f"groups/{group}")
    await stranger.refused(
        404, "'parent_group'", "POST", "members", {"parent_group": group, "member": f"users/{boss.key}"}
    )


async def test_a_second_factor_is_not_promised(api: Api) -> None:
    body = {"name": fresh("user"), "password": "secret-secret", "two_factor_authentication": True}
    await api.refused(422, "two_factor_authentication", "POST", "users", body)
