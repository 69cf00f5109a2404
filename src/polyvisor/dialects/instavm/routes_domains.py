"""Custom domains (instavm.md §1.10)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path

from polyvisor.dialects.instavm import domains, shares
from polyvisor.dialects.instavm.door import Caller
from polyvisor.dialects.instavm.wire import DomainBody
from polyvisor.model.principal import Action

router = APIRouter(prefix="/v1/custom-domains")
Key = Annotated[int, Path(ge=1, le=2**31 - 1)]


@router.post("")
async def create(call: Caller, body: DomainBody) -> dict[str, Any]:
    """A name is to lead to a share, once it is shown to be the caller's."""
    wanted = domains.admit(call, body)
    share = await shares.find(call, body.share_id, Action.INGRESS_CREATE)
    return await domains.told(call, await domains.add(call, share, wanted))


@router.get("")
async def list_all(call: Caller) -> dict[str, list[dict[str, Any]]]:
    """Those that the caller may see."""
    return {"domains": [await domains.told(call, one) for one in await domains.everything(call)]}


@router.get("/{domain_id}")
async def get(call: Caller, domain_id: Key) -> dict[str, Any]:
    """One."""
    return await domains.told(call, await domains.find(call, domain_id, Action.INGRESS_VIEW))


@router.get("/{domain_id}/health")
async def health(call: Caller, domain_id: Key) -> dict[str, Any]:
    """One, with what there is of it in the proxy."""
    return await domains.health(call, await domains.find(call, domain_id, Action.INGRESS_VIEW))


@router.post("/{domain_id}/verify")
async def verify(call: Caller, domain_id: Key) -> dict[str, Any]:
    """The proof is looked for now. Where it is not found the answer is the domain as `failed`, and says what was: the
    client waits for that word."""
    domain = await domains.find(call, domain_id, Action.INGRESS_CREATE)
    return await domains.told(call, await domains.verify(call, domain))


@router.delete("/{domain_id}")
async def delete(call: Caller, domain_id: Key) -> dict[str, Any]:
    """It is served no more, from now on."""
    domain = await domains.find(call, domain_id, Action.INGRESS_CREATE)
    error = await domains.remove(call, domain)
    return {"id": domain.key, "domain": domain.name, "status": "deleted", "last_error": error or None}
