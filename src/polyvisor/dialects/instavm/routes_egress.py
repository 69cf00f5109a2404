"""What VMs may reach, changed while they run (instavm.md §1.11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from polyvisor.dialects.instavm import records, vms
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.policies import kept, policy_in, policy_of, told
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.dialects.instavm.wire import EgressBody
from polyvisor.model.egress import EgressPolicy
from polyvisor.model.faults import NotFound
from polyvisor.model.principal import Action

router = APIRouter(prefix="/v1/egress")


async def _set(call: Call, vm: Vm, policy: EgressPolicy) -> None:
    await call.core.egress.set(call.principal, vm.instance.id, policy)


@router.post("/vm/{vm_id}")
async def set_of_vm(call: Caller, vm_id: str, body: EgressBody) -> dict[str, str]:
    """From now on, open connections too; the next VMs of its session have it as well."""
    policy = policy_of(body)
    vm = await vms.find(call, vm_id, Action.INSTANCE_ALTER)
    await _set(call, vm, policy)
    await _remember(call, vm.record.session, policy)
    return {"status": "ok"}


@router.get("/vm/{vm_id}")
async def of_vm(call: Caller, vm_id: str) -> dict[str, Any]:
    """What it may reach."""
    return told((await vms.find(call, vm_id)).instance.spec.egress)


@router.post("/session/{session_id}")
async def set_of_session(call: Caller, session_id: str, body: EgressBody) -> dict[str, str]:
    """For the session's VM, from now on, and for those that it has later."""
    policy = policy_of(body)
    session = await records.find_session(call, session_id, Action.INSTANCE_ALTER)
    if (vm := await vms.of_session(call, session, Action.INSTANCE_ALTER)) is not None:
        await _set(call, vm, policy)
    await _remember(call, session_id, policy)
    return {"status": "ok"}


@router.get("/session/{session_id}")
async def of_session(call: Caller, session_id: str) -> dict[str, Any]:
    """What its VM may reach, or the next one."""
    session = await records.find_session(call, session_id)
    if (vm := await vms.of_session(call, session)) is not None:
        return told(vm.instance.spec.egress)
    return told(policy_in(session.wishes.egress))


async def _remember(call: Call, id: str, policy: EgressPolicy) -> None:
    async with vms.one_at_a_time(id):
        try:
            session = await records.find_session(call, id, Action.INSTANCE_ALTER)
        except NotFound:  # of a VM that was made elsewhere
            return
        if session.key:
            await records.write_session(call, replace(session, wishes=replace(session.wishes, egress=kept(policy))))
