"""Finding the credential: Bearer or Basic authorization, or an `X-API-Key` header."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from polyvisor.dialects.kit.credentials import from_authorization
from polyvisor.engine import Engine
from polyvisor.model.principal import Credential, Principal


def credential(connection: HTTPConnection) -> Credential | None:
    """What the caller showed, if anything."""
    if key := connection.headers.get("x-api-key"):
        return Credential(key=key)
    return from_authorization(connection.headers.get("authorization", ""))


def engine_of(connection: HTTPConnection) -> Engine:
    """The engine this application stands on."""
    engine: Engine = connection.app.state.engine
    return engine


async def caller(connection: HTTPConnection) -> Principal:
    """The authenticated caller. :raise Unauthenticated:"""
    return await engine_of(connection).authenticate(credential(connection))


Caller = Annotated[Principal, Depends(caller)]
Core = Annotated[Engine, Depends(engine_of)]
