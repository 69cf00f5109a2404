"""Who asks: a signed token with its permissions, or an API key (hypeman.md §1.1).

A token without `permissions` may do everything; one whose `permissions` cannot be understood, nothing. Upstream keeps a
second kind of token for image registries, which is no good here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from polyvisor.dialects.kit.credentials import source_of
from polyvisor.engine import Engine
from polyvisor.model.faults import Unauthenticated
from polyvisor.model.principal import Action, Credential, Principal

EVERYTHING = "*"
_NOUNS = ("instance", "image", "volume", "snapshot", "build", "builder", "device", "ingress")
SCOPES = frozenset(
    {f"{noun}:{verb}" for noun in _NOUNS for verb in ("read", "write", "delete")}
    | {"resource:read", "resource:write", EVERYTHING}
)
_OURS = ("instance", "image", "volume", "snapshot", "ingress")


def _each(verb: str) -> frozenset[Action]:
    return frozenset(Action(f"{noun}.{verb}") for noun in _OURS)


_VIEWS = _each("view") | {Action.HOST_VIEW, Action.EVENT_VIEW}
_CHANGES = frozenset(
    {
        Action.HOST_ALTER,
        Action.INSTANCE_ALTER,
        Action.INSTANCE_OPERATE,
        Action.INSTANCE_INTERACT,
        Action.VOLUME_ALTER,
        Action.VOLUME_USE,
    }
)
_ACTIONS = {"read": _VIEWS, "write": _VIEWS | _each("create") | _CHANGES, "delete": _VIEWS | _CHANGES | _each("delete")}


class Refused(Exception):
    """No caller that we know; the message is what it is told."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks; `scopes` None: everything."""

    principal: Principal
    scopes: frozenset[str] | None = None

    def may(self, scope: str) -> bool:
        """Whether the token lets it do what needs that scope."""
        return self.scopes is None or EVERYTHING in self.scopes or scope in self.scopes


async def caller_of(connection: HTTPConnection, engine: Engine) -> Caller:
    """The caller. :raise Refused: with upstream's reason."""
    if key := connection.headers.get("x-api-key"):
        return await _by_key(engine, key, source_of(connection))
    header = connection.headers.get("authorization")
    if not header:
        raise Refused("authorization header required")
    scheme, _, token = header.partition(" ")
    if not token:
        raise Refused("invalid authorization header format")
    if scheme.lower() != "bearer":
        raise Refused(f"unsupported authorization scheme: {scheme}")
    if token.count(".") != 2:
        return await _by_key(engine, token, source_of(connection))
    try:
        bearer = await engine.bearer(token, source_of(connection))
    except Unauthenticated as fault:
        raise Refused("invalid token") from fault
    if _is_for_registry(bearer.claims):
        raise Refused("invalid token type")
    return _limited(bearer.principal, bearer.claims)


async def _by_key(engine: Engine, key: str, source: str) -> Caller:
    try:
        return Caller(await engine.authenticate(Credential(key=key, source=source)))
    except Unauthenticated as fault:
        raise Refused("invalid token") from fault


def _is_for_registry(claims: Mapping[str, object]) -> bool:
    return any(name in claims for name in ("repos", "scope", "build_id")) or str(claims.get("sub", "")).startswith(
        "builder-"
    )


def _limited(principal: Principal, claims: Mapping[str, object]) -> Caller:
    """The caller with what its token lets it do, which is said twice: once in upstream's words, once in ours."""
    if "permissions" not in claims:
        return Caller(principal)
    said = claims["permissions"]
    known = isinstance(said, list) and all(isinstance(scope, str) and scope in SCOPES for scope in said)
    scopes = frozenset(said) if isinstance(said, list) and known else frozenset[str]()
    if EVERYTHING in scopes:
        return Caller(principal, scopes)
    verbs = {scope.rpartition(":")[2] for scope in scopes}
    actions = frozenset(action for verb in verbs for action in _ACTIONS[verb])
    return Caller(principal.limited(actions), scopes)
