"""Faults as this dialect says them: `{"detail": …}`, and for bad input FastAPI's list with a `loc` (instavm.md §1.1,
§1.2).

A limit is told with 403 or 429: only for these the SDK has an exception of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.kit.texts import clean
from polyvisor.model import faults
from polyvisor.model.faults import Fault

log = logging.getLogger("polyvisor.instavm")

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
        faults.Stale: 409,
        faults.OverQuota: 429,
        faults.NoCapacity: 429,
        faults.Unsupported: 422,
        faults.Upstream: 502,
        faults.TimedOut: 504,
        faults.Unavailable: 503,
        faults.Internal: 500,
    },
    faults.FAULTS,
    "instavm statuses",
)
_FIELDS = {
    "lifetime": "vm_lifetime_seconds", "memory": "memory_mb", "vcpus": "vcpu_count", "image": "image_variant",
    "snapshot": "snapshot_id", "ending.name": "snapshot_name", "egress": "egress_policy", "labels": "metadata",
    "vaults": "vault_ids",
}  # fmt: skip
"""Our fields that are called otherwise here."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_WAIT = 5.0


def refused(field: str, text: str, kind: str = "value_error", place: str = "body") -> Response:
    """The answer to a field that is wrong, or to the whole."""
    where: list[str | int] = [int(part) if _NUMBER.fullmatch(part) else part for part in field.split(".") if part]
    return JSONResponse({"detail": [{"loc": [place, *where], "msg": clean(text), "type": kind}]}, 422)


def reply(fault: Fault) -> Response:
    """The whole answer to a fault."""
    status = STATUS[type(fault)]
    if status == 422:
        field = fault.field or ""
        return refused(_FIELDS.get(field, field), fault.public.removeprefix(f"{field}: "))
    wait = fault.retry_after or (_WAIT if status == 429 else None)
    headers = {} if wait is None else {"Retry-After": str(max(1, round(wait)))}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"detail": clean(fault.public)}, status, headers)


async def _on_fault(connection: HTTPConnection, error: Exception) -> Response:
    fault = cast(Fault, error)
    if fault.private:
        log.warning("%s: %s (%s)", connection.url.path, fault.public, fault.private)
    return reply(fault)


async def _on_invalid(connection: HTTPConnection, error: Exception) -> Response:
    """What was sent is not sent back: there may be secrets in it."""
    found = [_told(one) for one in cast(RequestValidationError, error).errors()]
    return JSONResponse({"detail": found}, 422)


def _told(error: Mapping[str, Any]) -> dict[str, object]:
    where = [clean(part) if isinstance(part, str) else part for part in error["loc"]]
    return {"loc": where, "msg": clean(str(error["msg"])), "type": error["type"]}


async def _on_http(connection: HTTPConnection, error: Exception) -> Response:
    refusal = cast(HTTPException, error)
    if refusal.status_code == 400:  # a body that cannot even be parsed
        form = connection.headers.get("content-type", "").startswith("multipart/")
        kind, text = ("form_invalid", str(refusal.detail)) if form else ("json_invalid", "JSON decode error")
        return JSONResponse({"detail": [{"loc": ["body"], "msg": clean(text), "type": kind}]}, 422)
    return JSONResponse({"detail": str(refusal.detail)}, refusal.status_code, refusal.headers)


async def _on_hangup(connection: HTTPConnection, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _on_surprise(connection: HTTPConnection, error: Exception) -> Response:
    log.error("%s", connection.url.path, exc_info=error)
    return reply(faults.Internal())


def install(app: FastAPI) -> None:
    """Give the application this dialect's error bodies."""
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_hangup)
    app.add_exception_handler(Exception, _on_surprise)
