"""VMs: make, list, read, change, clone, suspend, resume, end (instavm.md §1.4)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from polyvisor.dialects.instavm import domains, records, shares, sizes, snapshots, staged, vms, volumes
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.policies import kept, policy_of
from polyvisor.dialects.instavm.records import Session, Wishes
from polyvisor.dialects.instavm.states import ACTIVE, CREATING, RUNNING, TERMINATED
from polyvisor.dialects.instavm.vms import Origin, Vm
from polyvisor.dialects.instavm.wire import (
    CloneRequest,
    SnapshotRequest,
    StageEnvRequest,
    VMCreateRequest,
    VMCreateResponse,
    VMUpdateRequest,
)
from polyvisor.model.ending import Ending
from polyvisor.model.faults import Exists, Fault, Invalid, NotFound
from polyvisor.model.instance import Mount
from polyvisor.model.principal import Action
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind
from polyvisor.model.volume import Volume

router = APIRouter()
Wait = Annotated[bool, Query()]


@router.post("/v1/vms")
async def create(call: Caller, body: VMCreateRequest, wait: Wait = True) -> VMCreateResponse:
    """A VM and its session, or the next VM of one."""
    call.settings.admit_lifetime(body.vm_lifetime_seconds)
    domain = await _domain(call, body)
    wishes = _wishes(body)
    if body.session_id is None:
        return await _spawn(call, vms.new_session(call, wishes), body, domain, wait=wait)
    async with vms.one_at_a_time(body.session_id):
        session = await records.find_session(call, body.session_id, Action.INSTANCE_CREATE)
        if not session.key or session.project != call.principal.project:
            raise NotFound(f"Session {body.session_id} not found")
        if await vms.of_session(call, session) is not None:
            raise Exists("session_id: the session has a VM already; end that first")
        session = await vms.without_gone(call, session)
        session = replace(session, wishes=_merged(session.wishes, wishes, body))
        return await _spawn(call, session, body, domain, wait=wait)


async def _domain(call: Call, body: VMCreateRequest) -> domains.Wanted | None:
    """What is asked with the VM of a name of its owner's. :raise Fault: it cannot be, and nothing is made."""
    if body.custom_domain is None:
        return None
    if body.share is None:
        raise Invalid("custom_domain: needs a share, which it leads to", field="custom_domain")
    wanted = domains.admit(call, body.custom_domain, "custom_domain.")
    await domains.require_free(call, wanted.name, call.principal.project)
    return wanted


async def _spawn(
    call: Call, session: Session, body: VMCreateRequest, domain: domains.Wanted | None, *, wait: bool
) -> VMCreateResponse:
    """The VM and what is asked with it: all of it, or nothing is left."""
    before = await records.as_written(call, session)
    made: list[Volume] = []
    try:
        session, vm = await vms.spawn(call, session, await _origin(call, body, made), wait=wait)
        return await _published(call, before, session, vm, body, domain, wait=wait)
    except BaseException:
        for volume in made:
            with contextlib.suppress(Fault):
                await call.core.volumes.delete(call.principal, volume.id)
        raise


async def _published(  # noqa: PLR0913 - all that a VM is made of
    call: Call, before: Session, session: Session, vm: Vm, body: VMCreateRequest, domain: domains.Wanted | None,
    *, wait: bool,
) -> VMCreateResponse:  # fmt: skip
    """Its share and its name, if any. Without them there is no VM."""
    told = VMCreateResponse(
        vm_id=vm.id, session_id=session.id, status=vm.word if wait else CREATING, env_status=vms.env_status(vm)
    )
    if body.share is not None:
        try:
            share = await shares.create(call, vm, body.share.port, is_public=body.share.is_public)
            told.share = shares.told(call, share, vm.id)
            if domain is not None:
                told.custom_domain = await _named(call, share, domain)
        except BaseException:
            await vms.undo(call, vm, before, session)
            raise
    return told


async def _named(call: Call, share: shares.Share, domain: domains.Wanted) -> dict[str, Any]:
    try:
        return await domains.told(call, await domains.add(call, share, domain))
    except BaseException:
        await shares.revoke(call, share)
        raise


def _wishes(body: VMCreateRequest) -> Wishes:
    return Wishes(
        lifetime=body.vm_lifetime_seconds, memory_mb=body.memory_mb, vcpus=body.vcpu_count,
        metadata=body.metadata or {}, env=body.env or {}, variant=body.image_variant,
        suspend=bool(body.auto_suspend), resume=bool(body.auto_resume), snapshot=bool(body.snapshot_on_terminate),
        snapshot_name=body.snapshot_name or "",
        egress=None if body.egress_policy is None else kept(policy_of(body.egress_policy, "egress_policy.")),
        vaults=tuple(dict.fromkeys(body.vault_ids or ())),
    )  # fmt: skip


