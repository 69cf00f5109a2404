"""The door: who asks is known before a route is looked at or a body read, so no route can forget to ask.

Bearer or Basic authorization, or an `X-API-Key` header; `X-Project` says in which project the caller acts. Who has
nothing to show may only log in.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from polyvisor.dialects.kit.credentials import check_origin, from_authorization, source_of
from polyvisor.dialects.native.errors import reply
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault
from polyvisor.model.principal import Credential, Principal

PREFIX = "/api/v1"
DOCUMENT = f"{PREFIX}/openapi.json"
_LOGIN = ("POST", f"{PREFIX}/sessions")
PROJECT = "x-project"
"""The header in which a caller says in which project it acts, by id or path."""


def credential(connection: HTTPConnection) -> Credential | None:
    """What the caller showed, if anything."""
    if key := connection.headers.get("x-api-key"):
        return Credential(key=key, source=source_of(connection))
    return from_authorization(connection.headers.get("authorization", ""), source_of(connection))


def engine_of(connection: HTTPConnection) -> Engine:
    """The engine this application stands on."""
    engine: Engine = connection.app.state.engine
    return engine


def caller(connection: HTTPConnection) -> Principal:
    """The authenticated caller, as the door let it in."""
    principal: Principal = connection.state.caller
    return principal


def is_guarded(path: str) -> bool:
    """Whether a credential is needed: everywhere but for the documents and the health of the process, and where a
    ticket is one."""
    free = path in (DOCUMENT, f"{PREFIX}/sessions") or path.startswith(f"{PREFIX}/screens/")
    return path == "/metrics" or (path.startswith(PREFIX) and not free)


class Door:
    """Middleware. A WebSocket is refused as a plain request is: with a status and a body, before the upgrade."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and is_guarded(scope["path"]):
            try:
                connection = HTTPConnection(scope)
                check_origin(connection)
                principal = await self._engine.authenticate(credential(connection))
                if project := connection.headers.get(PROJECT):
                    principal = await self._engine.projects.enter(principal, project)
            except Fault as fault:
                await reply(fault)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = principal
        elif scope["type"] == "http" and (scope["method"], scope["path"]) == _LOGIN:
            await self._engine.sessions.turn(source_of(HTTPConnection(scope)))
        await self._app(scope, receive, send)


Caller = Annotated[Principal, Depends(caller)]
Core = Annotated[Engine, Depends(engine_of)]
