"""`vm_imports` and `vm_import_logs`: VMs that are made of files of the catalogue (vergeos.md §2.11)."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors, importing
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, IMPORT_LOGS, IMPORTS, File, Kept
from polyvisor.dialects.vergeos.tables import drives, nics, vms
from polyvisor.dialects.vergeos.tables.declare import constant, data, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action

_STATUSES = words("initializing", "importing", "complete", "aborted", "error", "warning")
_LEVELS = words("audit", "message", "warning", "error", "critical", "summary", "debug")
_MOMENT = 0.5  # seconds that a request waits for what is done at once

TABLE = Table(
    IMPORTS,
    (
        key(lambda one: one.row.name, kind=Kind.TOKEN),
        told("id", Kind.STRING, lambda one: one.row.name),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, forbidden='"', summary=True),
        told("vm", Kind.FK, lambda one: one.data.get("vm"), refers="vms", summary=True),
        told("uuid", Kind.STRING, lambda one: one.data.get("uuid", "")),
        Column("file", Kind.FK, lambda one: one.data.get("file"), refers="files", summary=True),
        Column("volume", Kind.FK, lambda one: None, refers="volumes"),
        constant("volume_path", Kind.STRING, ""),
        Column("shared_object", Kind.FK, lambda one: None, refers="shared_objects", hidden=True),
        Column("status", Kind.CHOICE, lambda one: one.data["status"], choices=_STATUSES, read_only=True, summary=True),
        told("status_info", Kind.STRING, lambda one: one.data.get("status_info", "")),
        data("importing", Kind.BOOL),
        told("aborted", Kind.BOOL, lambda one: one.data.get("aborted", False)),
        data("preserve_macs", Kind.BOOL, True),
        data("preserve_drive_format", Kind.BOOL),
        data("preferred_tier", Kind.TIER, "1", choices=dict.fromkeys("12345", "Tier")),
        data("no_optical_drives", Kind.BOOL, hidden=True),
        data("override_drive_interface", Kind.STRING, longest=64, hidden=True),
        data("override_nic_interface", Kind.STRING, longest=64, hidden=True),
        data("cleanup_on_delete", Kind.BOOL, hidden=True),
        told("failed_drive_count", Kind.INT, lambda one: 0, hidden=True),
        told("timestamp", Kind.TIME, lambda one: one.data.get("timestamp", 0)),
        told("modified", Kind.TIME, lambda one: one.data.get("modified", 0)),
    ),
    short=("$key", "name", "status"),
)

LOGS = Table(
    IMPORT_LOGS,
    (
        key(),
        told("vm_import", Kind.FK, lambda one: one.data["vm_import"], refers=IMPORTS),
        Column("level", Kind.CHOICE, lambda one: one.data["level"], choices=_LEVELS, read_only=True),
        told("text", Kind.TEXT, lambda one: one.data["text"]),
        told("timestamp", Kind.INT, lambda one: one.data["timestamp"]),
        told("user", Kind.STRING, lambda one: one.data["user"]),
    ),
    display="text",
    short=("$key", "vm_import", "level", "text", "timestamp"),
)


async def _load(world: World) -> Sequence[Kept]:
    return await _seen(world, IMPORTS)


async def _load_logs(world: World) -> Sequence[Kept]:
    return await _seen(world, IMPORT_LOGS)


async def _seen(world: World, kind: str) -> Sequence[Kept]:
    """Those of projects that the caller sees into."""
    return [Kept(row) for row in await world.rows(kind) if world.principal.may(Action.INSTANCE_VIEW, row.project)]


async def _file(call: Call, wanted: object) -> File:
    if wanted is None:
        raise errors.required("file")
    for file in await call.world.files():
        if file.key == wanted:
            return file
    raise errors.unset("file")


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """:raise Refusal: there is no such file, or its source is one that one host has none of."""
    for elsewhere in ("volume", "shared_object"):
        if values.get(elsewhere) is not None:
            raise errors.unset(elsewhere)
    _check(values)
    file = await _file(call, values.get("file"))
    await vms.check_name(call, values["name"])
    told = {**values, "status": "initializing", "timestamp": call.now, "modified": call.now, "importing": False}
    row = Row(DIALECT, IMPORTS, secrets.token_hex(20), call.principal.project, "", json.dumps(told))
    row = (await call.core.rows.add(call.principal, [row], Action.INSTANCE_CREATE))[0]
    if values.get("importing"):
        await _begin(call, row, file)
    return Made(row.name)


def _check(values: Mapping[str, Any]) -> None:
    """Interfaces are as of drives and NICs. :raise Refusal:"""
    for field, table in (("override_drive_interface", drives.TABLE), ("override_nic_interface", nics.TABLE)):
        if values.get(field):
            table.body({"interface": values[field]}, new=False)


async def _begin(call: Call, row: Row, file: File) -> None:
    """The work starts; what fails at once has failed when the request is answered."""
    row = await importing.tell(call, row, status="importing", importing=True, aborted=False, status_info="", vm=None)
    done = call.jobs.start(importing.run(call, row, file), importing.job(row.name))
    await asyncio.wait([done], timeout=_MOMENT)


async def _start(call: Call, one: Kept, body: Mapping[str, Any]) -> object:
    async with call.locks.of(one.row.name):
        now = await _again(call, one)
        if now.data["status"] == "importing":
            raise errors.conflict("The import is running")
        if now.data["status"] == "complete":
            raise errors.conflict("The import is complete")
        await _begin(call, now.row, await _file(call, now.data.get("file")))
    return None


async def _abort(call: Call, one: Kept, body: Mapping[str, Any]) -> object:
    """When this is answered, nothing of the VM is left."""
    work = call.jobs.find(importing.job(one.row.name))
    if work is None:
        raise errors.conflict("The import is not running")
    work.cancel()
    await asyncio.wait([work])
    return None


async def _again(call: Call, one: Kept) -> Kept:
    call.world.forget()
    for found in await _load(call.world):
        if found.row.name == one.row.name:
            return found
    raise errors.missing(f"{IMPORTS}/{one.row.name}", "put")


async def _change(call: Call, one: Kept, values: dict[str, Any]) -> None:
    """Before it is started, or to start it anew."""
    async with call.locks.of(one.row.name):
        now = await _again(call, one)
        if now.data["status"] in ("importing", "complete"):
            raise errors.conflict(f"The import is {now.data['status']}")
        _check(values)
        if "file" in values:
            await _file(call, values["file"])
        row = replace(now.row, data=json.dumps({**now.data, **values, "importing": False, "modified": call.now}))
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_CREATE)
        if values.get("importing"):
            await _begin(call, row, await _file(call, {**now.data, **values}.get("file")))


async def _remove(call: Call, one: Kept) -> None:
    """With its log; the VM stays. :raise Refusal: it is running."""
    if call.jobs.find(importing.job(one.row.name)) is not None:
        raise errors.conflict("The import is running")
    lines = [line.row for line in await _load_logs(call.world) if line.data["vm_import"] == one.row.name]
    await call.core.rows.remove(call.principal, [one.row, *lines], Action.INSTANCE_CREATE)


RESOURCES = (
    Resource(TABLE, _load, _create, _change, _remove, {"import": _start, "abort": _abort}),
    Resource(LOGS, _load_logs),
)
