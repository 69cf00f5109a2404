"""Faults as this API says them: `{"err": text}`, with the same text as `error` for clients of the newer guides.

429 and 5xx are never an answer to what can be expected: clients repeat such requests, POSTs too, but for 507
(vergeos.md §0, fact 13).
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.model import faults
from polyvisor.model.faults import Fault

_LONGEST = 2000
STATUSES: Mapping[type[Fault], int] = total(
    {
        faults.Invalid: 422,
        faults.Unauthenticated: 401,
        faults.Throttled: 401,
        faults.Forbidden: 403,
        faults.NotFound: 404,
        faults.Exists: 422,
        faults.WrongState: 409,
        faults.Busy: 409,
        faults.Stale: 409,
        faults.OverQuota: 507,
        faults.NoCapacity: 507,
        faults.Unsupported: 422,
        faults.Upstream: 422,
        faults.TimedOut: 408,
        faults.Unavailable: 409,
        faults.Internal: 500,
    },
    faults.FAULTS,
    "vergeos statuses",
)
"""The documented statuses (vergeos.md §1.5)."""

LOGIN = Refusal(401, "Failed Login / Login Required")
DENIED = "Permission Denied"


def conflict(text: str) -> Refusal:
    """What the present state does not allow."""
    return Refusal(409, text)


def taken() -> Refusal:
    """Of a row that is there already, and not by its name alone."""
    return Refusal(409, "Row exists")


def required(parameter: str) -> Refusal:
    """Of an action that lacks a parameter."""
    return Refusal(422, f"{parameter} is a required parameter")


def unset(field: str) -> Refusal:
    """Of a reference that leads nowhere."""
    return Refusal(404, f"error setting field '{field}' : No such file or directory")


def missing(place: str, verb: str = "get") -> Refusal:
    """Of a row that is not there, or may not be seen."""
    return Refusal(404, f"Resource '/v4/{place}' not found during {verb}")


def of_refusal(refusal: Refusal) -> Response:
    """The answer."""
    text = refusal.text[:_LONGEST].encode(errors="replace").decode()
    headers = {"WWW-Authenticate": 'Basic realm="VergeOS"'} if refusal.status == 401 else None
    return JSONResponse({"err": text, "error": text}, refusal.status, headers)


def of_fault(fault: Fault) -> Response:
    """The answer to a fault of the engine's."""
    if isinstance(fault, faults.Unauthenticated | faults.Throttled):
        return of_refusal(LOGIN)
    text = f"{DENIED}: {fault.public}" if isinstance(fault, faults.Forbidden) else fault.public
    return of_refusal(Refusal(STATUSES[type(fault)], text))
