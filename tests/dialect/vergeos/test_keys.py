"""`user_api_keys`: told once, from where they may be used, and not a moment longer (vergeos.md §1.2)."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api
from dialect.vergeos.people import boss_of, someone

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASKED = (
    "$key,user,name,description,created,expires,lastlogin_stamp,lastlogin_ip,ip_allow_list,ip_deny_list,"
    "user#name as user_name"
)


def _with(api: Api, receipt: dict[str, dict[str, str]]) -> Api:
    return Api(api.http, {"Authorization": f"Bearer {receipt['response']['private_key']}"})


async def test_a_key_opens_until_it_is_deleted(api: Api) -> None:
    one = await someone(api)
    made = await one.api.post("user_api_keys", user=one.key, name="my key / 1", description="d", expires_type="never")
    holder, key = _with(api, made), int(made["$key"])
    assert await holder.get("vms") == []
    row = await one.api.get(f"user_api_keys/{key}", fields=ASKED)
    assert (row["user"], row["user_name"], row["name"], row["description"]) == (one.key, one.name, "my key / 1", "d")
    assert (row["expires"], row["ip_allow_list"], row["ip_deny_list"], row["lastlogin_ip"]) == (0, "", "", "")
    assert row["created"] > 0
    assert made["response"]["private_key"] not in (await one.api.ask("GET", "user_api_keys", fields="all")).text
    await one.api.put(f"user_api_keys/{key}", description="e", name="other")
    assert (await one.api.get(f"user_api_keys/{key}", fields="name,description")) == {
        "name": "other", "description": "e"
    }  # fmt: skip
    assert await holder.get("vms") == []
    await one.api.delete(f"user_api_keys/{key}")
    assert (await holder.ask("GET", "vms")).status_code == 401
    assert (await one.api.ask("GET", f"user_api_keys/{key}")).status_code == 404


async def test_its_use_is_told(served: Served, api: Api) -> None:
    one = await someone(api)
    await one.api.get("vms")
    await served.parts.engine.sessions.tick()
    rows = await one.api.get("user_api_keys", fields="lastlogin_stamp")
    assert rows[0]["lastlogin_stamp"] >= time.time() - 60


async def test_its_end_is_told_and_moved(api: Api) -> None:
    one = await someone(api)
    end = int(time.time()) + 3600
    made = await api.post("user_api_keys", user=one.key, name="dated", expires_type="date", expires=str(end))
    holder = _with(api, made)
    assert (await holder.get(f"user_api_keys/{made['$key']}", fields="expires,expires_type")) == {
        "expires": end, "expires_type": "date"
    }  # fmt: skip
    await api.put(f"user_api_keys/{made['$key']}", expires_type="never")
    assert (await holder.get(f"user_api_keys/{made['$key']}", fields="expires")) == {"expires": 0}


async def test_a_key_that_has_ended_opens_nothing(served: Served, api: Api) -> None:
    one = await someone(api)
    end = int(time.time()) + 3600
    made = await api.post("user_api_keys", user=one.key, name="short", expires=end)
    async with served.parts.store.write() as unit:
        key = next(key for key in await unit.identities.keys() if key.name == "short" and key.expires is not None)
        await unit.identities.save_key(replace(key, expires=key.created))
    assert (await _with(api, made).ask("GET", "vms")).status_code == 401


async def test_refusals_about_keys(api: Api) -> None:
    one = await someone(api)
    told = {"user": one.key, "name": "k"}
    await api.refused(422, "already in use", "POST", "user_api_keys", told)
    await api.refused(404, "'user'", "POST", "user_api_keys", {"user": 999_999, "name": "k"})
    other = {"user": one.key, "name": "k2"}
    await api.refused(422, "past", "POST", "user_api_keys", {**other, "expires_type": "date", "expires": 1})
    await api.refused(422, "'expires'", "POST", "user_api_keys", {**other, "expires_type": "date"})
    await api.refused(422, "'ip_allow_list'", "POST", "user_api_keys", {**other, "ip_allow_list": "nowhere"})
    both = {"ip_allow_list": "10.0.0.0/8", "ip_deny_list": "10.1.0.0/16"}
    await api.refused(422, "'ip_deny_list'", "POST", "user_api_keys", {**other, **both})
    key = (await one.api.get("user_api_keys", fields="$key"))[0]["$key"]
    await api.refused(422, "'user'", "PUT", f"user_api_keys/{key}", {"user": 1})


@pytest.mark.parametrize(
    ("lists", "status"),
    [
        ({"ip_allow_list": "127.0.0.1"}, 200),
        ({"ip_allow_list": "10.0.0.0/8, 127.0.0.0/8", "ip_deny_list": "172.16.0.1"}, 200),
        ({"ip_allow_list": "127.0.0.1", "ip_deny_list": "127.0.0.0/8"}, 200),  # what is allowed goes before
        ({"ip_allow_list": "10.0.0.0/8"}, 401),
        ({"ip_deny_list": "127.0.0.1"}, 401),
        ({"ip_deny_list": "127.0.0.0/8,10.0.0.1"}, 401),
        ({"ip_deny_list": "10.0.0.1"}, 200),
    ],
)
async def test_a_key_holds_from_where_it_may(api: Api, lists: dict[str, str], status: int) -> None:
    one = await someone(api)
    made = await api.post("user_api_keys", user=one.key, name="fenced", **lists)
    holder = _with(api, made)
    assert (await holder.ask("GET", "vms")).status_code == status
    assert (await api.http.get("/api/v1/instances", headers=holder.headers)).status_code in (status, 403)
    row = await api.get(f"user_api_keys/{made['$key']}", fields="ip_allow_list,ip_deny_list")
    assert {name: text.split(",") for name, text in row.items() if text} == {
        name: text.replace(" ", "").split(",") for name, text in lists.items()
    }
    await api.put(f"user_api_keys/{made['$key']}", ip_allow_list="", ip_deny_list="127.0.0.1")
    assert (await holder.ask("GET", "vms")).status_code == 401
    await api.put(f"user_api_keys/{made['$key']}", ip_deny_list="")
    assert (await holder.ask("GET", "vms")).status_code == 200


async def test_a_fenced_key_makes_none_without_its_fence(api: Api) -> None:
    one = await someone(api)
    holder = _with(api, await api.post("user_api_keys", user=one.key, name="fenced", ip_allow_list="127.0.0.1"))
    made = await holder.post("user_api_keys", user=one.key, name="child")
    row = await holder.get(f"user_api_keys/{made['$key']}", fields="ip_allow_list")
    assert row == {"ip_allow_list": "127.0.0.1"}
    wider = {"user": one.key, "name": "wider", "ip_allow_list": "0.0.0.0/0"}
    await holder.refused(403, "some addresses", "POST", "user_api_keys", wider)
    await holder.refused(403, "some addresses", "PUT", f"user_api_keys/{made['$key']}", {"ip_allow_list": "127.0.0.2"})


async def test_for_others_only_who_rules_over_them(served: Served, api: Api) -> None:
    _, boss = await boss_of(served, api)
    one, two = await someone(boss.api), await someone(api)
    await boss.api.post("user_api_keys", user=one.key, name=fresh("k"))
    assert {row["user"] for row in await boss.api.get("user_api_keys", fields="user")} >= {one.key, boss.key}
    await one.api.refused(404, "'user'", "POST", "user_api_keys", {"user": boss.key, "name": "k"})
    await api.made("permissions", identity=two.key, table="vms", delete=True)  # in the root, above the boss
    await boss.api.refused(403, "Denied", "POST", "user_api_keys", {"user": two.key, "name": fresh("k")})
    key = (await two.api.get("user_api_keys", fields="$key"))[0]["$key"]
    await boss.api.refused(404, "not found", "DELETE", f"user_api_keys/{key}")
    root = (await api.get("users", filter=f"name eq '{served.parts.facts['admin']['username']}'", fields="$key"))[0]
    await boss.api.refused(403, "Denied", "POST", "user_api_keys", {"user": root["$key"], "name": fresh("k")})
