"""`permissions` let somebody do just that, and no longer than they are there (vergeos.md §2.15)."""

from __future__ import annotations

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api
from dialect.vergeos.people import boss_of, someone

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASKED = "$key,identity,table,rowdisplay,row,list,read,create,modify,delete,identity#owner#$display as identity_display"


async def _granted(served: Served, name: str) -> set[str]:
    told = (await served.http.get("/api/v1/grants", params={"user": name})).json()["items"]
    return {action for one in told for action in one["actions"]}


async def test_a_permission_is_told_as_it_was_given(api: Api) -> None:
    one = await someone(api)
    key = await api.made("permissions", identity=one.key, table="vnets", row=0, list=True, read="true")
    assert await api.get(f"permissions/{key}", fields=ASKED) == {
        "$key": key, "identity": one.key, "table": "vnets", "rowdisplay": "", "row": 0, "list": True, "read": True,
        "create": False, "modify": False, "delete": False, "identity_display": one.name,
    }  # fmt: skip
    found = await api.get("permissions", filter=f"identity eq {one.key} and table eq 'vnets'", fields="$key")
    assert found == [{"$key": key}]


async def test_refusals_about_permissions(api: Api) -> None:
    one = await someone(api)
    vm = await api.vm()
    told = {"identity": one.key, "table": "vms", "row": vm.key, "list": True}
    await api.refused(422, "'row'", "POST", "permissions", told)
    await api.refused(404, "'identity'", "POST", "permissions", {"identity": 999_999, "table": "vms"})
    await api.refused(422, "'table'", "POST", "permissions", {"identity": one.key})
    key = await api.made("permissions", identity=one.key, table="vms", list=True)
    await api.refused(409, "exists", "POST", "permissions", {"identity": one.key, "table": "vms"})
    await api.refused(422, "'table'", "PUT", f"permissions/{key}", {"table": "files"})
    await one.api.refused(403, "Denied", "POST", "permissions", {"identity": one.key, "table": "vms", "delete": True})
    await one.api.refused(403, "Denied", "PUT", f"permissions/{key}", {"delete": True})
    await one.api.refused(403, "Denied", "DELETE", f"permissions/{key}")


async def test_of_a_group_each_member_may_just_that_and_at_once_no_more(api: Api) -> None:
    vm, one = await api.vm(), await someone(api)
    outer, inner = await api.made("groups", name=fresh("g")), await api.made("groups", name=fresh("g"))
    nested = await api.made("members", parent_group=outer, member=f"groups/{inner}")
    await api.made("members", parent_group=inner, member=f"users/{one.key}")
    assert await one.api.get("vms") == []
    key = await api.made("permissions", identity=outer, table="vms", list=True, read=True)
    assert vm.key in [row["$key"] for row in await one.api.get("vms", fields="$key")]
    await one.api.refused(403, "Denied", "PUT", f"vms/{vm.key}", {"ram": 1024})
    await one.api.refused(403, "Denied", "POST", "vms", {"name": fresh("vm"), "ram": 512})
    for action in ("poweron", "clone", "snapshot"):
        await one.api.refused(403, "Denied", "POST", "vm_actions", {"vm": vm.key, "action": action})
    assert await api.status(vm) == "stopped"
    await api.put(f"permissions/{key}", modify=True)
    await one.api.put(f"vms/{vm.key}", ram=1024)
    await one.api.refused(403, "Denied", "DELETE", f"vms/{vm.key}")
    await api.put(f"permissions/{key}", modify=False)
    await one.api.refused(403, "Denied", "PUT", f"vms/{vm.key}", {"ram": 512})
    await api.put(f"groups/{inner}", enabled=False)
    assert await one.api.get("vms") == []
    await api.put(f"groups/{inner}", enabled=True)
    assert await one.api.get("vms") != []
    await api.delete(f"members/{nested}")
    assert await one.api.get("vms") == []
    nested = await api.made("members", parent_group=outer, member=f"groups/{inner}")
    assert await one.api.get("vms") != []
    await api.delete(f"permissions/{key}")
    assert await one.api.get("vms") == []


async def test_a_group_that_goes_takes_what_it_lent(served: Served, api: Api) -> None:
    one, group = await someone(api), await api.made("groups", name=fresh("g"))
    await api.made("members", parent_group=group, member=f"users/{one.key}")
    await api.made("permissions", identity=group, table="files", list=True, delete=True)
    assert await _granted(served, one.name) == {"volume.view", "volume.delete"}
    await api.delete(f"groups/{group}")
    assert await _granted(served, one.name) == set()
    assert await api.get("permissions", filter=f"identity eq {group}") == []


async def test_what_somebody_granted_otherwise_stays(served: Served, api: Api) -> None:
    one = await someone(api)
    key = await api.made("permissions", identity=one.key, table="vms", list=True)
    grant = {"user": one.name, "project": "/", "actions": ["instance.view"]}
    assert (await served.http.post("/api/v1/grants", json=grant)).status_code == 200
    await api.delete(f"permissions/{key}")
    assert await _granted(served, one.name) == {"instance.view"}


async def test_the_slash_is_everything(api: Api) -> None:
    one, vm = await someone(api), await api.vm()
    verbs = dict.fromkeys(("list", "read", "create", "modify", "delete"), True)
    await api.made("permissions", identity=one.key, table="/", **verbs)
    await one.api.delete(f"vms/{vm.key}")
    other = await someone(one.api)  # who may everything makes users, and keys for them
    assert await other.api.get("vms") == []


async def test_nobody_gives_what_he_does_not_hold(served: Served, api: Api) -> None:
    _, boss = await boss_of(served, api, "instance.view", "user.*", "grant.*")
    one = await boss.api.made("users", name=fresh("u"), password="x")
    await boss.api.refused(403, "hold", "POST", "permissions", {"identity": one, "table": "vms", "delete": True})
    key = await boss.api.made("permissions", identity=one, table="vms", list=True)
    await boss.api.refused(403, "hold", "PUT", f"permissions/{key}", {"create": True})
    group = await api.made("groups", name=fresh("g"))  # the root's
    await api.made("permissions", identity=group, table="vms", list=True)
    told = {"parent_group": group, "member": f"users/{boss.key}"}
    await boss.api.refused(404, "'parent_group'", "POST", "members", told)
    assert await _granted(served, boss.name) >= {"instance.view"}
    await boss.api.delete(f"permissions/{key}")


async def test_a_permission_counts_where_it_was_given(served: Served, api: Api, stranger: Api) -> None:
    _, boss = await boss_of(served, api)
    theirs, ours = await boss.api.vm(), await api.vm()
    one = await someone(boss.api)
    key = await boss.api.made("permissions", identity=one.key, table="vms", list=True, read=True)
    assert [row["$key"] for row in await one.api.get("vms", fields="$key")] == [theirs.key]
    assert (await one.api.ask("GET", f"vms/{ours.key}")).status_code == 404
    assert key not in [row["$key"] for row in await stranger.get("permissions", fields="$key")]
    await stranger.refused(404, "not found", "DELETE", f"permissions/{key}")
    group = await boss.api.made("groups", name=fresh("g"))
    await api.refused(422, "another project", "POST", "permissions", {"identity": group, "table": "vms", "list": True})
