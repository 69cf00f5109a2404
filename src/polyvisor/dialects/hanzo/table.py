"""Procedures as a table, and the one order in which a call is answered: procedure, verb, caller, limit, input, handler.

Names are tRPC's, verbs and statuses are REST's (seed). Who calls is a Bearer token.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from polyvisor.dialects.hanzo import errors
from polyvisor.dialects.hanzo.errors import Refusal
from polyvisor.dialects.hanzo.limits import Limits, Standing
from polyvisor.dialects.hanzo.settings import Settings
from polyvisor.dialects.kit.credentials import from_authorization, source_of
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault, Internal, Unauthenticated
from polyvisor.model.principal import Credential, Principal

log = logging.getLogger("polyvisor.hanzo")
BODY_LIMIT = 256 * 1024
PREFIX = "/api/"
QUERY, CREATE, ACT, UPDATE, DELETE = ("GET",), ("POST",), ("POST",), ("PATCH",), ("DELETE", "POST")
"""The verbs of a procedure. Proxies drop the body of a DELETE, so it may come by POST, too."""


@dataclass(slots=True)
class Call:
    """One call on its way through."""

    request: Request
    core: Engine
    settings: Settings
    principal: Principal
    body: Any


Handler = Callable[[Call], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Procedure:
    """`status` 204 has no body."""

    methods: tuple[str, ...]
    handler: Handler
    body: type[BaseModel]
    status: int


@dataclass(frozen=True, slots=True)
class Router:
    """A module's procedures, by name."""

    procedures: dict[str, Procedure] = field(default_factory=dict)

    def add(
        self, name: str, methods: tuple[str, ...], body: type[BaseModel], status: int = 200
    ) -> Callable[[Handler], Handler]:
        """Declare one."""

        def declare(handler: Handler) -> Handler:
            self.procedures[name] = Procedure(methods, handler, body, status)
            return handler

        return declare


class Table:
    """Every procedure over an engine."""

    def __init__(self, procedures: Mapping[str, Procedure], engine: Engine, settings: Settings) -> None:
        self._procedures = procedures
        self._engine = engine
        self._settings = settings
        self._limits = Limits(settings.reads, settings.writes, engine.clock)

    def count(self, connection: HTTPConnection, *, writes: bool) -> Standing:
        """One call more of whoever shows that token, or comes from that address."""
        token = connection.headers.get("authorization", "") or connection.query_params.get("token", "")
        return self._limits.count(token or f"from {source_of(connection)}", writes=writes)

    async def answer(self, request: Request) -> Response:
        """What is said to a call; the limits with it, whatever it is."""
        path = request.url.path.removeprefix(PREFIX)
        standing = self.count(request, writes=request.method not in ("GET", "HEAD"))
        response = await self._guarded(path, request, standing)
        response.headers.update(standing.headers)
        return response

    async def _guarded(self, path: str, request: Request, standing: Standing) -> Response:
        try:
            return await self._called(path, request, standing)
        except Refusal as refusal:
            return errors.reply(path, refusal.code, refusal.message, refusal.headers)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Fault as fault:
            if fault.private:
                log.warning("%s: %s (%s)", path, fault.public, fault.private)
            return errors.of_fault(path, fault)
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", path)
            return errors.of_fault(path, Internal())

    async def _called(self, path: str, request: Request, standing: Standing) -> Response:
        found = self._procedures.get(path)
        if found is None:
            if "," in path or "batch" in request.query_params:
                raise Refusal("BAD_REQUEST", "batch: calls are made one by one here")
            raise Refusal("NOT_FOUND", f'No procedure found on path "{path}"')
        if request.method not in found.methods:
            allow = ", ".join(found.methods)
            text = f"Unsupported {request.method}-request to procedure at path {path!r}: it takes {allow}"
            raise Refusal("METHOD_NOT_SUPPORTED", text, {"Allow": allow})
        principal = await caller(request, self._engine)
        self.mind(standing)
        body = await _input(found, request)
        said = await found.handler(Call(request, self._engine, self._settings, principal, body))
        if isinstance(said, Response):
            return said
        if found.status == 204:
            return Response(status_code=204)
        return JSONResponse({"result": {"data": said}}, found.status)

    def mind(self, standing: Standing) -> None:
        """:raise Refusal: it was one call too many, and that is minded here."""
        if standing.over and self._settings.enforced:
            wait = max(1, standing.reset - int(self._engine.clock().timestamp()))
            raise Refusal("TOO_MANY_REQUESTS", "there were too many calls: try again later", {"Retry-After": str(wait)})


async def caller(connection: HTTPConnection, core: Engine) -> Principal:
    """Who shows a Bearer token. :raise Unauthenticated:"""
    shown = from_authorization(connection.headers.get("authorization", ""), source_of(connection))
    if shown is None or not shown.key:
        raise Unauthenticated("a Bearer token is needed: Authorization: Bearer <token>")
    return await core.authenticate(Credential(key=shown.key, source=shown.source))


async def _input(found: Procedure, request: Request) -> BaseModel:
    said = await _said(request) if request.method != "GET" else None
    if said is None or (not said and request.query_params):
        said = _query(request)
    try:
        return found.body.model_validate(said)
    except ValidationError as error:
        raise Refusal("BAD_REQUEST", _reason(error)) from error


def _query(request: Request) -> object:
    """Flat parameters, or one with all of them as JSON. A token is no input."""
    flat = {name: value for name, value in request.query_params.items() if name not in ("input", "token")}
    if "input" not in request.query_params:
        return flat
    more = _decoded(request.query_params["input"].encode(errors="replace"), "input")
    return flat | more if isinstance(more, dict) else more


async def _said(request: Request) -> object:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise Refusal("PAYLOAD_TOO_LARGE", f"the body is larger than {BODY_LIMIT} bytes")
    if not data.strip():
        return {}
    kind = request.headers.get("content-type", "application/json").lower()
    if "json" not in kind:
        raise Refusal("UNSUPPORTED_MEDIA_TYPE", "the body must be JSON: Content-Type: application/json")
    return _decoded(data, "body")


def _decoded(data: bytes, what: str) -> object:
    try:
        found: object = json.loads(data)
        json.dumps(found, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError) as error:
        raise Refusal("BAD_REQUEST", f"{what}: is not valid JSON") from error
    return found


def _reason(error: ValidationError) -> str:
    """What is wrong first, with the field's name."""
    first = error.errors()[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if not place:
        return "body: must be a JSON object"
    return f"{place}: is required" if first["type"] == "missing" else f"{place}: {first['msg']}"
