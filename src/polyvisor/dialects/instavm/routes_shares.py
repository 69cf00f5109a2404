"""Shares, and the address of an application in a session's VM (instavm.md §1.5, §1.10)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from polyvisor.dialects.instavm import domains, records, shares, vms
from polyvisor.dialects.instavm.door import Call, Caller
from polyvisor.dialects.instavm.vms import Vm
from polyvisor.dialects.instavm.wire import Port, ShareBody, ShareUpdate
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.principal import Action

router = APIRouter(prefix="/v1")


async def _vm(call: Call, body: ShareBody) -> Vm:
    """Who names both means the VM: clients add their session whether or not it has to do with it."""
    if body.vm_id is not None:
        return await vms.find(call, body.vm_id, Action.INSTANCE_INTERACT)
    if body.session_id is not None:
        return await vms.ready(call, await records.find_session(call, body.session_id, Action.INSTANCE_INTERACT))
    raise Invalid("vm_id: name a VM or a session", field="vm_id")


@router.post("/shares")
async def create(call: Caller, body: ShareBody) -> dict[str, Any]:
    """A port of a VM is to be had from outside; the same port again is the same share."""
    vm = await _vm(call, body)
    return shares.told(call, await shares.create(call, vm, body.port, is_public=body.is_public), vm.id)


@router.get("/shares")
async def list_all(call: Caller, vm_id: str) -> list[dict[str, Any]]:
    """A VM's."""
    vm = await vms.find(call, vm_id)
    return [shares.told(call, one, vm.id) for one in await shares.of(call, vm)]


@router.get("/shares/{share_id}")
async def get(call: Caller, share_id: str) -> dict[str, Any]:
    """One."""
    share = await shares.find(call, share_id, Action.INGRESS_VIEW)
    return shares.told(call, share, await _shown(call, share))


@router.patch("/shares/{share_id}")
async def update(call: Caller, share_id: str, body: ShareUpdate) -> dict[str, Any]:
    """Public, private, or no more."""
    share = await shares.find(call, share_id, Action.INGRESS_CREATE)
    vm = await _shown(call, share)
    if body.revoke:
        await shares.revoke(call, share)
        await domains.end(call, share)
        return {"share_id": share.id, "status": "revoked", "vm_id": vm, "port": share.port, "is_public": False}
    if body.is_public is not None:
        share = await shares.change(call, share, is_public=body.is_public)
    return shares.told(call, share, vm)


async def _shown(call: Call, share: shares.Share) -> str:
    try:
        return (await vms.find(call, share.instance)).id
    except NotFound:
        return f"vmid-{share.instance}"


@router.get("/sessions/app-url/{session_id}")
async def app_url(call: Caller, session_id: str, port: Annotated[Port, Query()] = 80) -> dict[str, Any]:
    """Where what listens on a port of the session's VM is: at a share of it, which is private if it is new."""
    session = await records.find_session(call, session_id, Action.INSTANCE_INTERACT)
    vm = await vms.of_session(call, session, Action.INSTANCE_INTERACT)
    if vm is None:
        raise NotFound(f"Session {session.id} has no VM assigned")
    share = shares.told(call, await shares.create(call, vm, port, is_public=False), vm.id)
    end = vm.instance.intent.expires
    return {
        "url": share["url"],
        "direct_url": share["url"],
        "vm_ip": vm.instance.address.ip if vm.instance.address else None,
        "port": port,
        "vm_id": vm.id,
        "session_id": session.id,
        "status": vm.word,
        "expires_in_seconds": None if end is None else max(0.0, (end - vms.now()).total_seconds()),
        **{name: share[name] for name in ("token", "token_header") if name in share},
    }
