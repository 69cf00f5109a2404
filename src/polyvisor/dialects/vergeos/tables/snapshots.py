"""`machine_snapshots`: what VMs were, kept until it expires (vergeos.md §2.9, §3.4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import copying, errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Snap, Vm
from polyvisor.dialects.vergeos.tables.declare import kept, key, told, words
from polyvisor.dialects.vergeos.tables.drives import vm_of
from polyvisor.dialects.vergeos.tables.vms import TAKEN, copies_of
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action

KIND = "machine_snapshots"
_USUAL = 72 * 3600  # seconds that one is kept of which nobody says how long (vergeos.md §0, fact 18)
JOB = "snapshot"
"""How the jobs that make one are called, each with the key of its row."""
_PATIENCE = 20.0  # seconds that a request waits for disks to be copied


TABLE = Table(
    KIND,
    (
        key(lambda snap: snap.row.key),
        Column("machine", Kind.FK, lambda snap: snap.source_machine, refers="machines", required=True, summary=True),
        told("snap_machine", Kind.FK, lambda snap: snap.machine, refers="machines", summary=True),
        Column("name", Kind.STRING, lambda snap: snap.name, required=True, shortest=1, longest=128, summary=True),
        kept("description", Kind.TEXT, longest=2048),
        told("created", Kind.TIME, lambda snap: snap.created, summary=True),
        Column("expires", Kind.TIME, lambda snap: snap.kept.get("expires", 0), low=0, summary=True),
        kept("expires_type", Kind.CHOICE, "date", choices=words("never", "date")),
        kept("created_manually", Kind.BOOL, True),
        Column("quiesce", Kind.BOOL, lambda snap: snap.kept.get("quiesced", False), default=False),
        told("quiesced", Kind.BOOL, lambda snap: snap.kept.get("quiesced", False)),
        told("queue_delete", Kind.BOOL, lambda snap: False),
        told("snapshot_period", Kind.FK, lambda snap: snap.kept.get("period"), refers="snapshot_profile_periods"),
        told("expires_timer", Kind.INT, lambda snap: 0, hidden=True),
        told("state", Kind.STRING, lambda snap: snap.kept.get("state", "ready"), hidden=True),
    ),
    short=("$key", "name", "machine", "snap_machine", "created", "expires"),
)


def job_of(row: Row) -> str:
    """How the job is called that makes it."""
    return f"{JOB} {row.key}"


async def _load(world: World) -> Sequence[Snap]:
    return await world.snaps()


async def _create(call: Call, values: dict[str, Any]) -> Made:
    vm = await vm_of(call, values["machine"])
    return Made((await take(call, vm, values)).key)


async def take(call: Call, vm: Vm, values: dict[str, Any]) -> Row:
    """A snapshot, listed at once; where disks take long to be copied the answer comes before that is done."""
    for snap in await call.world.snaps():
        if snap.source_machine == vm.machine and snap.name == values["name"]:
            raise Refusal(422, TAKEN)
    expires = values.get("expires")
    if expires is None:
        expires = 0 if values.get("expires_type") == "never" else call.now + _USUAL
    told = {
        "name": values["name"], "description": values.get("description", ""), "created": call.now, "expires": expires,
        "expires_type": "date" if expires else "never", "created_manually": values.get("created_manually", True),
        "quiesced": False, "state": "creating", **({"period": values["period"]} if values.get("period") else {}),
    }  # fmt: skip
    name = f"{vm.row.name}/{values['name']}"
    try:
        row = (await call.core.rows.add(
            call.principal, [Row(DIALECT, KIND, name, vm.project, vm.row.name, json.dumps(told))],
            Action.INSTANCE_OPERATE,
        ))[0]  # fmt: skip
    except Exists as error:
        raise Refusal(422, TAKEN) from error
    call.world.forget()
    _note(call, "snapshot.create", row, values["name"])
    done = call.jobs.start(copying.take(call, vm, row), job_of(row))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await asyncio.shield(done)
    return row


def _note(call: Call, action: str, row: Row, name: str) -> None:
    """In the log of the VM: the engine's own entries are about what a snapshot is made of."""
    principal = call.principal
    call.core.audit.note(
        principal.name, principal.source, action, project=row.project, subject=row.subject, detail=name
    )  # fmt: skip


async def _change(call: Call, snap: Snap, values: dict[str, Any]) -> None:
    if values.get("name", snap.name) != snap.name:
        raise Refusal(422, "field 'name' is readonly")
    allowed = {name: values[name] for name in ("description", "expires", "expires_type") if name in values}
    if allowed.get("expires_type") == "never":
        allowed["expires"] = 0
    row = replace(snap.row, data=json.dumps({**snap.kept, **allowed}))
    await call.core.rows.save(call.principal, [row], Action.INSTANCE_OPERATE)


async def _remove(call: Call, snap: Snap) -> None:
    await remove(call, snap)


async def remove(call: Call, snap: Snap) -> None:
    """With what it keeps. :raise Refusal: it is being made."""
    if snap.kept.get("state") == "creating":
        raise errors.conflict("The snapshot is being made")
    engine = snap.engine.id if snap.engine is not None else ""
    if engine:
        await call.core.snapshots.delete(call.principal, engine)
    with contextlib.suppress(NotFound):  # an engine's own has taken its row along
        await call.core.rows.remove(call.principal, [snap.row], Action.SNAPSHOT_DELETE)
    hidden = {f"snap/{snap.row.name}"}
    for kind in ("vms", "machines"):
        gone = [row for row in await call.core.rows.of(DIALECT, [kind]) if row.name in hidden]
        await call.core.rows.remove(call.principal, gone, Action.SNAPSHOT_DELETE)
    for id in copies_of(snap.kept):
        with contextlib.suppress(NotFound):
            await call.core.volumes.delete(call.principal, id)
    _note(call, "snapshot.delete", snap.row, snap.name)


RESOURCES = (Resource(TABLE, _load, _create, _change, _remove, of_vm=True),)
