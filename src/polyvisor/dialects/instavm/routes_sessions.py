"""Sessions: begun without a VM, asked how they are, ended (instavm.md §1.5). There is no call that closes one."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from polyvisor.dialects.instavm import names, records, vms
from polyvisor.dialects.instavm.door import Call, Caller, let_in
from polyvisor.dialects.instavm.records import Record, Session, Wishes
from polyvisor.dialects.instavm.states import ACTIVE, KILLED
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.dialects.instavm.wire import KillRequest, SessionRequest
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.instance import Stage, time_spent
from polyvisor.model.principal import Action
from polyvisor.model.units import MIB

router = APIRouter(prefix="/v1/sessions")
root = APIRouter()


@router.post("/session")
async def begin(request: Request, body: SessionRequest) -> dict[str, str]:
    """A session; its VM comes with its first use, or now if it has variables."""
    call = await let_in(request, body.api_key)
    call.settings.admit_lifetime(body.vm_lifetime_seconds)
    wishes = Wishes(
        lifetime=body.vm_lifetime_seconds or vms.SESSION_LIFETIME, memory_mb=body.memory_mb, vcpus=body.vcpu_count,
        metadata=body.metadata or {}, env=body.env or {},
    )  # fmt: skip
    session = vms.new_session(call, wishes)
    if body.env:
        session, _ = await vms.spawn(call, session, wait=False)
    else:
        session = await records.write_session(call, session)
    return {"session_id": session.id}


@router.get("/session/{session_id}")
async def info(call: Caller, session_id: str) -> dict[str, Any]:
    """What it is to be, and its VM."""
    session = await records.find_session(call, session_id)
    wishes = session.wishes
    return {
        **await _status(call, session),
        "vm_lifetime_seconds": wishes.lifetime,
        "memory_mb": wishes.memory_mb,
        "vcpu_count": wishes.vcpus,
        "metadata": dict(wishes.metadata),
    }


@router.get("/status/{session_id}")
async def status(call: Caller, session_id: str) -> dict[str, Any]:
    """Whether it has a VM, and how that is."""
    return await _status(call, await records.find_session(call, session_id))


async def _status(call: Call, session: Session) -> dict[str, Any]:
    vm = await vms.of_session(call, session)
    told: dict[str, Any] = {
        "session_id": session.id,
        "exists": True,
        "vm_assigned": bool(session.instance),
        "vm_alive": False,
        "vm_status": None,
        "vm_id": None,
        "uptime_seconds": None,
        "expires_in_seconds": None,
        "created_at": vms.stamp(session.created),
    }
    if vm is not None:
        end = vm.instance.intent.expires
        left = None if end is None else max(0.0, (end - vms.now()).total_seconds())
        alive = vm.word in (ACTIVE, "creating", "resuming", "suspending", "suspended")
        told |= {"vm_alive": alive, "vm_status": vm.word, "vm_id": vm.id, "expires_in_seconds": left}
        told["uptime_seconds"] = (vms.now() - vm.record.created).total_seconds()
    elif session.instance:
        last = await _last(call, session)
        told |= {"vm_status": KILLED, "vm_id": last.vm_id if last else None, "expires_in_seconds": 0.0}
    return told


async def _last(call: Call, session: Session) -> Record | None:
    try:
        return await records.former_one(call, session.instance)
    except NotFound:
        return None


@router.get("/usage/{session_id}")
async def usage(call: Caller, session_id: str) -> dict[str, Any]:
    """How long its VM has run, and with what."""
    session = await records.find_session(call, session_id)
    vm = await vms.of_session(call, session)
    if vm is None:
        return {"session_id": session.id, "vm_id": None, "uptime_seconds": 0.0, "vcpu_seconds": 0.0, "gib_seconds": 0.0}
    spent = time_spent(vm.instance.observed, vms.now())
    ran = (spent.get(Stage.RUNNING, 0) + spent.get(Stage.INITIALIZING, 0)) / 1000
    spec = vm.instance.spec
    return {
        "session_id": session.id,
        "vm_id": vm.id,
        "uptime_seconds": ran,
        "vcpu_seconds": ran * spec.vcpus,
        "gib_seconds": ran * spec.memory / (1024 * MIB),
    }


@router.get("/sandboxes")
async def sandboxes(
    call: Caller, metadata: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[dict[str, Any]]:
    """The VMs that are there, whose metadata contains some, newest first."""
    wanted = _wanted(metadata)
    found = [vm for vm in await vms.everything(call) if wanted is None or contains(dict(vm.record.metadata), wanted)]
    return [_sandbox(vm) for vm in reversed(found[-limit:])]


def _wanted(metadata: str | None) -> Any:
    """:raise Invalid:"""
    if not metadata:
        return None
    try:
        return json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise Invalid("metadata: must be JSON", field="metadata") from error


def contains(has: Any, wanted: Any) -> bool:
    """Containment as PostgreSQL's `@>` has it: each of `wanted` is somewhere in `has`, at the same place."""
    if isinstance(wanted, dict):
        return isinstance(has, dict) and all(key in has and contains(has[key], one) for key, one in wanted.items())
    if isinstance(wanted, list):
        return isinstance(has, list) and all(any(contains(other, one) for other in has) for one in wanted)
    return type(has) is type(wanted) and bool(has == wanted)


def _sandbox(vm: Vm) -> dict[str, Any]:
    return {
        "sandbox_id": vm.record.session,
        "template_id": vm.record.snapshot or None,
        "name": vm.instance.name,
        "metadata": dict(vm.record.metadata),
        "started_at": vms.stamp(vm.record.created),
        "end_at": vms.stamp(vm.instance.intent.expires),
        "status": vm.word,
        "vm_id": vm.id,
        "session_id": vm.record.session,
    }


@root.post("/kill")
async def kill(call: Caller, body: KillRequest) -> dict[str, Any]:
    """The VM of a session is no more; the session's next use gets another one."""
    if not names.is_session(body.session_id):
        raise Invalid("session_id: must be a UUID", field="session_id")
    async with vms.one_at_a_time(body.session_id):
        session = await records.find_session(call, body.session_id, Action.INSTANCE_DELETE)
        vm = await vms.of_session(call, session, Action.INSTANCE_DELETE)
        if vm is None:
            raise NotFound(f"Session {session.id} has no VM assigned")
        async with vms.held(call, vm.instance.id, Action.INSTANCE_DELETE) as vm:
            record = await vms.end(call, vm)
    text = f"VM {record.vm_id} was killed"
    return {"status": KILLED, "session_id": session.id, "vm_id": record.vm_id, "message": text}
