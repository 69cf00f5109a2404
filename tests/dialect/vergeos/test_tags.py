"""Tags, favourites and notes (vergeos.md §2.15)."""

from __future__ import annotations

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api
from dialect.vergeos.people import boss_of, someone

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _category(api: Api, **more: object) -> int:
    return await api.made("tag_categories", name=fresh("cat"), **{"taggable_vms": True, **more})


async def test_a_vm_has_tags_until_it_goes(api: Api) -> None:
    category, vm = await _category(api), await api.vm()
    name = fresh("tag")
    tag = await api.made("tags", name=name, category=category, description="d")
    key = await api.made("tag_members", tag=tag, member=f"vms/{vm.key}")
    fields = "$key,tag,tag#name as tag_name,tag#category#name as category_name"
    told = await api.get("tag_members", filter=f"member eq 'vms/{vm.key}'", fields=fields)
    shown = await api.get(f"tag_categories/{category}", fields="name")
    assert told == [{"$key": key, "tag": tag, "tag_name": name, "category_name": shown["name"]}]
    assert await api.get("tag_members", filter=f"tag eq {tag}", fields="member") == [{"member": f"vms/{vm.key}"}]
    await api.refused(409, "exists", "POST", "tag_members", {"tag": tag, "member": f"vms/{vm.key}"})
    await api.delete(f"tag_members/{key}")
    assert await api.get("tag_members", filter=f"tag eq {tag}") == []
    await api.made("tag_members", tag=tag, member=f"/v4/vms/{vm.key}")
    await api.delete(f"vms/{vm.key}")
    assert await api.get("tag_members", filter=f"tag eq {tag}") == []


async def test_categories_and_tags_are_made_altered_and_removed(api: Api) -> None:
    category = await _category(api, description="d", single_tag_selection="true")
    row = await api.get(f"tag_categories/{category}", fields="all")
    assert (row["description"], row["single_tag_selection"], row["taggable_vms"]) == ("d", True, True)
    assert (row["taggable_nodes"], row["created"] > 0) == (False, True)
    await api.put(f"tag_categories/{category}", taggable_nodes=True)
    assert (await api.get(f"tag_categories/{category}", fields="taggable_nodes")) == {"taggable_nodes": True}
    tag = await api.made("tags", name="a", category=category)
    await api.put(f"tags/{tag}", description="new", name="b")
    told = await api.get(f"tags/{tag}", fields="name,description,category#name as category_name")
    assert told == {"name": "b", "description": "new", "category_name": row["name"]}
    await api.made("tags", name="a", category=category)  # the name is free again
    await api.refused(409, "has tags", "DELETE", f"tag_categories/{category}")
    for one in await api.get("tags", filter=f"category eq {category}", fields="$key"):
        await api.delete(f"tags/{one['$key']}")
    await api.delete(f"tag_categories/{category}")
    assert (await api.ask("GET", f"tag_categories/{category}")).status_code == 404


async def test_refusals_about_tags(api: Api) -> None:
    category, vm = await _category(api, single_tag_selection=True), await api.vm()
    one, two = [await api.made("tags", name=fresh("t"), category=category) for _ in range(2)]
    name = (await api.get(f"tags/{one}", fields="name"))["name"]
    await api.refused(422, "already in use", "POST", "tags", {"name": name, "category": category})
    await api.refused(404, "'category'", "POST", "tags", {"name": fresh("t"), "category": 999_999})
    await api.refused(422, "'category'", "PUT", f"tags/{one}", {"category": 1})
    await api.made("tag_members", tag=one, member=f"vms/{vm.key}")
    await api.refused(409, "one at a time", "POST", "tag_members", {"tag": two, "member": f"vms/{vm.key}"})
    await api.refused(404, "'member'", "POST", "tag_members", {"tag": two, "member": "vms/999999"})
    await api.refused(422, "'member'", "POST", "tag_members", {"tag": two, "member": "nodes/1"})
    await api.refused(422, "'member'", "POST", "tag_members", {"tag": two, "member": "files/1"})
    await api.refused(404, "'tag'", "POST", "tag_members", {"tag": 999_999, "member": f"vms/{vm.key}"})


