"""Fault to status and body, and this dialect's own words for what never reaches the engine."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.kit.texts import clean
from polyvisor.model import faults
from polyvisor.model.faults import Fault
from polyvisor.wire.native import Problem

log = logging.getLogger("polyvisor.native")

STATUS: Mapping[type[Fault], int] = total(
    {
        faults.Invalid: 422,
        faults.Unauthenticated: 401,
        faults.Throttled: 429,
        faults.Forbidden: 403,
        faults.NotFound: 404,
        faults.Exists: 409,
        faults.WrongState: 409,
        faults.Busy: 409,
        faults.Stale: 412,
        faults.OverQuota: 403,
        faults.NoCapacity: 507,
        faults.Unsupported: 422,
        faults.Upstream: 502,
        faults.TimedOut: 408,
        faults.Unavailable: 503,
        faults.Internal: 500,
    },
    faults.FAULTS,
    "native statuses",
)

_BARE = {404: "NotFound"}  # all else that the framework refuses by itself is the request's fault


def kinds() -> dict[int, str]:
    """Every error status with the kinds behind it, for the published document."""
    found = {413: "Invalid"}
    for fault, status in STATUS.items():
        found[status] = ", ".join(filter(None, (found.get(status), fault.__name__)))
    return dict(sorted(found.items()))


def problem(fault: Fault) -> Problem:
    """The body of a fault."""
    field, subject = (None if text is None else clean(text) for text in (fault.field, fault.subject))
    return Problem(kind=fault.kind, message=clean(fault.public), field=field, subject=subject)


def reply(fault: Fault) -> Response:
    """The whole answer to a fault."""
    headers = {}
    if isinstance(fault, faults.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="polyvisor", Basic realm="polyvisor"'
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return JSONResponse(problem(fault).model_dump(), STATUS[type(fault)], headers)


def too_large(limit: int) -> Response:
    """The answer to a body that is larger than `limit` bytes."""
    body = Problem(kind="Invalid", message=f"body: larger than {limit} bytes", field="body")
    return JSONResponse(body.model_dump(), 413)


def invalid(error: Mapping[str, Any]) -> faults.Invalid:
    """The first finding of a validation as a fault that names the field."""
    if error["type"] == "json_invalid":
        return faults.Invalid("body: is not JSON", field="body")
    place = list(error["loc"])
    if place and place[0] in ("body", "query", "path", "header"):
        place = place[1:]
    where = [str(part) for part in place if part != "[key]"]
    field = ".".join(where) or "body"
    return faults.Invalid(f"{field}: {error['msg']}", field=field)


async def _on_fault(connection: HTTPConnection, error: Exception) -> Response:
    fault = cast(Fault, error)
    if fault.private:
        log.warning("%s: %s (%s)", connection.url.path, fault.public, fault.private)
    return reply(fault)


async def _on_invalid(connection: HTTPConnection, error: Exception) -> Response:
    return reply(invalid(cast(RequestValidationError, error).errors()[0]))


async def _on_http(connection: HTTPConnection, error: Exception) -> Response:
    refusal = cast(HTTPException, error)
    if refusal.status_code == 400:  # a body that cannot even be parsed
        return reply(faults.Invalid("body: is not JSON", field="body"))
    field = "body" if refusal.status_code == 413 else None
    body = Problem(kind=_BARE.get(refusal.status_code, "Invalid"), message=str(refusal.detail), field=field)
    return JSONResponse(body.model_dump(), refusal.status_code, refusal.headers)


async def _on_hangup(connection: HTTPConnection, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_surprise(connection: HTTPConnection, error: Exception) -> Response:
    log.error("%s", connection.url.path, exc_info=error)
    return reply(faults.Internal())


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer where no route is, to a request and to a WebSocket."""
    await reply(faults.NotFound("there is nothing at this path"))(scope, receive, send)


def install(app: FastAPI) -> None:
    """Give the application this dialect's error bodies."""
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(WebSocketRequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_hangup)
    app.add_exception_handler(Exception, _on_surprise)
    app.router.default = nowhere
