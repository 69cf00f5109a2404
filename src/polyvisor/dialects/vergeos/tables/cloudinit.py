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
from polyvisor.model.faults import Exists, Invalid
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action
from polyvisor.model.spec import CloudInit, Reshape, check_seed

KIND = "cloudinit_files"
_LARGEST = 65536
_TAKEN = "This name is already in use"
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
    files = [TABLE.body({**one, "owner": "vms/0"}, new=True) for one in given]
    _seed(files)
    return files


async def add(call: Call, vm: Vm, files: Sequence[dict[str, Any]]) -> list[int]:
    """Give a VM files. :raise Refusal: it has one of that name, or a seed cannot have it; nothing has changed."""
    told = [_told(call, vm, one) for one in files]
    rows = [Row(DIALECT, KIND, _name(vm, one), vm.project, vm.row.name, json.dumps(one)) for one in told]
    await apply(call, vm, [*await _files(call, vm), *told])
    try:
        made = await call.core.rows.add(call.principal, rows, Action.INSTANCE_ALTER)
    except Exists as error:
        raise Refusal(422, _TAKEN) from error
    return [row.key for row in made]


def _told(call: Call, vm: Vm, values: Mapping[str, Any]) -> dict[str, Any]:
    return {"contents": "", **values, "owner": f"vms/{vm.key}", "creator": call.principal.name, "modified": call.now}


def _plain(told: Mapping[str, Any]) -> str:
    """A file's name. Clients say `/user-data`, the guides `user-data`."""
    return str(told["name"]).lstrip("/")


def _name(vm: Vm, told: Mapping[str, Any]) -> str:
    return f"{vm.row.name}/{_plain(told)}"


async def _files(call: Call, vm: Vm, without: str = "") -> list[Mapping[str, Any]]:
    """What it has, but for the row of that name."""
    rows = await call.core.rows.of(DIALECT, [KIND], [vm.row.name])
    return [Kept(row).data for row in rows if row.name != without]


def _seed(files: Sequence[Mapping[str, Any]]) -> CloudInit:
    """:raise Refusal: 422, a seed cannot have these."""
    if len({_plain(one) for one in files}) < len(files):
        raise Refusal(422, _TAKEN)
    texts = sorted((_plain(one).replace("/", "_"), str(one.get("contents") or "")) for one in files)
    others = tuple(one for one in texts if one[0] != "user-data")
    seed = CloudInit(user_data=dict(texts).get("user-data", ""), files=others)
    try:
        check_seed(seed)
    except Invalid as error:
        raise invalid_field("name", error.public.removeprefix("cloud_init: ")) from error
    return seed


async def apply(call: Call, vm: Vm, files: Sequence[Mapping[str, Any]] | None = None) -> None:
    """The guest's seed has these files, or those that the VM has, from its next start on; no data source, no seed."""
    assert vm.instance is not None
    seed = _seed(await _files(call, vm) if files is None else files)
    if vm.kept.get("cloudinit_datasource", "none") == "none":
        seed = CloudInit()
    if seed != vm.instance.spec.then.cloud_init:
        await call.core.shapes.reshape(call.principal, vm.instance.id, lambda _: Reshape(cloud_init=seed))


async def _create(call: Call, values: dict[str, Any]) -> Made:
    vm = await _owner(call, values["owner"])
    async with call.locks.of(f"{KIND}/{vm.row.name}"):
        call.world.forget()
        return Made((await add(call, await _owner(call, values["owner"]), [values]))[0])


async def _change(call: Call, source: Kept, values: dict[str, Any]) -> None:
    if values.get("owner", source.data["owner"]) != source.data["owner"]:
        raise invalid_field("owner", "cannot be changed")
    async with call.locks.of(f"{KIND}/{source.row.subject}"):
        call.world.forget()
        vm = await _owner(call, source.data["owner"])
        changed = {**source.data, **values, "modified": call.now}
        await apply(call, vm, [*await _files(call, vm, source.row.name), changed])
        row = replace(source.row, name=_name(vm, changed), data=json.dumps(changed))
        try:
            await call.core.rows.save(call.principal, [row], Action.INSTANCE_ALTER)
        except Exists as error:
            raise Refusal(422, _TAKEN) from error


async def _remove(call: Call, source: Kept) -> None:
    async with call.locks.of(f"{KIND}/{source.row.subject}"):
        call.world.forget()
        vm = await _owner(call, source.data["owner"])
        await apply(call, vm, await _files(call, vm, source.row.name))
        await call.core.rows.remove(call.principal, [source.row], Action.INSTANCE_ALTER)


async def _download(call: Call, source: Kept) -> Response:
    return Response(str(source.data.get("contents", "")), media_type="text/plain")


RESOURCE = Resource(TABLE, _load, _create, _change, _remove, download=_download)
