"""`user.*`: tokens, which are API keys with scopes (hanzo.md §1.0)."""

from __future__ import annotations

from datetime import UTC, datetime

from polyvisor.dialects.hanzo import find, wire
from polyvisor.dialects.hanzo.find import TOKEN
from polyvisor.dialects.hanzo.launching import one_of
from polyvisor.dialects.hanzo.roles import EVERYTHING, SCOPES, scopes_of
from polyvisor.dialects.hanzo.table import ACT, CREATE, QUERY, Call, Router
from polyvisor.dialects.hanzo.translate import when
from polyvisor.engine.keys import KeyRequest
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.identity import ApiKey
from polyvisor.model.ids import is_id
from polyvisor.model.principal import Action

routes = Router()
PREFIX = "tk_"


def _told(key: ApiKey) -> dict[str, object]:
    return {
        "tokenId": TOKEN + key.id, "name": key.name, "prefix": key.prefix, "scopes": scopes_of(key.scopes),
        "organizationId": find.ORGANIZATION + key.project, "createdAt": when(key.created),
        "expiresAt": None if key.expires is None else when(key.expires),
        "lastUsedAt": None if key.used is None else when(key.used),
    }  # fmt: skip


@routes.add("user.tokens", QUERY, wire.Nothing)
async def tokens(call: Call) -> object:
    """The caller's own, and those of who is his to rule over."""
    return [_told(key) for key in await call.core.keys.list(call.principal)]


@routes.add("user.createToken", CREATE, wire.NewToken, 201)
async def create(call: Call) -> object:
    """A token, told this once."""
    body = call.body
    project = ""
    if body.organizationId is not None:
        project = (await find.organization(call, body.organizationId, Action.PROJECT_VIEW)).id
    expires = _moment(body.expiresAt) if body.expiresAt is not None else None
    asked = KeyRequest(body.name, project, _scopes(body.scopes), expires, prefix=PREFIX)
    text, key = await call.core.keys.create(call.principal, asked)
    return _told(key) | {"token": text}


def _scopes(asked: list[str] | None) -> frozenset[Action] | None:
    """:raise Invalid: there is no such scope, or there is none at all."""
    if asked is None or EVERYTHING in asked:
        return None
    if not asked:
        raise Invalid("scopes: must name one at least", field="scopes")
    for scope in asked:
        one_of(scope, [EVERYTHING, *SCOPES], "scopes")
    return frozenset().union(*(SCOPES[scope] for scope in asked))


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("expiresAt: must be a time in ISO 8601", field="expiresAt") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


@routes.add("user.revokeToken", ACT, wire.ThisToken)
async def revoke(call: Call) -> object:
    """It holds no more."""
    ours = call.body.tokenId.removeprefix(TOKEN)
    if not is_id(ours):
        raise NotFound("Token not found", field="tokenId")
    await call.core.keys.delete(call.principal, ours)
    return {"tokenId": TOKEN + ours, "revoked": True}