_SAID_AS = {
    "lifetime": "vm_lifetime_seconds", "memory_mb": "memory_mb", "vcpus": "vcpu_count", "metadata": "metadata",
    "env": "env", "variant": "image_variant", "suspend": "auto_suspend", "resume": "auto_resume",
    "snapshot": "snapshot_on_terminate", "snapshot_name": "snapshot_name", "egress": "egress_policy",
    "vaults": "vault_ids",
}  # fmt: skip


def _merged(was: Wishes, wanted: Wishes, body: VMCreateRequest) -> Wishes:
    """A session's wishes, and what this request says of its own."""
    said = {name: getattr(wanted, name) for name, field in _SAID_AS.items() if getattr(body, field) is not None}
    if "env" in said:
        said["env"] = {**was.env, **wanted.env}
    return replace(was, **said)


async def _origin(call: Call, body: VMCreateRequest, made: list[Volume]) -> Origin:
    """What it is made of; volumes that had to be made are in `made`. :raise NotFound, Invalid:"""
    mounts = await _mounts(call, body, made)
    if body.snapshot_id is None:
        return Origin(mounts=mounts)
    origin = await snapshots.origin(call, body.snapshot_id)
    if body.image_variant is not None:
        await snapshots.check_variant(call, origin, body.image_variant)
    return replace(origin, mounts=mounts)


async def _mounts(call: Call, body: VMCreateRequest, made: list[Volume]) -> tuple[Mount, ...]:
    asked = []
    for number, one in enumerate(body.volumes or []):
        key, new = await volumes.called(call, one, f"volumes.{number}.")
        made += [new] if new is not None else []
        asked.append(await volumes.wanted(call, key, one, f"volumes.{number}."))
    return await call.core.volumes.resolve(call.principal, asked)


# -- reading -----------------------------------------------------------------------------------------------------------


@router.get("/v1/vms")
async def running(call: Caller) -> list[dict[str, Any]]:
    """Those that run, or are about to, oldest first, whoever made them."""
    return [vms.described(call, one) for one in await vms.everything(call) if one.word in RUNNING]


@router.get("/v1/vms/")
async def all_records(call: Caller) -> list[dict[str, Any]]:
    """All, also those that are no more, oldest first."""
    here = await vms.everything(call)
    former = await records.former(call, {one.instance.id for one in here})
    found = [(one.created, vms.described_former(call, one)) for one in former]
    found += [(one.record.created, vms.described(call, one)) for one in here]
    return [told for _, told in sorted(found, key=lambda pair: pair[0])]


@router.get("/v1/vms/{vm_id}")
async def get(call: Caller, vm_id: str) -> dict[str, Any]:
    """One, also when it is no more."""
    try:
        return vms.described(call, await vms.find(call, vm_id))
    except NotFound:
        return vms.described_former(call, await records.former_one(call, vm_id))


# -- changing ----------------------------------------------------------------------------------------------------------


@router.patch("/v1/vms/{vm_id}")
async def update(call: Caller, vm_id: str, body: VMUpdateRequest) -> dict[str, Any]:
    """What is said of its end, its lifetime from now on, its metadata, its size. What is left out stays."""
    call.settings.admit_lifetime(body.vm_lifetime_seconds)
    async with vms.held(call, vm_id, Action.INSTANCE_ALTER) as vm:
        was = vm.instance.spec.ending
        ending = Ending(
            was.suspend if body.auto_suspend is None else body.auto_suspend,
            was.snapshot if body.snapshot_on_terminate is None else body.snapshot_on_terminate,
            was.name if body.snapshot_name is None else body.snapshot_name,
        )
        async with sizes.resized(call, vm, body.memory_mb, body.vcpu_count) as vm:
            return vms.described(call, await _changed(call, vm, body, ending))


async def _changed(call: Call, vm: Vm, body: VMUpdateRequest, ending: Ending) -> Vm:
    if body.vault_ids is not None:  # the first, since it is what may be refused
        vm = replace(vm, instance=await call.core.bindings.bind(call.principal, vm.instance.id, body.vault_ids))
        await _remember_vaults(call, vm)
    lifetime = vms.seconds(body.vm_lifetime_seconds)
    labels = None if body.metadata is None else dict(vms.labels_of(body.metadata))
    if (ending, lifetime, labels) != (vm.instance.spec.ending, None, None):
        instance = await call.core.instances.update(
            call.principal, vm.instance.id, ending=ending, lifetime=lifetime, labels=labels
        )
        vm = replace(vm, instance=instance)
    record = vm.record
    if body.metadata is not None:
        record = replace(record, metadata=body.metadata)
    if body.auto_resume is not None:
        record = replace(record, resume=body.auto_resume)
    if body.vm_lifetime_seconds is not None:
        record = replace(record, lifetime=body.vm_lifetime_seconds)
    if record != vm.record:
        vm = replace(vm, record=await records.write_record(call, record, Action.INSTANCE_ALTER))
    return vm


