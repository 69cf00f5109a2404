"""What this dialect says when it will not: the documented error with tRPC's `data` beside it (hanzo.md §1.0, §1.1)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.kit.texts import clean
from polyvisor.model import faults
from polyvisor.model.faults import Fault

STATUSES: Mapping[str, int] = {
    "BAD_REQUEST": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_SUPPORTED": 405,
    "TIMEOUT": 408,
    "CONFLICT": 409,
    "PRECONDITION_FAILED": 412,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "TOO_MANY_REQUESTS": 429,
    "INTERNAL_SERVER_ERROR": 500,
    "BAD_GATEWAY": 502,
    "SERVICE_UNAVAILABLE": 503,
}
"""The documented six, and tRPC's own words for the rest."""

CODES: Mapping[type[Fault], str] = total(
    {
        faults.Invalid: "BAD_REQUEST",
        faults.Unauthenticated: "UNAUTHORIZED",
        faults.Throttled: "TOO_MANY_REQUESTS",
        faults.Forbidden: "FORBIDDEN",
        faults.NotFound: "NOT_FOUND",
        faults.Exists: "CONFLICT",
        faults.WrongState: "CONFLICT",
        faults.Busy: "CONFLICT",
        faults.Stale: "CONFLICT",
        faults.OverQuota: "FORBIDDEN",
        faults.NoCapacity: "CONFLICT",
        faults.Unsupported: "BAD_REQUEST",
        faults.Upstream: "BAD_GATEWAY",
        faults.TimedOut: "TIMEOUT",
        faults.Unavailable: "SERVICE_UNAVAILABLE",
        faults.Internal: "INTERNAL_SERVER_ERROR",
    },
    faults.FAULTS,
    "hanzo codes",
)


class Refusal(Exception):
    """Said before the engine is asked: a code, a message, and headers that go with it."""

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def reply(path: str, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The error of the procedure at `path`."""
    status = STATUSES[code]
    told = {"code": code, "httpStatus": status}
    said = clean(message)
    where = clean(path, 200)
    return JSONResponse({"error": {"message": said, **told, "data": {**told, "path": where}}}, status, headers)


def of_fault(path: str, fault: Fault) -> Response:
    """The error that a fault is."""
    headers = {} if fault.retry_after is None else {"Retry-After": str(max(1, round(fault.retry_after)))}
    said = fault.public.replace("alias: ", "name: ", 1) if fault.field == "alias" else fault.public
    return reply(path, CODES[type(fault)], said, headers)