async def test_not_only_vms_have_tags(api: Api) -> None:
    category = await _category(api, taggable_users=True, taggable_nodes=True, taggable_groups=True)
    tag, one = await api.made("tags", name=fresh("t"), category=category), await someone(api)
    node = (await api.get("nodes", fields="$key"))[0]["$key"]
    group = await api.made("groups", name=fresh("g"))
    things = [f"users/{one.key}", f"nodes/{node}", f"groups/{group}"]
    for thing in things:
        await api.made("tag_members", tag=tag, member=thing)
    found = await api.get("tag_members", filter=f"tag eq {tag}", fields="member,member#$display as shown")
    assert [row["member"] for row in found] == things
    assert found[0]["shown"] == one.name
    await api.delete(f"users/{one.key}")
    await api.delete(f"groups/{group}")
    assert [row["member"] for row in await api.get("tag_members", filter=f"tag eq {tag}", fields="member")] == [
        f"nodes/{node}"
    ]


async def test_tags_of_another_project_are_not_shown(served: Served, api: Api, stranger: Api) -> None:
    _, boss = await boss_of(served, api)
    everybodys, theirs = await _category(api), await _category(boss.api)
    assert everybodys in [row["$key"] for row in await stranger.get("tag_categories", fields="$key")]
    assert theirs not in [row["$key"] for row in await stranger.get("tag_categories", fields="$key")]
    await stranger.refused(404, "'category'", "POST", "tags", {"name": fresh("t"), "category": theirs})
    await boss.api.refused(403, "Denied", "PUT", f"tag_categories/{everybodys}", {"description": "mine"})
    tag, vm = await boss.api.made("tags", name=fresh("t"), category=everybodys), await boss.api.vm()
    await boss.api.made("tag_members", tag=tag, member=f"vms/{vm.key}")
    assert await stranger.get("tag_members", filter=f"tag eq {tag}") == []
    reader = await someone(api)
    await api.made("permissions", identity=reader.key, table="vms", list=True)
    told = {"tag": tag, "member": f"vms/{vm.key}"}
    await stranger.refused(404, "'tag'", "POST", "tag_members", told)
    await reader.api.refused(403, "Denied", "POST", "tag_members", told)


async def test_favourites_are_ones_own(api: Api) -> None:
    vm, one = await api.vm(), await someone(api)
    await one.api.refused(404, "'vm'", "POST", "vm_favorites", {"vm": vm.key, "user": one.key})
    await api.made("permissions", identity=one.key, table="vms", list=True)
    key = await one.api.made("vm_favorites", vm=vm.key, user=one.key)
    about = f"vm eq {vm.key} and user eq {one.key}"
    assert [row["$key"] for row in await one.api.get("vm_favorites", filter=about)] == [key]
    await one.api.refused(409, "exists", "POST", "vm_favorites", {"vm": vm.key, "user": one.key})
    two = await someone(api)
    await api.made("permissions", identity=two.key, table="vms", list=True)
    assert await two.api.get("vm_favorites", filter=about) == []
    await two.api.refused(404, "'user'", "POST", "vm_favorites", {"vm": vm.key, "user": one.key})
    await two.api.refused(404, "not found", "DELETE", f"vm_favorites/{key}")
    await one.api.delete(f"vm_favorites/{key}")
    await one.api.made("vm_favorites", vm=vm.key, user=one.key)
    await api.delete(f"vms/{vm.key}")
    assert await api.get("vm_favorites", filter=about) == []


async def test_a_note_is_written_and_wiped(api: Api, stranger: Api) -> None:
    vm = await api.vm()
    note = {"owner": f"vms/{vm.key}", "action": "update", "params": {"text": "a note"}}
    await api.ask("POST", "note_actions", note)
    assert (await api.get(f"vms/{vm.key}", fields="note")) == {"note": "a note"}
    await stranger.refused(404, "'owner'", "POST", "note_actions", note)
    await api.refused(422, "Text", "POST", "note_actions", {**note, "params": {}})
    await api.refused(422, "'note'", "POST", "note_actions", {**note, "params": {"text": "x" * 2000}})
    await api.refused(422, "'action'", "POST", "note_actions", {**note, "action": "burn"})
    await api.ask("POST", "note_actions", {"owner": f"vms/{vm.key}", "action": "delete"})
    assert (await api.get(f"vms/{vm.key}", fields="note")) == {"note": ""}
