"""Who asks: a key in `X-API-Key` or as Bearer, in the body where the SDK puts it there, in the query of a WebSocket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from polyvisor.dialects.instavm.settings import Settings
from polyvisor.dialects.kit.credentials import from_authorization, source_of
from polyvisor.engine import Engine
from polyvisor.model.faults import Unauthenticated
from polyvisor.model.principal import Credential, Principal


@dataclass(frozen=True, slots=True)
class Call:
    """One request, let in."""

    core: Engine
    principal: Principal
    settings: Settings


def shown(connection: HTTPConnection, key: str | None = None) -> Credential:
    """The credential that was shown. :raise Unauthenticated: none."""
    source = source_of(connection)
    if given := connection.headers.get("x-api-key") or key:
        return Credential(key=given, source=source)
    found = from_authorization(connection.headers.get("authorization", ""), source)
    if found is None or not found.key:
        raise Unauthenticated("Not authenticated")
    return found


async def let_in(connection: HTTPConnection, key: str | None = None) -> Call:
    """The caller. :raise Unauthenticated, Throttled:"""
    core: Engine = connection.app.state.engine
    principal = await core.authenticate(shown(connection, key))
    return Call(core, principal, connection.app.state.settings)


async def _call(request: Request) -> Call:
    return await let_in(request)


Caller = Annotated[Call, Depends(_call)]
