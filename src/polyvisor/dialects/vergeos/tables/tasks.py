"""`tasks`: what is done to VMs when its time has come, and what might have started one (vergeos.md §2.15)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import people
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field, read_only
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource, nothing
from polyvisor.dialects.vergeos.sources import DIALECT, Vm, seconds
from polyvisor.dialects.vergeos.tables.declare import constant, key, told
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.foreign import Row
from polyvisor.model.task import Deed, Outcome, Task

KIND = "tasks"
WORDS: Mapping[Deed, str] = {
    Deed.START: "poweron", Deed.STOP: "poweroff", Deed.FORCE_STOP: "kill", Deed.RESET: "reset",
    Deed.RESTART: "guestreset", Deed.SUSPEND: "hibernate", Deed.SNAPSHOT: "snapshot",
}  # fmt: skip
"""What a deed is called here, and done by in `vm_actions`."""
_DEEDS = {word: deed for deed, word in WORDS.items()}
_ACTIONS = {
    "poweron": "Power On", "poweroff": "Power Off", "kill": "Kill Power", "reset": "Reset",
    "guestreset": "Guest Reset", "hibernate": "Hibernate", "snapshot": "Take Snapshot",
}  # fmt: skip
_STATES = {"idle": "Idle", "running": "Running", "error": "Error"}
_FAILED = frozenset({Outcome.FAILED, Outcome.MISSED, Outcome.INTERRUPTED})


@dataclass(frozen=True)
class Listed:
    """A task, with the number it has here, the VM that it is for, and the key of its owner where that may be seen."""

    row: Row
    task: Task
    vm: Vm
    creator: int | None = None

    @property
    def key(self) -> int:
        """Its key."""
        return self.row.key

    @property
    def status(self) -> str:
        """What it is doing, or what became of its last run."""
        last = self.task.last
        if last is None or last.outcome is Outcome.DONE:
            return "idle"
        return "error" if last.outcome in _FAILED else "running"


def _id(listed: Listed) -> str:
    return hashlib.sha1(listed.task.id.encode(), usedforsecurity=False).hexdigest()


def _why(listed: Listed) -> str:
    return listed.task.last.detail if listed.task.last is not None else ""


TABLE = Table(
    KIND,
    (
        key(),
        Column("name", Kind.STRING, lambda one: one.task.name, required=True, shortest=1, longest=128, summary=True),
        Column("description", Kind.TEXT, lambda one: one.task.description, longest=2048),
        Column("enabled", Kind.BOOL, lambda one: one.task.enabled, default=True, summary=True),
        told("status", Kind.CHOICE, lambda one: one.status, choices=_STATES, summary=True),
        told("status_info", Kind.STRING, _why),
        told("progress", Kind.INT, lambda one: 0 if one.status == "running" else 100),
        Column("action", Kind.CHOICE, lambda one: WORDS[one.task.deed], choices=_ACTIONS, required=True, summary=True),
        told("action_display", Kind.STRING, lambda one: _ACTIONS[WORDS[one.task.deed]]),
        constant("table", Kind.STRING, "vms"),
        Column("owner", Kind.REF, lambda one: f"vms/{one.vm.key}", refers="vms", required=True),
        told("creator", Kind.FK, lambda one: one.creator, refers="users"),
        told("creator_name", Kind.STRING, lambda one: one.task.owner.name, hidden=True),
        told("last_run", Kind.TIME, lambda one: seconds(one.task.last.began if one.task.last else None)),
        told("next_run", Kind.TIME, lambda one: seconds(one.task.next_run)),
        Column("delete_after_run", Kind.BOOL, lambda one: one.task.once, default=False),
        constant("system_created", Kind.BOOL, False),
        told("id", Kind.STRING, _id),
        Column("settings_args", Kind.JSON, lambda one: json.loads(one.task.settings)),
    ),
    short=("$key", "name", "enabled", "status"),
    children={
        "triggers": Children("task_schedule_triggers", "task"),
        "events": Children("task_events", "task"),
    },
)  # fmt: skip


async def listed(world: World) -> Sequence[Listed]:
    """Those of VMs that the caller sees, whoever made them."""
    vms = {vm.row.name: vm for vm in await world.live()}
    found = [task for task in await world.core.tasks.list(world.principal) if task.instance in vms]
    known = await world.named(KIND)
    await world.ensure(
        [Row(DIALECT, KIND, task.id, task.project, task.instance) for task in found if task.id not in known]
    )
    known = await world.named(KIND)
    creators = {person.user.id: person.key for person in await people(world)}
    return [
        Listed(known[task.id], task, vms[task.instance], creators.get(task.owner.user) if task.owner.user else None)
        for task in found
        if task.id in known
    ]


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """A task without a time: triggers give it some."""
    vm = next((one for one in await call.world.live() if f"vms/{one.key}" == values["owner"]), None)
    if vm is None:
        raise errors.unset("owner")
    task = await call.core.tasks.create(
        call.principal, vm.row.name, values["name"], _DEEDS[values["action"]], enabled=values.get("enabled", True),
        once=values.get("delete_after_run", False), description=values.get("description", ""), hand=DIALECT,
        settings=_settings(values),
    )  # fmt: skip
    call.world.forget()
    return Made(next(one.key for one in await listed(call.world) if one.task.id == task.id))


def _settings(values: dict[str, Any]) -> str:
    given = values.get("settings_args")
    if given is not None and not isinstance(given, dict):
        raise invalid_field("settings_args", "is not an object")
    return json.dumps(given or {})


async def _change(call: Call, one: Listed, values: dict[str, Any]) -> None:
    for name, now in (("owner", f"vms/{one.vm.key}"), ("action", WORDS[one.task.deed])):
        if values.get(name, now) != now:
            raise read_only(name)
    await call.core.tasks.update(
        call.principal, one.task.id, name=values.get("name"), description=values.get("description"),
        enabled=values.get("enabled"), once=values.get("delete_after_run"),
        settings=_settings(values) if "settings_args" in values else None,
    )  # fmt: skip


async def _remove(call: Call, one: Listed) -> None:
    await call.core.tasks.remove(call.principal, one.task.id)


async def execute(call: Call, one: Listed, body: Mapping[str, Any]) -> None:
    """Now, whether it is enabled or not."""
    await call.core.tasks.run(call.principal, one.task.id)


async def _enable(call: Call, one: Listed, body: Mapping[str, Any]) -> None:
    await call.core.tasks.update(call.principal, one.task.id, enabled=True)


async def _disable(call: Call, one: Listed, body: Mapping[str, Any]) -> None:
    await call.core.tasks.update(call.principal, one.task.id, enabled=False)


async def _cancel(call: Call, one: Listed, body: Mapping[str, Any]) -> None:
    """What an action has begun cannot be taken back."""
    if one.status == "running":
        raise Refusal(409, "The task has begun and cannot be cancelled")


EVENTS = Table(
    "task_events",
    (
        key(lambda source: 0),
        constant("owner", Kind.REF, None, refers="vms"),
        constant("table", Kind.STRING, ""),
        constant("event", Kind.STRING, ""),
        constant("event_name", Kind.STRING, ""),
        constant("task", Kind.FK, None, refers=KIND),
        constant("table_event_filters", Kind.JSON, {}),
        constant("trigger", Kind.INT, 0),
        constant("context", Kind.JSON, {}),
    ),
    display="event_name",
)
SCRIPTS = Table(
    "task_scripts",
    (
        key(lambda source: 0),
        constant("name", Kind.STRING, ""),
        constant("description", Kind.TEXT, ""),
        constant("script", Kind.TEXT, ""),
        constant("task_settings", Kind.JSON, {}),
    ),
    children={"tasks": Children(KIND, "owner")},
)
RESOURCES = (
    Resource(
        TABLE, listed, _create, _change, _remove,
        {"execute": execute, "enable": _enable, "disable": _disable, "cancel": _cancel},
    ),
    Resource(EVENTS, nothing),  # nothing but time starts a task
    Resource(SCRIPTS, nothing),  # there is no language of scripts
)  # fmt: skip
