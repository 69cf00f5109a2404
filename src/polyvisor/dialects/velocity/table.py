"""Routes as a table, and the one order in which a request is answered: route, authkey, body, handler.

The order is the server's (velocity.md §1.0 to §1.2). An authkey is taken from the Authorization header, from the body,
where it was before 2024, or from a header of its own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from polyvisor.dialects.kit.credentials import from_authorization, source_of
from polyvisor.dialects.velocity import errors
from polyvisor.dialects.velocity.errors import Bare, Refusal
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault, Internal, Unauthenticated
from polyvisor.model.principal import EVERYTHING, Principal
from polyvisor.model.units import Seconds

log = logging.getLogger("polyvisor.velocity")
BODY_LIMIT = 16 * 1024
_HEADER = "x-velocity-authkey"
_KINDS = {"string_type": "String", "int_type": "Int", "bool_type": "Bool", "list_type": "Array"}


@dataclass(slots=True)
class Call:
    """One request on its way through."""

    request: Request
    core: Engine
    principal: Principal
    body: Any = None
    lifetime: Seconds = Seconds(0.0)


Handler = Callable[[Call], Awaitable[object]]
Codes = Mapping[type[Fault], int]


@dataclass(frozen=True, slots=True)
class Row:
    """`open`: no authkey is needed. `codes`: what faults are called here. `streams`: the handler reads the body."""

    handler: Handler
    body: type[BaseModel] | None
    codes: Codes
    open: bool = False
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Routes:
    """A module's rows, by method and path."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)

    def add(
        self, line: str, body: type[BaseModel] | None, codes: Codes | None = None, **more: bool
    ) -> Callable[[Handler], Handler]:
        """Declare a route: `line` is `METHOD /path`."""
        method, _, path = line.partition(" ")

        def declare(handler: Handler) -> Handler:
            self.rows[method, path] = Row(handler, body, codes or {}, **more)
            return handler

        return declare


class Table:
    """Every row as an ASGI application."""

    def __init__(self, rows: Mapping[tuple[str, str], Row], engine: Engine, lifetime: Seconds) -> None:
        self._rows = rows
        self._engine = engine
        self._lifetime = lifetime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        response = await self._answer(request)
        response.headers["Access-Control-Allow-Origin"] = "*"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = "/" + "/".join(filter(None, request.url.path.split("/")))  # upstream's framework skips what is empty
        row = self._rows.get((request.method, path))
        if row is None:
            return _preflight() if request.method == "OPTIONS" else errors.bare(404, "Not Found")
        try:
            return await self._handled(row, request)
        except Refusal as refusal:
            return errors.by_code(refusal)
        except Bare as refusal:
            return errors.bare(refusal.status, refusal.reason)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Fault as fault:
            code = next((row.codes[kind] for kind in type(fault).__mro__ if kind in row.codes), None)
            if fault.private:
                log.warning("%s: %s (%s)", request.url.path, fault.public, fault.private)
            return errors.of_fault(fault) if code is None else errors.by_code(Refusal(code))
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", request.url.path)
            return errors.of_fault(Internal())

    async def _handled(self, row: Row, request: Request) -> Response:
        if row.open:
            await self._engine.sessions.turn(source_of(request))
        data = b"" if row.streams else await _read(request)
        principal = _NOBODY if row.open else await self._caller(request, data)
        body = None if row.body is None else _decoded(row.body, data, request)
        answer = await row.handler(Call(request, self._engine, principal, body, self._lifetime))
        if isinstance(answer, Response):
            return answer
        return Response() if answer is None else JSONResponse(answer)

    async def _caller(self, request: Request, data: bytes) -> Principal:
        key, source = _authkey(request, data), source_of(request)
        if not key:
            raise Refusal(errors.UNAUTHORIZED)
        try:
            return await self._engine.sessions.caller(key, source)
        except Unauthenticated as fault:
            raise Refusal(errors.UNAUTHORIZED) from fault


_NOBODY = Principal("", "", EVERYTHING)  # type: ignore[arg-type]  # of no project


_ALLOWED = (
    "accept, authorization, content-type, origin, x-requested-with, user-agent, access-control-allow-origin, "
    "file-name, x-velocity-authkey, x-velocity-mpid, x-velocity-gid, x-velocity-name, x-velocity-type, "
    "x-velocity-readonly"
)


def _preflight() -> Response:
    methods = "GET, POST, PUT, OPTIONS, DELETE, PATCH"
    return Response(headers={"Access-Control-Allow-Methods": methods, "Access-Control-Allow-Headers": _ALLOWED})


def _authkey(request: Request, data: bytes) -> str:
    shown = from_authorization(request.headers.get("authorization", ""))
    if shown is not None and shown.key:
        return shown.key
    if key := request.headers.get(_HEADER):
        return key
    try:
        key = json.loads(data).get("authkey", "") if data else ""
    except (ValueError, AttributeError, RecursionError):
        return ""
    return key if isinstance(key, str) else ""


async def _read(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise Bare(413, "Payload Too Large")
    return data


def _decoded(kind: type[BaseModel], data: bytes, request: Request) -> BaseModel:
    if not data:
        if not any(field.is_required() for field in kind.model_fields.values()):
            return kind()
        raise Bare(422, "Unprocessable Entity")
    if "json" not in request.headers.get("content-type", "").lower():
        raise Bare(415, "Unsupported Media Type")
    try:
        return kind.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise Bare(400, _reason(error)) from error


def _reason(error: Exception) -> str:
    """As the framework says it, with the field's name."""
    if not isinstance(error, ValidationError):
        return "The body is not valid JSON."
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "body"
    if first["type"] == "missing":
        return f"No such key '{place}' at path ''."
    if first["type"] in _KINDS:
        return f"Value was not of type '{_KINDS[first['type']]}' at path '{place}'. {first['msg']}."
    return f"Data was corrupted at path '{place}'. {first['msg']}."
