"""Vaults in this dialect's words (instavm.md §1.12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from polyvisor.dialects.instavm.vms import stamp
from polyvisor.dialects.instavm.wire import Text, Words
from polyvisor.model.faults import Invalid
from polyvisor.model.vault import (
    TEMPLATES,
    Auth,
    AuthKind,
    Template,
    Vault,
    VaultCredential,
    VaultEntry,
    VaultRequest,
    check_auth,
)

Ids = Annotated[list[Text], Field(max_length=64)]


class VaultBody(BaseModel):
    """`POST /v1/vaults`."""

    name: Text
    description: Words | None = None


class VaultUpdate(BaseModel):
    """`PATCH /v1/vaults/{id}`; what is left out stays."""

    name: Text | None = None
    description: Words | None = None


class CredentialBody(BaseModel):
    """`POST …/credentials`. The value is never told again."""

    name: Text
    value: Text = Field(repr=False)
    credential_type: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\x00]*$")] = "api_key"
    description: Words | None = None


class RotateBody(BaseModel):
    """`POST …/rotate`."""

    value: Text = Field(repr=False)


class AuthBody(BaseModel):
    """How a credential is shown; `header` is another word for `api-key`."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["bearer", "api-key", "header", "basic", "custom", "url-path", "passthrough"]
    token: Text | None = None
    key: Text | None = None
    header: Text | None = None
    prefix: Text | None = None
    username: Text | None = None
    password: Text | None = None
    placeholder: Text | None = None
    headers: dict[Text, Text] | None = None


class EntryBody(BaseModel):
    """`POST …/services`."""

    host: Text
    auth_config: AuthBody
    description: Words | None = None
    enabled: bool = True


class TemplatesBody(BaseModel):
    """`POST …/services:from_template`."""

    template_ids: Annotated[list[Text], Field(min_length=1, max_length=64)]


# -- to the model ------------------------------------------------------------------------------------------------------


def auth_of(body: AuthBody) -> Auth:
    """:raise Invalid: naming what of it is wrong, or does not belong there."""
    kind = AuthKind("api-key" if body.type == "header" else body.type)
    takes = {
        AuthKind.BEARER: {"token"}, AuthKind.API_KEY: {"header", "key", "prefix"},
        AuthKind.BASIC: {"username", "password"},
        AuthKind.CUSTOM: {"headers"}, AuthKind.URL_PATH: {"token", "placeholder"}, AuthKind.PASSTHROUGH: set[str](),
    }[kind]  # fmt: skip
    for name in body.model_fields_set - {"type"}:
        if name not in takes and getattr(body, name) is not None:
            raise Invalid(f"auth_config.{name}: does not belong to {kind}", field=f"auth_config.{name}")
    token = body.token or body.key or body.password or ""
    placeholder = body.placeholder or (token if kind is AuthKind.URL_PATH else "")
    return check_auth(
        Auth(
            kind, token, body.username or "", body.header or "", body.prefix or "", placeholder,
            tuple((body.headers or {}).items()),
        )
    )  # fmt: skip


def templates_of(ids: list[str]) -> list[Template]:
    """:raise Invalid: one is not in the catalogue."""
    known = {one.id: one for one in TEMPLATES}
    for place, id in enumerate(ids):
        if id not in known:
            field = f"template_ids.{place}"
            raise Invalid(f"{field}: {id[:60]!r} is not in the catalog", field=field)
    return [known[id] for id in dict.fromkeys(ids)]


# -- as it is told -----------------------------------------------------------------------------------------------------


def told(vault: Vault) -> dict[str, Any]:
    """A vault."""
    return {
        "id": vault.id,
        "name": vault.name,
        "description": vault.description or None,
        "created_at": stamp(vault.created),
    }


def told_credential(one: VaultCredential) -> dict[str, Any]:
    """A credential, without its value."""
    return {
        "id": one.id, "vault_id": one.vault, "name": one.name, "credential_type": one.kind, "enabled": one.enabled,
        "description": one.description or None, "created_at": stamp(one.created),
    }  # fmt: skip


def told_auth(auth: Auth) -> Mapping[str, Any]:
    """How a credential is shown."""
    match auth.kind:
        case AuthKind.BEARER:
            more: dict[str, Any] = {"token": auth.token}
        case AuthKind.API_KEY:
            more = {"header": auth.header, "key": auth.token} | ({"prefix": auth.prefix} if auth.prefix else {})
        case AuthKind.BASIC:
            more = {"username": auth.username, "password": auth.token}
        case AuthKind.CUSTOM:
            more = {"headers": dict(auth.headers)}
        case AuthKind.URL_PATH:
            more = {"token": auth.token, "placeholder": auth.placeholder}
        case _:
            more = {}
    return {"type": auth.kind.value, **more}


def told_service(one: VaultEntry) -> dict[str, Any]:
    """A service."""
    return {
        "id": one.id, "vault_id": one.vault, "host": one.host, "auth_config": told_auth(one.auth),
        "enabled": one.enabled, "description": one.description or None, "created_at": stamp(one.created),
    }  # fmt: skip


def told_template(one: Template) -> dict[str, Any]:
    """A row of the catalogue."""
    auth, more = one.auth, {}
    if one.header:
        more["header"] = one.header
    if one.prefix:
        more["prefix"] = one.prefix
    if auth.placeholder:
        more["path_placeholder"] = auth.placeholder
    return {
        "id": one.id, "name": one.name, "host": one.host, "auth_type": one.kind.value, "credential_key": one.credential,
        **more,
    }  # fmt: skip


def told_request(one: VaultRequest) -> dict[str, Any]:
    """A request that a credential went with."""
    at = stamp(one.at)
    return {
        "timestamp": at, "created_at": at, "host": one.host, "status": one.status, "status_code": one.status,
        "credential_name": one.credential,
    }  # fmt: skip
