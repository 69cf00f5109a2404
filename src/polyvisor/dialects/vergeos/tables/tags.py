"""`tag_categories`, `tags` and `tag_members` (vergeos.md §2.15).

Categories and tags belong to the project of who made them; the root's are everybody's to use. They are made and
changed by who may alter VMs there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import groups, people, where
from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Kept
from polyvisor.dialects.vergeos.tables.declare import data, key, told
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action

_TAKEN = "This name is already in use"
_TAGGABLE = (
    "vms", "vnets", "volumes", "vnet_rules", "vmware_containers", "users", "tenant_nodes", "sites", "nodes", "groups",
    "clusters", "tenants",
)  # fmt: skip
_HERE = ("vms", "vnets", "users", "nodes", "groups", "clusters")
"""Of these, there are any here."""


def _times() -> tuple[Any, ...]:
    return (
        told("created", Kind.TIME, lambda one: one.data.get("created", 0)),
        told("modified", Kind.TIME, lambda one: one.data.get("modified", 0)),
        told("creator", Kind.STRING, lambda one: one.data.get("creator", "")),
    )


CATEGORIES = Table(
    "tag_categories",
    (
        key(),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("description", Kind.TEXT, longest=2048, summary=True),
        data("single_tag_selection", Kind.BOOL),
        *(data(f"taggable_{table}", Kind.BOOL) for table in _TAGGABLE),
        *_times(),
    ),
    short=("$key", "name"),
    children={"tags": Children("tags", "category")},
)
TAGS = Table(
    "tags",
    (
        key(),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("description", Kind.TEXT, longest=2048, summary=True),
        data("category", Kind.FK, refers="tag_categories", required=True, summary=True),
        *_times(),
    ),
    short=("$key", "name", "category"),
    children={"members": Children("tag_members", "tag")},
)
MEMBERS = Table(
    "tag_members",
    (
        key(),
        data("tag", Kind.FK, refers="tags", required=True),
        data("member", Kind.REF, refers=",".join(_TAGGABLE), required=True),
    ),
    display="tag#$display",
    short=("$key", "tag", "member"),
)


async def _seen(world: World, kind: str) -> Sequence[Kept]:
    """The root's, and those of projects in which the caller may do anything."""
    who, root = world.principal, await world.root()
    rows = await world.rows(kind)
    return [Kept(row) for row in rows if who.operator or row.project == root or who.reach.get(row.project)]


async def _categories(world: World) -> Sequence[Kept]:
    return await _seen(world, "tag_categories")


async def _tags(world: World) -> Sequence[Kept]:
    return await _seen(world, "tags")


async def _members(world: World) -> Sequence[Kept]:
    """Of tags and things that the caller sees."""
    tags, things = {one.key for one in await _tags(world)}, await _things(world)
    found = map(Kept, await world.rows("tag_members"))
    return [one for one in found if one.data["tag"] in tags and one.data["member"] in things]


async def _things(world: World) -> Mapping[str, tuple[str, ProjectId]]:
    """What can be tagged, as `vms/7`: the id of the thing that the tag goes with, and whose it is."""
    root = await world.root()
    found = {f"vms/{vm.key}": (vm.row.name, vm.project) for vm in await world.live()}
    found |= {f"vnets/{net.key}": ("", root) for net in await world.nets()}
    found |= {f"users/{one.key}": (one.user.id, root) for one in await people(world)}
    found |= {f"groups/{one.key}": ("", one.row.project) for one in await groups(world)}
    node = await world.node()
    return {**found, f"nodes/{node.key}": ("", root), f"clusters/{node.cluster}": ("", root)}


# -- categories and tags -----------------------------------------------------------------------------------------------


async def _create_category(call: Call, values: dict[str, Any]) -> Made:
    return await _add(call, "tag_categories", where(call.principal, Action.INSTANCE_ALTER), "", values)


