"""Routes as a table: each says its scope, its schema and its handler, and all of them are answered in one order.

That order is upstream's (hypeman.md §1.1): route, token, parameters and body, scope, the thing that the path names, and
then the handler. So a route cannot forget to ask for a scope, and the document is made from the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as PathRoute
from starlette.types import Receive, Scope, Send

from polyvisor.dialects.hypeman import errors, validate
from polyvisor.dialects.hypeman.auth import Caller, Refused, caller_of
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault, Internal
from polyvisor.model.principal import Principal
from polyvisor.model.units import MIB

log = logging.getLogger("polyvisor.hypeman")
BODY_LIMIT = 1 * MIB
"""A JSON body is held in memory."""


@dataclass(slots=True)
class Call:
    """One request on its way through: who asks, what was understood of it, and what its path names."""

    request: Request
    core: Engine
    caller: Caller
    query: Any = None
    body: Any = None
    thing: Any = None

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.caller.principal

    def path(self, name: str) -> str:
        """A parameter of the path."""
        return str(self.request.path_params[name])


Handler = Callable[[Call], Awaitable[Response]]
Finder = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """`scope` None: anybody may. `finder` finds what the path names before the handler is called. `optional`: without a
    body it is `{}`. `reply` is what a success says, and `also` are refusals beside the usual ones, for the document.
    `form`: its body is a form of these fields, which the handler reads, with the file that it names.
    `shadows`: for other methods the path is another row's, which has a wider pattern."""

    method: str
    path: str
    scope: str | None
    handler: Handler
    status: int
    reply: Any
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    optional: bool = False
    finder: Finder | None = None
    media: str = "application/json"
    shadows: bool = False
    also: tuple[int, ...] = ()
    form: tuple[type[BaseModel], str] | None = None

    @property
    def name(self) -> str:
        """What it does, in one word."""
        return str(getattr(self.handler, "__name__", ""))


@dataclass(frozen=True, slots=True)
class Routes:
    """A module's rows."""

    rows: list[Route] = field(default_factory=list)

    def add(self, line: str, scope: str | None, status: int, reply: Any, **more: Any) -> Callable[[Handler], Handler]:
        """Declare a route: `line` is `METHOD /path`."""
        method, _, path = line.partition(" ")

        def declare(handler: Handler) -> Handler:
            self.rows.append(Route(method, path, scope, handler, status, reply, **more))
            return handler

        return declare


class Endpoint:
    """All methods of one path, as an ASGI application."""

    def __init__(self, rows: Sequence[Route], engine: Engine) -> None:
        self._rows = {row.method: row for row in rows}
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        row = self._rows.get(request.method)
        if row is None:
            return errors.wrong_method(sorted(self._rows))
        try:
            return await _answer(row, request, self._engine)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except Refusal as refusal:
            return errors.by_handler(refusal)
        except Fault as fault:
            return errors.by_handler(errors.of_fault(fault))
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", request.url.path)
            return errors.by_handler(errors.of_fault(Internal()))


async def _answer(row: Route, request: Request, engine: Engine) -> Response:
    caller = None
    if row.scope is not None:
        try:
            caller = await caller_of(request, engine)
        except Refused as refused:
            return errors.by_validator(401, f"security requirements failed: {refused}")
    try:
        query = validate.query_of(row.query, request.query_params.multi_items()) if row.query else None
        body = await _body(row, request) if row.body is not None else None
    except validate.Refused as refused:
        return errors.by_validator(400, str(refused))
    if caller is None:
        return await row.handler(Call(request, engine, _NOBODY))
    if row.scope is not None and not caller.may(row.scope):
        return errors.by_scopes(row.scope)
    call = Call(request, engine, caller, query, body)
    if row.finder is not None:
        try:
            call.thing = await row.finder(call)
        except Refusal as refusal:
            return errors.by_resolver(refusal)
    return await row.handler(call)


_NOBODY = Caller(Principal("", "", frozenset()))  # type: ignore[arg-type]  # of no project


async def _body(row: Route, request: Request) -> BaseModel:
    assert row.body is not None
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise validate.Refused(f"request body has an error: it is larger than {BODY_LIMIT} bytes")
    kind = request.headers.get("content-type", "")
    return validate.body_of(row.body, data, kind, required=not row.optional)


class _Anything(Convertor[str]):
    """The rest of a path, whatever is in it: Starlette's own stops at a line break."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


def rest_of(path: str) -> str:
    """A path whose last parameter is all that follows."""
    return path.replace(":path}", ":anything}")


def paths_of(rows: Sequence[Route], engine: Engine) -> list[PathRoute]:
    """The routes by path, in the order in which the paths were declared."""
    by_path: dict[str, list[Route]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    return [
        PathRoute(
            rest_of(path), Endpoint(some, engine), methods=[row.method for row in some] if some[0].shadows else None
        )
        for path, some in by_path.items()
    ]
