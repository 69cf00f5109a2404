"""What this dialect keeps: a row for each session, and one for each VM that outlives it.

Both are found by what they are about, which is nobody's id: they stay when an instance goes. What there is no row of
was made by another API, and has the record that follows from the instance itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from polyvisor.dialects.instavm import names
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT, VM
from polyvisor.model.faults import NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, VaultId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action

SESSION = "session"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the VMs of a session are to be; sizes and seconds None: as usual. `lifetime` 0: no end."""

    lifetime: int | None = None
    memory_mb: int | None = None
    vcpus: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    variant: str | None = None
    suspend: bool = False
    resume: bool = False
    snapshot: bool = False
    snapshot_name: str = ""
    egress: Mapping[str, Any] | None = None
    vaults: tuple[str, ...] = ()

    @property
    def bound(self) -> tuple[VaultId, ...]:
        """The vaults, for a new VM."""
        return tuple(VaultId(one) for one in self.vaults)


@dataclass(frozen=True, slots=True)
class Session:
    """A session. `instance` is its VM's, or was its last one's; `key` 0: there is no row of it."""

    id: str
    project: ProjectId
    created: datetime
    wishes: Wishes = Wishes()
    instance: str = ""
    key: int = 0

    def row(self) -> Row:
        """As it is kept."""
        data = {"created": self.created.isoformat(), "wishes": asdict(self.wishes), "instance": self.instance}
        return Row(DIALECT, SESSION, self.id, self.project, self.id, json.dumps(data), self.key)


@dataclass(frozen=True, slots=True)
class Record:
    """A VM of an instance. `incarnation` counts its names; `env`: it was given variables; `staged`: further ones may be
    in its memory; `ended` is when it was seen to be gone."""

    instance: str
    project: ProjectId
    session: str
    created: datetime
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lifetime: int = 0
    resume: bool = False
    snapshot: str = ""
    variant: str | None = None
    env: bool = False
    staged: bool = False
    incarnation: int = 1
    ended: datetime | None = None
    key: int = 0

    @property
    def vm_id(self) -> str:
        """What it is called now."""
        return names.vm_id(self.instance, self.incarnation)

    def row(self) -> Row:
        """As it is kept."""
        told = {name: value for name, value in asdict(self).items() if name not in ("project", "key")}
        told |= {"created": self.created.isoformat(), "ended": self.ended and self.ended.isoformat()}
        first = names.vm_id(self.instance, 1)
        return Row(DIALECT, VM, first, self.project, first, json.dumps(told), self.key)


def _session(row: Row) -> Session:
    data = json.loads(row.data)
    wishes = Wishes(**data["wishes"])
    wishes = replace(wishes, vaults=tuple(wishes.vaults))
    return Session(row.name, row.project, datetime.fromisoformat(data["created"]), wishes, data["instance"], row.key)


def _record(row: Row) -> Record:
    data = json.loads(row.data)
    data = {"staged": True} | data  # of an older version: nobody knows
    data |= {"created": datetime.fromisoformat(data["created"]), "project": row.project, "key": row.key}
    return Record(**data | {"ended": datetime.fromisoformat(data["ended"]) if data["ended"] else None})


def unwritten(instance: Instance) -> Record:
    """Of a VM that another API made. It may be a copy of one of ours."""
    return Record(
        instance.id, instance.project, names.session_of(instance.id), instance.created, dict(instance.spec.labels),
        staged=True,
    )  # fmt: skip


# -- reading -----------------------------------------------------------------------------------------------------------


async def find_session(call: Call, id: str, action: Action = Action.INSTANCE_VIEW) -> Session:
    """:raise NotFound: there is none, or it is another tenant's."""
    missing = NotFound(f"Session {id[:80]} not found", subject=id[:80])
    if not names.is_session(id):
        raise missing
    for row in await call.core.rows.of(DIALECT, [SESSION], [id]):
        if call.principal.may(action, row.project):
            return _session(row)
        raise missing
    try:
        instance = await call.core.instances.get(call.principal, names.instance_in(id), action)
    except NotFound as fault:
        raise missing from fault
    record = await record_of(call, instance)
    if record.session != id:
        raise missing
    return Session(id, instance.project, instance.created, Wishes(), instance.id)


async def as_written(call: Call, session: Session) -> Session:
    """A session as its row has it, whatever else is about to be written there."""
    return await find_session(call, session.id) if session.key else session


async def record_of(call: Call, instance: Instance) -> Record:
    """The record of an instance that was found."""
    return (await records_of(call, [instance]))[0]


async def records_of(call: Call, instances: Collection[Instance]) -> list[Record]:
    """Likewise, of many, in one question."""
    wanted = [names.vm_id(one.id, 1) for one in instances]
    written = {row.name: _record(row) for row in await call.core.rows.of(DIALECT, [VM], wanted)} if wanted else {}
    return [written.get(names.vm_id(one.id, 1)) or unwritten(one) for one in instances]


async def former(call: Call, alive: Collection[str]) -> list[Record]:
    """The records of VMs that are not among those, oldest first, as far as the caller may see them."""
    found = [_record(row) for row in await call.core.rows.of(DIALECT, [VM])]
    return [one for one in found if one.instance not in alive and call.principal.may(Action.INSTANCE_VIEW, one.project)]


async def former_one(call: Call, vm: str) -> Record:
    """The record of a VM that is no more. :raise NotFound:"""
    first = names.vm_id(names.instance_of(vm), 1)
    for row in await call.core.rows.of(DIALECT, [VM], [first]):
        record = _record(row)
        if call.principal.may(Action.INSTANCE_VIEW, row.project) and names.incarnation_of(vm) <= record.incarnation:
            return record
    raise NotFound(f"VM {vm[:80]} not found", subject=vm[:80])


async def sessions(call: Call) -> list[Session]:
    """All that the caller may see and that have a row, oldest first."""
    rows = await call.core.rows.of(DIALECT, [SESSION])
    return [_session(row) for row in rows if call.principal.may(Action.INSTANCE_VIEW, row.project)]


# -- writing -----------------------------------------------------------------------------------------------------------


async def write_session(call: Call, session: Session) -> Session:
    """Keep it as it is now; what has no row gets one."""
    row = session.row()
    if row.key:
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_CREATE)
        return session
    (added,) = await call.core.rows.add(call.principal, [row], Action.INSTANCE_CREATE)
    return replace(session, key=added.key)


async def write_record(call: Call, record: Record, action: Action = Action.INSTANCE_CREATE) -> Record:
    """Likewise."""
    row = record.row()
    if row.key:
        await call.core.rows.save(call.principal, [row], action)
        return record
    (added,) = await call.core.rows.add(call.principal, [row], action)
    return replace(record, key=added.key)
