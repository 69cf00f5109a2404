"""`logs` and `machine_logs`: the audit log, and what operations came to nothing (vergeos.md §2.5, §2.15).

Of both the latest are there, so many that a request can read them; those of one VM are looked for by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Resource
from polyvisor.dialects.vergeos.tables.declare import key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.identity import AuditEntry, AuditFilter
from polyvisor.model.operation import Operation, Outcome
from polyvisor.model.principal import Action

_MOST = 5000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEVELS = words("audit", "message", "warning", "error", "critical", "summary", "debug")
_REFUSED = frozenset({"Forbidden", "Unauthenticated", "Throttled"})
_TYPES: Mapping[str, str] = {
    "instance": "vm", "snapshot": "vm", "schedule": "vm", "template": "vm", "volume": "file", "image": "file",
    "task": "task", "user": "user", "session": "user", "key": "user", "grant": "permission", "pool": "permission",
    "host": "node", "project": "system",
}  # fmt: skip
_TEXTS: Mapping[str, str] = {
    "instance.create": "Created VM", "instance.update": "Changed VM", "instance.reshape": "Changed VM",
    "instance.allow": "Changed VM",
    "instance.delete": "Deleted VM", "instance.start": "Power on", "instance.stop": "Power off",
    "instance.press": "Power off (ACPI)", "instance.restart": "Guest reset", "instance.reset": "Power reset",
    "instance.suspend": "Hibernate", "snapshot.create": "Took snapshot", "snapshot.delete": "Deleted snapshot",
    "snapshot.revert": "Restored snapshot", "session.login": "Login", "session.logout": "Logout",
    "task.run": "Ran task", "row.add": "Added a row", "row.save": "Changed a row", "row.swap": "Changed rows",
    "row.remove": "Removed a row",
}  # fmt: skip
_VERBS = {"start": "Power on", "stop": "Power off", "suspend": "Hibernate", "reset": "Power reset"}


@dataclass(frozen=True)
class Line:
    """A line of a log. `machine` is the key of the VM's that it is about; `at` is in microseconds."""

    key: int
    at: int
    level: str
    text: str
    user: str
    kind: str
    name: str
    machine: int | None = None


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _level(outcome: str) -> str:
    if outcome == "ok":
        return "audit"
    if outcome in _REFUSED:
        return "warning"
    return "critical" if outcome == "Internal" else "error"


def _of_entry(entry: AuditEntry, vms: Mapping[str, tuple[int, str]]) -> Line:
    machine, name = vms.get(entry.subject, (None, "" if entry.action.startswith("row.") else entry.subject))
    said = _TEXTS.get(entry.action, entry.action.replace(".", " "))
    text = f"{said} '{name}'" if name else said
    if entry.outcome == "ok":
        text += f": {entry.detail}" if entry.detail else ""
    else:
        text += f" failed: {entry.detail or entry.outcome}"
    kind = _TYPES.get(entry.action.partition(".")[0], "other")
    return Line(entry.seq, _micros(entry.at), _level(entry.outcome), text, entry.who, kind, name, machine)


def _of_operation(operation: Operation, vms: Mapping[str, tuple[int, str]]) -> Line:
    """One that was begun and came to nothing; its time is its key, which no entry's number reaches."""
    machine, name = vms[operation.instance]
    at = _micros(operation.finished or operation.created)
    said = _VERBS.get(operation.verb, operation.verb.capitalize())
    return Line(at, at, "error", f"{said} '{name}' failed: {operation.fault}", "system", "vm", name, machine)


async def _vms(world: World) -> dict[str, tuple[int, str]]:
    return {vm.row.name: (vm.machine, vm.name) for vm in await world.live()}


async def _entries(world: World) -> Sequence[AuditEntry]:
    if not world.principal.may_somewhere(Action.AUDIT_VIEW):
        return ()
    one = world.only_one
    return await world.core.audit.list(world.principal, AuditFilter(subject=one or ""), None, _MOST)


async def _failed(world: World, vms: Mapping[str, tuple[int, str]]) -> list[Line]:
    if not world.principal.may_somewhere(Action.INSTANCE_VIEW):
        return []
    one = world.only_one
    if one is not None and one not in vms:
        return []
    found = await world.core.instances.operations(world.principal, one, _MOST)
    return [_of_operation(it, vms) for it in found if it.outcome is Outcome.FAILED and it.instance in vms]


async def _logs(world: World) -> Sequence[Line]:
    vms = await _vms(world)
    return [*(_of_entry(entry, vms) for entry in await _entries(world)), *await _failed(world, vms)]


async def _machine_logs(world: World) -> Sequence[Line]:
    return [line for line in await _logs(world) if line.machine is not None]


_COLUMNS = (
    key(),
    told("level", Kind.CHOICE, lambda line: line.level, choices=_LEVELS),
    told("text", Kind.TEXT, lambda line: line.text),
    told("timestamp", Kind.INT, lambda line: line.at),
    told("user", Kind.STRING, lambda line: line.user),
)
LOGS = Table(
    "logs",
    (
        *_COLUMNS,
        told("object_type", Kind.STRING, lambda line: line.kind),
        told("object_name", Kind.STRING, lambda line: line.name),
    ),
    display="text",
    short=("$key", "level", "text", "timestamp", "user"),
    newest=True,
)
MACHINE_LOGS = Table(
    "machine_logs",
    (*_COLUMNS, told("machine", Kind.FK, lambda line: line.machine, refers="machines")),
    display="text",
    short=("$key", "machine", "level", "text", "timestamp", "user"),
    newest=True,
)
RESOURCES = (Resource(LOGS, _logs), Resource(MACHINE_LOGS, _machine_logs, of_vm=True))
