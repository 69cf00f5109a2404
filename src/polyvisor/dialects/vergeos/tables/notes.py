"""`vm_favorites` and `note_actions`: what people remember of VMs (vergeos.md §2.15)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import myself, people
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import not_in_list
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource, nothing
from polyvisor.dialects.vergeos.sources import DIALECT, Kept
from polyvisor.dialects.vergeos.tables import vms
from polyvisor.dialects.vergeos.tables.declare import data, key
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action

FAVORITES = Table(
    "vm_favorites",
    (key(), data("vm", Kind.FK, refers="vms", required=True), data("user", Kind.FK, refers="users", required=True)),
    display="vm#$display",
    short=("$key", "vm", "user"),
)
NOTES = Table(
    "note_actions",
    (
        key(lambda source: 0),
        Column("owner", Kind.REF, lambda source: None, refers="vms", required=True),
        Column("action", Kind.STRING, lambda source: None, required=True, longest=64),
        Column("params", Kind.JSON, lambda source: None),
    ),
)


async def _users(world: World) -> set[int]:
    """Whose favourites the caller may see and set: its own; an operator everybody's."""
    if world.principal.operator:
        return {one.key for one in await people(world)}
    mine = await myself(world)
    return set() if mine is None else {mine}


async def _favorites(world: World) -> Sequence[Kept]:
    vms_here, users = {vm.key for vm in await world.live()}, await _users(world)
    found = map(Kept, await world.rows("vm_favorites"))
    return [one for one in found if one.data["vm"] in vms_here and one.data["user"] in users]


async def _add(call: Call, values: dict[str, Any]) -> Made:
    """:raise Refusal: 409, it is one already."""
    vm = next((one for one in await call.world.live() if one.key == values["vm"]), None)
    if vm is None:
        raise errors.unset("vm")
    if values["user"] not in await _users(call.world):
        raise errors.unset("user")
    name = f"{values['user']}/{vm.row.name}"
    row = Row(DIALECT, "vm_favorites", name, vm.project, vm.row.name, json.dumps(values))
    try:
        return Made((await call.core.rows.add(call.principal, [row], Action.INSTANCE_VIEW))[0].key)
    except Exists as error:
        raise errors.taken() from error


async def _remove(call: Call, one: Kept) -> None:
    await call.core.rows.remove(call.principal, [one.row], Action.INSTANCE_VIEW)


async def _note(call: Call, values: dict[str, Any]) -> Made:
    """A VM's note is another, or none any more."""
    if values["action"] not in ("create", "update", "delete"):
        raise not_in_list("action", values["action"])
    vm = next((one for one in await call.world.live() if f"vms/{one.key}" == values["owner"]), None)
    if vm is None:
        raise errors.unset("owner")
    params = values.get("params")
    text = params.get("text") if isinstance(params, Mapping) else None
    if values["action"] != "delete" and text is None:
        raise errors.required("Text")
    told = {"note": "" if values["action"] == "delete" else text}
    assert vms.RESOURCE.change is not None
    await vms.RESOURCE.change(call, vm, vms.TABLE.body(told, new=False))
    return Made(None)


RESOURCES = (Resource(FAVORITES, _favorites, _add, None, _remove), Resource(NOTES, nothing, _note))
