"""`cloudinit_files`: what a VM's guest finds on its seed, whichever data source is named (vergeos.md §2.10)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Kept, Vm
from polyvisor.dialects.vergeos.tables.declare import data, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action
from polyvisor.model.spec import CloudInit, Reshape

KIND = "cloudinit_files"
_LARGEST = 65536
_RENDERS = words(no="No", variables="Variables", jinja2="Jinja2")


def _size(source: Kept) -> int:
    return len(str(source.data.get("contents", "")).encode())


TABLE = Table(
    KIND,
    (
        key(),
        told("id", Kind.STRING, lambda source: str(source.key)),
        data("name", Kind.STRING, required=True, shortest=1, longest=256),
        data("owner", Kind.REF, refers="vms", required=True),
        data("contents", Kind.TEXT, longest=_LARGEST, hidden=True),
        data("render", Kind.CHOICE, "no", choices=_RENDERS, aliases={"No": "no", "Variables": "variables"}),
        told("filesize", Kind.INT, _size),
        told("allocated_bytes", Kind.INT, _size),
        told("used_bytes", Kind.INT, _size),
        told("modified", Kind.TIME, lambda source: source.data.get("modified", 0)),
        told("contains_variables", Kind.BOOL, lambda source: source.data.get("render", "no") != "no"),
        told("creator", Kind.STRING, lambda source: source.data.get("creator", "")),
        Column("mode", Kind.STRING, lambda source: "", read_only=True, hidden=True),
    ),
    short=("$key", "name", "owner"),
)


async def _load(world: World) -> Sequence[Kept]:
    owners = {f"vms/{vm.key}" for vm in await world.live()}
    return [one for one in map(Kept, await world.rows(KIND)) if one.data.get("owner") in owners]


async def _owner(call: Call, reference: object) -> Vm:
    for vm in await call.world.live():
        if f"vms/{vm.key}" == reference:
            return vm
    raise errors.unset("owner")


def check_inline(given: object) -> list[dict[str, Any]]:
    """Files that a new VM comes with. :raise Refusal: they are not of that form."""
    if given in (None, "", []):
        return []
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise invalid_field("cloudinit_files", "is not a list of files")
    return [TABLE.body({**one, "owner": "vms/0"}, new=True) for one in given]


async def add(call: Call, vm: Vm, files: Sequence[dict[str, Any]]) -> list[int]:
    """Give a VM files. :raise Refusal: it has one of that name."""
    rows = [
        Row(DIALECT, KIND, f"{vm.row.name}/{_plain(one['name'])}", vm.project, vm.row.name, _told(call, vm, one))
        for one in files
    ]
    try:
        made = await call.core.rows.add(call.principal, rows, Action.INSTANCE_ALTER)
    except Exists as error:
        raise Refusal(422, "This name is already in use") from error
    await apply(call, vm)
    return [row.key for row in made]


def _told(call: Call, vm: Vm, values: Mapping[str, Any]) -> str:
    return json.dumps(
        {"contents": "", **values, "owner": f"vms/{vm.key}", "creator": call.principal.name, "modified": call.now}
    )


def _plain(name: str) -> str:
    """Clients say `/user-data`, the guides `user-data`."""
    return name.lstrip("/")


async def apply(call: Call, vm: Vm) -> None:
    """The guest's seed has these files from its next start on; no data source, no seed."""
    assert vm.instance is not None
    files = [Kept(row).data for row in await call.core.rows.of(DIALECT, [KIND], [vm.row.name])]
    if vm.kept.get("cloudinit_datasource", "none") == "none":
        files = []
    texts = tuple(sorted((_plain(str(one["name"])).replace("/", "_"), str(one["contents"])) for one in files))
    user = dict(texts).get("user-data", "")
    seed = CloudInit(user_data=user, files=tuple(one for one in texts if one[0] != "user-data"))
    if seed != vm.instance.spec.then.cloud_init:
        await call.core.shapes.reshape(call.principal, vm.instance.id, lambda _: Reshape(cloud_init=seed))


async def _create(call: Call, values: dict[str, Any]) -> Made:
    vm = await _owner(call, values["owner"])
    return Made((await add(call, vm, [values]))[0])


async def _change(call: Call, source: Kept, values: dict[str, Any]) -> None:
    if values.get("owner", source.data["owner"]) != source.data["owner"]:
        raise invalid_field("owner", "cannot be changed")
    vm = await _owner(call, source.data["owner"])
    changed = {**source.data, **values, "modified": call.now}
    row = replace(source.row, name=f"{vm.row.name}/{_plain(changed['name'])}", data=json.dumps(changed))
    try:
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_ALTER)
    except Exists as error:
        raise Refusal(422, "This name is already in use") from error
    await apply(call, vm)


async def _remove(call: Call, source: Kept) -> None:
    vm = await _owner(call, source.data["owner"])
    await call.core.rows.remove(call.principal, [source.row], Action.INSTANCE_ALTER)
    await apply(call, vm)


async def _download(call: Call, source: Kept) -> Response:
    return Response(str(source.data.get("contents", "")), media_type="text/plain")


RESOURCE = Resource(TABLE, _load, _create, _change, _remove, download=_download)
