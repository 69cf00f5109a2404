"""VMs for this dialect's routes: found, made, woken, ended, shown.

A session is what its owner deals with; its VM is an instance of ours, which comes with the first use and may be another
one after the end of the last (instavm.md §2).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4
from weakref import WeakValueDictionary

from polyvisor.dialects.instavm import names, policies, records
from polyvisor.dialects.instavm.door import Call
from polyvisor.dialects.instavm.names import DIALECT, VM
from polyvisor.dialects.instavm.records import Record, Session, Wishes
from polyvisor.dialects.instavm.states import ACTIVE, word
from polyvisor.engine.instances import Asked, Until
from polyvisor.model.ending import Ending
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Invalid, NotFound, TimedOut, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.instance import Instance, Mount, Power
from polyvisor.model.principal import Action
from polyvisor.model.request import Create
from polyvisor.model.spec import check_labels
from polyvisor.model.units import MIB, Bytes, Seconds

PATIENCE = 290.0  # seconds; the SDK hangs up after 300
VCPUS, MEMORY_MB = 2, 512  # what a VM has that says nothing of it
SESSION_LIFETIME = 300  # seconds, likewise
FOREVER = ("sleep", "infinity")
"""A sandbox has no workload of its own."""
_GONE = frozenset({Face.DELETING})
_TURNS: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Origin:
    """What a VM is made from beside its session's wishes: a snapshot's id of ours, or an image; and its volumes."""

    snapshot: str = ""
    image: str = ""
    mounts: tuple[Mount, ...] = ()
    shown: str = ""  # how the caller called the snapshot


@dataclass(frozen=True, slots=True)
class Vm:
    """An instance and what is kept of it here."""

    instance: Instance
    record: Record = field(repr=False)

    @property
    def id(self) -> str:
        """What it is called."""
        return self.record.vm_id

    @property
    def word(self) -> str:
        """Its state."""
        return word(self.instance)


def one_at_a_time(id: str) -> asyncio.Lock:
    """What changes a session or a VM waits for its turn there: two first uses at once make one VM."""
    return _TURNS.setdefault(id, asyncio.Lock())


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


# -- finding -----------------------------------------------------------------------------------------------------------


async def find(call: Call, vm: str, action: Action = Action.INSTANCE_VIEW) -> Vm:
    """By any of its names, also by our id or name. :raise NotFound: it never was, is no more, or is another's."""
    missing = NotFound(f"VM {vm[:80]} not found", subject=vm[:80])
    if "\0" in vm:
        raise missing
    try:
        instance = await call.core.instances.get(call.principal, names.instance_of(vm), action)
    except NotFound as fault:
        raise missing from fault
    record = await records.record_of(call, instance)
    if face(instance) in _GONE or names.incarnation_of(vm) > record.incarnation:
        raise missing
    return Vm(instance, record)


@asynccontextmanager
async def held(call: Call, vm: str, action: Action) -> AsyncIterator[Vm]:
    """The VM while nobody else changes it, by whichever of its names. :raise NotFound:"""
    id = (await find(call, vm, action)).instance.id
    async with one_at_a_time(id):
        try:
            found = await find(call, id, action)
        except NotFound as fault:  # whoever was before us has ended it
            raise NotFound(f"VM {vm[:80]} not found", subject=vm[:80]) from fault
        yield found


async def latest(call: Call, vm: Vm) -> Vm:
    """As it is now. :raise NotFound: it is gone."""
    return await find(call, vm.instance.id)


async def of_session(call: Call, session: Session, action: Action = Action.INSTANCE_VIEW) -> Vm | None:
    """A session's VM, if there is one now."""
    if not session.instance:
        return None
    try:
        return await find(call, session.instance, action)
    except NotFound:
        return None


async def everything(call: Call) -> list[Vm]:
    """Every VM that the caller may see, whoever made it, oldest first."""
    found: list[Instance] = []
    cursor: str | None = None
    while True:
        page = await call.core.instances.list(call.principal, cursor, 1000)
        found += [one for one in page.items if face(one) not in _GONE]
        cursor = page.next
        if cursor is None:
            break
    written = await records.records_of(call, found)
    return [Vm(instance, record) for instance, record in zip(found, written, strict=True)]


# -- making ------------------------------------------------------------------------------------------------------------


def new_session(call: Call, wishes: Wishes) -> Session:
    """A session that nobody has written down yet."""
    return Session(str(uuid4()), call.principal.project, now(), wishes)