async def _remember_vaults(call: Call, vm: Vm) -> None:
    """The next VMs of its session have them as well."""
    async with vms.one_at_a_time(vm.record.session):
        try:
            session = await records.find_session(call, vm.record.session, Action.INSTANCE_ALTER)
        except NotFound:  # of a VM that was made elsewhere
            return
        if session.key:
            wishes = replace(session.wishes, vaults=vms.vaults_of(vm.instance))
            await records.write_session(call, replace(session, wishes=wishes))


@router.delete("/v1/vms/{vm_id}")
async def delete(call: Caller, vm_id: str) -> dict[str, Any]:
    """It is no more; a snapshot that it was to end in is there by then."""
    async with vms.held(call, vm_id, Action.INSTANCE_DELETE) as vm:
        record = await vms.end(call, vm)
    return {"vm_id": record.vm_id, "session_id": record.session, "status": TERMINATED}


# -- copies ------------------------------------------------------------------------------------------------------------


@router.post("/v1/vms/{vm_id}/clone")
async def clone(
    call: Caller, vm_id: str, body: Annotated[CloneRequest | None, Body()] = None, wait: Wait = True
) -> dict[str, Any]:
    """A VM with the files of another one, by a snapshot that stays if it was given a name."""
    name = body.snapshot_name if body else None
    vm = await vms.find(call, vm_id, Action.INSTANCE_OPERATE)
    session = vms.new_session(call, await _wishes_of(call, vm))
    if name:
        taken = await snapshots.take(call, vm, name, wait=True)
        session, copy = await vms.spawn(call, session, Origin(taken, shown=snapshots.shown(taken)), wait=wait)
        kept = {"snapshot_id": snapshots.shown(taken), "snapshot_deleted": False}
    else:
        await call.core.streams.sync(call.principal, vm.instance.id)
        lifetime = vms.seconds(session.wishes.lifetime)
        wanted = Create(
            foreign=vms.foreign(), labels=vm.instance.spec.labels, lifetime=lifetime, vaults=session.wishes.bound
        )
        asked = await call.core.forks.fork(call.principal, vm.instance.id, wanted, SnapshotKind.DISK)
        session, copy = await vms.adopted(call, session, asked, "", wait=wait)
        kept = {"snapshot_id": None, "snapshot_deleted": True}
    status = copy.word if wait else CREATING
    return {"vm_id": copy.id, "session_id": session.id, "status": status, **kept}


async def _wishes_of(call: Call, vm: Vm) -> Wishes:
    """What the VM's session wants; a clone is to be the like, without an end that was its source's."""
    own = vm.instance.project == call.principal.project
    vaults = vms.vaults_of(vm.instance) if own else ()
    try:
        session = await records.find_session(call, vm.record.session)
    except NotFound:
        return Wishes(metadata=vm.record.metadata, vaults=vaults)
    return replace(session.wishes, metadata=vm.record.metadata, env={}, vcpus=None, memory_mb=None, vaults=vaults)


@router.post("/v1/vms/{vm_id}/snapshot")
async def snapshot(
    call: Caller, vm_id: str, body: Annotated[SnapshotRequest | None, Body()] = None, wait: Wait = True
) -> dict[str, Any]:
    """Of its disk; a VM that is made of it boots with these files."""
    vm = await vms.find(call, vm_id, Action.INSTANCE_OPERATE)
    name = body.name if body and body.name else ""
    taken = await snapshots.take(call, vm, name, wait=wait)
    return await snapshots.described_one(call, snapshots.shown(taken))


# -- standby -----------------------------------------------------------------------------------------------------------


@router.post("/v1/vms/{vm_id}/suspend")
async def suspend(call: Caller, vm_id: str) -> dict[str, Any]:
    """Its memory and disk are kept, and it runs no more."""
    async with vms.held(call, vm_id, Action.INSTANCE_OPERATE) as vm:
        asked = await call.core.power.suspend(call.principal, vm.instance.id)
        vm = replace(vm, instance=asked.instance)
    return {"vm_id": vm.id, "session_id": vm.record.session, "status": vm.word}


@router.post("/v1/vms/{vm_id}/resume")
async def resume(call: Caller, vm_id: str, wait: Wait = True) -> dict[str, Any]:
    """It goes on where it was, under another name."""
    vm = await vms.resume(call, await vms.find(call, vm_id, Action.INSTANCE_OPERATE), wait=wait)
    status = vm.word if wait or vm.word == ACTIVE else "resuming"
    return {"vm_id": vm.id, "session_id": vm.record.session, "status": status}


@router.post("/v1/vms/{vm_id}/stage-env")
async def stage_env(call: Caller, vm_id: str, body: StageEnvRequest) -> dict[str, Any]:
    """Variables for what is executed from now on; they are in the VM's memory and nowhere else."""
    vm = await vms.awake(call, await vms.find(call, vm_id, Action.INSTANCE_INTERACT))
    try:
        await staged.put(call, vm, {one.env_name: one.value for one in body.entries})
    except Invalid as fault:
        raise Invalid(fault.public.removeprefix("env: "), field="entries") from fault
    return {"vm_id": vm.id, "status": "ok", "staged": [one.env_name for one in body.entries]}
