"""Vaults, what is in them, and what was asked with it (instavm.md §1.12)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from polyvisor.dialects.instavm import vaults
from polyvisor.dialects.instavm.door import Caller
from polyvisor.dialects.instavm.vaults import (
    CredentialBody,
    EntryBody,
    RotateBody,
    TemplatesBody,
    VaultBody,
    VaultUpdate,
)
from polyvisor.engine.vaults import Wanted
from polyvisor.model.vault import TEMPLATES

router = APIRouter(prefix="/v1/vaults")


@router.get("")
async def list_all(call: Caller) -> dict[str, Any]:
    """Those that the caller may see."""
    return {"vaults": [vaults.told(one) for one in await call.core.vaults.list(call.principal)]}


@router.post("")
async def create(call: Caller, body: VaultBody) -> dict[str, Any]:
    """An empty one."""
    return vaults.told(await call.core.vaults.create(call.principal, body.name, body.description or ""))


@router.get("/catalog")
async def catalog(call: Caller) -> dict[str, Any]:
    """Services that many use."""
    return {"templates": [vaults.told_template(one) for one in TEMPLATES]}


@router.get("/{vault_id}")
async def get(call: Caller, vault_id: str) -> dict[str, Any]:
    """One."""
    return vaults.told(await call.core.vaults.get(call.principal, vault_id))


@router.patch("/{vault_id}")
async def update(call: Caller, vault_id: str, body: VaultUpdate) -> dict[str, Any]:
    """What is left out stays."""
    changed = await call.core.vaults.update(
        call.principal, vault_id, name=body.name, description=body.description
    )  # fmt: skip
    return vaults.told(changed)


@router.delete("/{vault_id}")
async def delete(call: Caller, vault_id: str) -> dict[str, Any]:
    """With all that is in it, at once."""
    gone = await call.core.vaults.delete(call.principal, vault_id)
    return {"id": gone.id, "status": "deleted"}


@router.get("/{vault_id}/discover")
async def discover(call: Caller, vault_id: str) -> dict[str, Any]:
    """What credentials are called, and where they go."""
    core, who = call.core.vaults, call.principal
    vault = await core.get(who, vault_id)
    credentials, services = await core.credentials(who, vault.id), await core.services(who, vault.id)
    return {
        **vaults.told(vault),
        "vault_id": vault.id,
        "credentials": [one.name for one in credentials],
        "hosts": [one.host for one in services],
        "services": [{"host": one.host, "auth_config": vaults.told_auth(one.auth)} for one in services],
    }


# -- credentials -------------------------------------------------------------------------------------------------------


@router.get("/{vault_id}/credentials")
async def credentials(call: Caller, vault_id: str) -> dict[str, Any]:
    """Without their values."""
    found = await call.core.vaults.credentials(call.principal, vault_id)
    return {"credentials": [vaults.told_credential(one) for one in found]}


@router.post("/{vault_id}/credentials")
async def add_credential(call: Caller, vault_id: str, body: CredentialBody) -> dict[str, Any]:
    """It can be used from now on, and is not told again."""
    made = await call.core.vaults.add_credential(
        call.principal, vault_id, body.name, body.value, body.credential_type, body.description or ""
    )
    return vaults.told_credential(made)


@router.post("/{vault_id}/credentials/{credential_id}/rotate")
async def rotate(call: Caller, vault_id: str, credential_id: str, body: RotateBody) -> dict[str, Any]:
    """Another value, for all requests from now on."""
    return vaults.told_credential(await call.core.vaults.rotate(call.principal, vault_id, credential_id, body.value))


@router.delete("/{vault_id}/credentials/{credential_id}")
async def remove_credential(call: Caller, vault_id: str, credential_id: str) -> dict[str, Any]:
    """No request has it any more."""
    gone = await call.core.vaults.remove_credential(call.principal, vault_id, credential_id)
    return {"id": gone.id, "status": "deleted"}


# -- services ----------------------------------------------------------------------------------------------------------


@router.get("/{vault_id}/services")
async def services(call: Caller, vault_id: str) -> dict[str, Any]:
    """Where credentials go, and how."""
    found = await call.core.vaults.services(call.principal, vault_id)
    return {"services": [vaults.told_service(one) for one in found]}


@router.post("/{vault_id}/services")
async def add_service(call: Caller, vault_id: str, body: EntryBody) -> dict[str, Any]:
    """One more."""
    wanted = Wanted(body.host, vaults.auth_of(body.auth_config), body.description or "", body.enabled)
    (made,) = await call.core.vaults.add_services(call.principal, vault_id, [wanted])
    return vaults.told_service(made)


@router.post("/{vault_id}/services:from_template")
async def add_from_templates(call: Caller, vault_id: str, body: TemplatesBody) -> dict[str, Any]:
    """Some of the catalogue: all of them or none."""
    wanted = [Wanted(one.host, one.auth, one.name) for one in vaults.templates_of(body.template_ids)]
    made = await call.core.vaults.add_services(call.principal, vault_id, wanted)
    return {"services": [vaults.told_service(one) for one in made]}


@router.delete("/{vault_id}/services/{service_id}")
async def remove_service(call: Caller, vault_id: str, service_id: str) -> dict[str, Any]:
    """What goes there has nothing put in any more."""
    gone = await call.core.vaults.remove_service(call.principal, vault_id, service_id)
    return {"id": gone.id, "status": "deleted"}


# -- requests ----------------------------------------------------------------------------------------------------------


@router.get("/{vault_id}/request-logs")
async def request_logs(
    call: Caller, vault_id: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """The latest that something was put into, newest first."""
    found = await call.core.bindings.requests(call.principal, vault_id, limit)
    return {"logs": [vaults.told_request(one) for one in found]}