async def _create_tag(call: Call, values: dict[str, Any]) -> Made:
    """Of a category that the caller sees, in its own project or in the category's."""
    category = await _one(await _categories(call.world), values["category"], "category")
    return await _add(
        call, "tags", where(call.principal, Action.INSTANCE_ALTER), f"{category.key}/", values
    )  # fmt: skip


async def _one(found: Sequence[Kept], key: object, field: str) -> Kept:
    for one in found:
        if one.key == key:
            return one
    raise errors.unset(field)


async def _add(call: Call, kind: str, project: ProjectId, prefix: str, values: dict[str, Any]) -> Made:
    times = {"created": call.now, "modified": call.now, "creator": call.principal.name}
    row = Row(DIALECT, kind, f"{project}/{prefix}{values['name']}", project, "", json.dumps({**values, **times}))
    try:
        return Made((await call.core.rows.add(call.principal, [row], Action.INSTANCE_ALTER))[0].key)
    except Exists as error:
        raise Refusal(422, _TAKEN) from error


async def _change(call: Call, one: Kept, values: dict[str, Any]) -> None:
    if values.get("category", one.data.get("category")) != one.data.get("category"):
        raise invalid_field("category", "cannot be changed")
    told = {**one.data, **values, "modified": call.now}
    start = one.row.name.removesuffix(one.data["name"])
    row = replace(one.row, name=f"{start}{told['name']}", data=json.dumps(told))
    try:
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_ALTER)
    except Exists as error:
        raise Refusal(422, _TAKEN) from error


async def _remove_category(call: Call, one: Kept) -> None:
    """:raise Refusal: 409, there are tags of it."""
    if any(tag.data["category"] == one.key for tag in map(Kept, await call.world.rows("tags"))):
        raise errors.conflict("The category has tags")
    await call.core.rows.remove(call.principal, [one.row], Action.INSTANCE_ALTER)


async def _remove_tag(call: Call, one: Kept) -> None:
    """From all that has it."""
    rows = [row for row in await call.world.rows("tag_members") if Kept(row).data["tag"] == one.key]
    gone = [row for row in rows if call.principal.may(Action.INSTANCE_ALTER, row.project)]
    await call.core.rows.remove(call.principal, [one.row, *gone], Action.INSTANCE_ALTER)


# -- what has them -----------------------------------------------------------------------------------------------------


async def _create_member(call: Call, values: dict[str, Any]) -> Made:
    """:raise Refusal: 409, it has the tag, or another of a category of which it may have one."""
    tag = await _one(await _tags(call.world), values["tag"], "tag")
    category = await _one(await _categories(call.world), tag.data["category"], "tag")
    member = values["member"]
    if not category.data.get(f"taggable_{member.partition('/')[0]}"):
        raise invalid_field("member", f"is nothing that {category.data['name']} is for")
    thing = (await _things(call.world)).get(member)
    if thing is None:
        raise errors.unset("member")
    subject, project = thing
    async with call.locks.of(member):
        if category.data.get("single_tag_selection"):
            await _check_single(call, category, tag, member)
        row = Row(DIALECT, "tag_members", f"{tag.key}/{member}", project, subject, json.dumps(values))
        try:
            return Made((await call.core.rows.add(call.principal, [row], Action.INSTANCE_ALTER))[0].key)
        except Exists as error:
            raise errors.taken() from error


async def _check_single(call: Call, category: Kept, tag: Kept, member: str) -> None:
    call.world.forget()
    others = {one.key for one in await _tags(call.world) if one.data["category"] == category.key} - {tag.key}
    for one in await _members(call.world):
        if one.data["member"] == member and one.data["tag"] in others:
            raise errors.conflict(f"It has another tag of {category.data['name']}, which is for one at a time")


async def _remove_member(call: Call, one: Kept) -> None:
    await call.core.rows.remove(call.principal, [one.row], Action.INSTANCE_ALTER)


RESOURCES = (
    Resource(CATEGORIES, _categories, _create_category, _change, _remove_category),
    Resource(TAGS, _tags, _create_tag, _change, _remove_tag),
    Resource(MEMBERS, _members, _create_member, None, _remove_member),
)