def labels_of(metadata: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """As much of it as other APIs can show; the whole is in the record."""
    said = tuple(sorted((key, one if isinstance(one, str) else json.dumps(one)) for key, one in metadata.items()))
    try:
        check_labels(said)
    except Invalid:
        return ()
    return said


def seconds(count: int | None) -> Seconds | None:
    """A lifetime; 0 is none."""
    return Seconds(float(count)) if count else None


def foreign() -> Foreign:
    """What is kept with a new instance: its VM's name."""
    return Foreign(DIALECT, alias=(VM, names.vm_id("{id}", 1)))


def vaults_of(instance: Instance) -> tuple[str, ...]:
    """Those that it uses for good."""
    return tuple(one.vault for one in instance.spec.vaults if not one.lent)


async def without_gone(call: Call, session: Session) -> Session:
    """A session as it is for its next VM: vaults that were deleted since are not asked for."""
    if not session.wishes.vaults:
        return session
    there = {one.id for one in await call.core.vaults.list(call.principal)}
    vaults = tuple(one for one in session.wishes.vaults if one in there)
    return replace(session, wishes=replace(session.wishes, vaults=vaults))


def _create(call: Call, wishes: Wishes, origin: Origin) -> Create:
    ending = Ending(wishes.suspend, wishes.snapshot, wishes.snapshot_name)
    wanted = Create(
        env=tuple(wishes.env.items()), mounts=origin.mounts, labels=labels_of(wishes.metadata), ending=ending,
        lifetime=seconds(wishes.lifetime),
        foreign=foreign(), egress=policies.policy_in(wishes.egress),
        vaults=wishes.bound,
    )  # fmt: skip
    vcpus, memory = wishes.vcpus, wishes.memory_mb
    if origin.snapshot:
        return replace(
            wanted, snapshot=origin.snapshot, vcpus=vcpus, memory=None if memory is None else Bytes(memory * MIB)
        )
    return replace(
        wanted, image=origin.image or call.settings.image(wishes.variant), vcpus=vcpus or VCPUS,
        memory=Bytes((memory or MEMORY_MB) * MIB), entrypoint=(), command=FOREVER,
    )  # fmt: skip


async def spawn(call: Call, session: Session, origin: Origin = Origin(), *, wait: bool = True) -> tuple[Session, Vm]:
    """A new VM for a session, and both written down.

    :raise Fault: it cannot be made, and nothing of it is left. :raise TimedOut: it takes longer than the caller waits;
    it is being made.
    """
    asked = await call.core.instances.create(call.principal, _create(call, session.wishes, origin))
    return await adopted(call, session, asked, origin.shown, wait=wait)


async def adopted(call: Call, session: Session, asked: Asked, snapshot: str, *, wait: bool) -> tuple[Session, Vm]:
    """A new instance becomes a session's VM; see `spawn`."""
    instance, wishes, before = asked.instance, session.wishes, await records.as_written(call, session)
    record = Record(
        instance.id, instance.project, session.id, instance.created, wishes.metadata, wishes.lifetime or 0,
        wishes.resume, snapshot, wishes.variant, bool(wishes.env), staged=bool(snapshot),  # it may hold memory
    )  # fmt: skip
    try:
        record = await records.write_record(call, record)
        session = await records.write_session(call, replace(session, instance=instance.id))
        if wait:
            instance = await call.core.instances.settle(asked, Until.READY, PATIENCE)
            require_up(instance)
    except TimedOut:
        raise
    except BaseException:
        await undo(call, Vm(instance, record), before, session)
        raise
    return session, Vm(instance, record)


def require_up(instance: Instance) -> None:
    """:raise WrongState: its guest ended, or failed, while it was coming up."""
    if face(instance) is not Face.RUNNING:
        why = instance.observed.fault or f"it is {word(instance)}"
        raise WrongState(f"the VM did not come up: {why}")


async def undo(call: Call, vm: Vm, before: Session, session: Session) -> None:
    """It never was, and its session is as it was before."""
    with contextlib.suppress(Fault):
        gone = await call.core.power.delete(call.principal, vm.instance.id)
        await call.core.instances.settle(gone, Until.LAUNCHED, PATIENCE)
    if vm.record.key:
        with contextlib.suppress(Fault):
            await call.core.rows.remove(call.principal, [vm.record.row()], Action.INSTANCE_CREATE)
    with contextlib.suppress(Fault):
        if before.key:
            await records.write_session(call, before)
        elif session.key:
            await call.core.rows.remove(call.principal, [session.row()], Action.INSTANCE_CREATE)


# -- using -------------------------------------------------------------------------------------------------------------


async def ready(call: Call, session: Session) -> Vm:
    """The VM of a session, that runs: its first one, the one it has, or a fresh one after the end of that.

    :raise WrongState: it is suspended and not to be woken by use, or its owner has stopped it.
    """
    async with one_at_a_time(session.id):
        session = await records.find_session(call, session.id, Action.INSTANCE_INTERACT)
        vm = await of_session(call, session, Action.INSTANCE_INTERACT)
        if vm is not None:
            return await awake(call, vm)
        if not session.key:
            raise NotFound(f"Session {session.id} has no VM")
        return (await spawn(call, await without_gone(call, session)))[1]


async def awake(call: Call, vm: Vm) -> Vm:
    """The VM once it runs. :raise WrongState: as `ready`."""
    now_is = face(vm.instance)
    if now_is in (Face.SUSPENDED, Face.SUSPENDING):
        if not vm.record.resume:
            raise WrongState(f"VM {vm.id} is suspended; resume it first")
        return await resume(call, vm)
    if now_is is Face.STOPPED and vm.instance.intent.power is Power.ON:  # its guest has shut itself down
        asked = await call.core.power.start(call.principal, vm.instance.id)
        return replace(vm, instance=await call.core.instances.settle(asked, Until.READY, PATIENCE))
    if now_is in (Face.STOPPED, Face.STOPPING, Face.PAUSED, Face.FAILED):
        raise WrongState(f"VM {vm.id} is {vm.word}")
    return vm


async def resume(call: Call, vm: Vm, *, wait: bool = True) -> Vm:
    """It goes on, under another name, with its whole lifetime before it; one that runs is left alone.

    :raise WrongState: it cannot.
    """
    async with one_at_a_time(vm.instance.id):
        vm = await latest(call, vm)
        if face(vm.instance) is Face.SUSPENDING:
            await call.core.instances.wait(call.principal, vm.instance.id, lambda i: i.operation is None, PATIENCE)
            vm = await latest(call, vm)
        if vm.word == ACTIVE:
            return vm
        goes_on = face(vm.instance) in (Face.RESUMING, Face.RUNNING)
        asked = await call.core.power.resume(call.principal, vm.instance.id)
        record = vm.record if goes_on else await _renamed(call, vm)
    instance = await call.core.instances.settle(asked, Until.READY if wait else Until.ACCEPTED, PATIENCE)
    return Vm(instance, record)


async def _renamed(call: Call, vm: Vm) -> Record:
    """The record of a VM that is being resumed: it has another name, and its whole lifetime before it."""
    record = await records.write_record(call, replace(vm.record, incarnation=vm.record.incarnation + 1))
    alias = Foreign(DIALECT, alias=(VM, record.vm_id))
    await call.core.foreigners.put(vm.instance.project, vm.instance.id, alias)
    if record.lifetime:
        await call.core.instances.update(call.principal, vm.instance.id, lifetime=seconds(record.lifetime))
    return record


async def end(call: Call, vm: Vm) -> Record:
    """It is no more; what its ending keeps is there. :raise Fault: that cannot be kept, and it lives on."""
    asked = await call.core.endings.end(call.principal, vm.instance.id)
    await call.core.instances.settle(asked, Until.LAUNCHED, PATIENCE)
    record = replace(vm.record, ended=now())
    if record.key:
        record = await records.write_record(call, record, Action.INSTANCE_DELETE)
    return record


# -- showing -----------------------------------------------------------------------------------------------------------


def stamp(moment: datetime | None) -> str | None:
    """UTC without a zone, as clients compare it."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None, microsecond=0).isoformat()


def described(call: Call, vm: Vm) -> dict[str, Any]:
    """A VM that is there."""
    instance, spec = vm.instance, vm.instance.spec
    return {
        **_common(call, vm.record),
        "status": vm.word,
        "memory_mb": spec.usable // MIB,
        "vcpu_count": spec.vcpus,
        "image_variant": vm.record.variant or spec.image_name,
        "expires_at": stamp(instance.intent.expires),
        "snapshot_on_terminate": spec.ending.snapshot,
        "snapshot_name": spec.ending.name or None,
        "auto_suspend": spec.ending.suspend,
        "auto_resume": vm.record.resume,
        "env_status": env_status(vm),
        "name": instance.name,
        "ip": instance.address.ip if instance.address else None,
        "vault_ids": list(vaults_of(instance)),
    }


def described_former(call: Call, record: Record) -> dict[str, Any]:
    """A VM that is no more."""
    return {**_common(call, record), "status": "terminated", "ended_at": stamp(record.ended)}


def _common(call: Call, record: Record) -> dict[str, Any]:
    return {
        "vm_id": record.vm_id,
        "session_id": record.session,
        "status": "",
        "created_at": stamp(record.created),
        "snapshot_id": record.snapshot or None,
        "metadata": dict(record.metadata),
        "ssh_host": call.settings.ssh_host or None,
        "devbox_name": None,
        "devbox_template_slug": None,
    }


def env_status(vm: Vm) -> str:
    """Whether it has variables of its owner's: they come with its boot, so who is up has them."""
    return "applied" if vm.record.env and vm.word == ACTIVE else "none"
