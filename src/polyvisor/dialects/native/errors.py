"""Fault to status and body, and this dialect's own words for what never reaches the engine."""

from __future__ import annotations

import logging
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.tables import total
from polyvisor.model import faults
from polyvisor.model.faults import Fault
from polyvisor.wire.native import Problem

log = logging.getLogger("polyvisor.native")

STATUS = total(
    {
        faults.Invalid: 422,
        faults.Unauthenticated: 401,
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

_BARE = {404: "NotFound", 405: "Invalid", 413: "Invalid", 415: "Invalid"}


def problem(fault: Fault) -> Problem:
    """The body of a fault."""
    return Problem(kind=fault.kind, message=fault.public, field=fault.field, subject=fault.subject)


def reply(fault: Fault) -> Response:
    """The whole answer to a fault."""
    headers = {}
    if isinstance(fault, faults.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="polyvisor", Basic realm="polyvisor"'
    if fault.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return JSONResponse(problem(fault).model_dump(), STATUS[type(fault)], headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    fault = cast(Fault, error)
    if fault.private:
        log.warning("%s %s: %s (%s)", request.method, request.url.path, fault.public, fault.private)
    return reply(fault)


async def _on_invalid(request: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    field = ".".join(where) or "body"
    return reply(faults.Invalid(f"{field}: {first['msg']}", field=field))


async def _on_http(request: Request, error: Exception) -> Response:
    refusal = cast(HTTPException, error)
    kind = _BARE.get(refusal.status_code, "Invalid")
    body = Problem(kind=kind, message=str(refusal.detail)).model_dump()
    return JSONResponse(body, refusal.status_code, refusal.headers)


async def _on_surprise(request: Request, error: Exception) -> Response:
    log.exception("%s %s", request.method, request.url.path, exc_info=error)
    return reply(faults.Internal())


def install(app: FastAPI) -> None:
    """Give the application this dialect's error bodies."""
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_surprise)
