"""Refusals: which fault has which status and code, and the five ways upstream writes them (hypeman.md §1.1).

They differ in bytes. All of ours are valid JSON; upstream's validator does not escape its message.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import PlainTextResponse, Response

from polyvisor.dialects.hypeman.encode import said, said_bare, text_of
from polyvisor.dialects.hypeman.wire import Error
from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.kit.texts import clean
from polyvisor.model import faults
from polyvisor.model.faults import Fault

log = logging.getLogger("polyvisor.hypeman")
_NOSNIFF = {"X-Content-Type-Options": "nosniff"}

TABLE: Mapping[type[Fault], tuple[int, str]] = total(
    {
        faults.Invalid: (400, "invalid_request"),
        faults.Unauthenticated: (401, "Unauthorized"),
        faults.Throttled: (429, "too_many_requests"),
        faults.Forbidden: (403, "Forbidden"),
        faults.NotFound: (404, "not_found"),
        faults.Exists: (409, "already_exists"),
        faults.WrongState: (409, "invalid_state"),
        faults.Busy: (409, "conflict"),
        faults.Stale: (409, "conflict"),
        faults.OverQuota: (409, "insufficient_resources"),
        faults.NoCapacity: (409, "insufficient_resources"),
        faults.Unsupported: (400, "not_supported"),
        faults.Upstream: (502, "upstream_error"),
        faults.TimedOut: (504, "timeout"),
        faults.Unavailable: (503, "unavailable"),
        faults.Internal: (500, "internal_error"),
    },
    faults.FAULTS,
    "hypeman statuses",
)
# What a repeat cannot change: the SDK would try twice more and lose a second and a half each time.
_FINAL = frozenset({faults.WrongState, faults.Exists, faults.OverQuota})


class Refusal(Exception):
    """A refusal with a code of its own. `final`: a repeat cannot succeed."""

    def __init__(self, status: int, code: str, message: str, *, final: bool = True) -> None:
        self.status, self.code, self.message, self.final = status, code, message, final
        super().__init__(message)


def of_fault(fault: Fault) -> Refusal:
    """What this dialect says of a fault."""
    if fault.private:
        log.warning("%s (%s)", fault.public, fault.private)
    status, code = TABLE[type(fault)]
    return Refusal(status, code, fault.public, final=type(fault) in _FINAL)


def _body(refusal: Refusal) -> Error:
    return Error(code=refusal.code, message=clean(refusal.message))


def _headers(refusal: Refusal) -> dict[str, str]:
    return {"X-Should-Retry": "false"} if refusal.final and refusal.status == 409 else {}


def by_handler(refusal: Refusal) -> Response:
    """As a handler says it."""
    return said(_body(refusal), refusal.status, _headers(refusal))


def by_resolver(refusal: Refusal) -> Response:
    """As what finds the thing that a path names says it."""
    return said_bare(_body(refusal), refusal.status, _headers(refusal))


def by_validator(status: int, message: str) -> Response:
    """As the check of a request against the document says it."""
    return said_bare(Error(code=HTTPStatus(status).phrase, message=clean(message)), status)


def by_scopes(scope: str) -> Response:
    """As the check of a token's permissions says it."""
    return said_bare(Error(code="Forbidden", message=f"missing required scope: {scope}"), 403)


def before_upgrade(refusal: Refusal) -> Response:
    """As exec and cp say it before they become a WebSocket."""
    body = text_of(_body(refusal)) + "\n"
    return PlainTextResponse(body, refusal.status, _NOSNIFF)


def nowhere() -> Response:
    """No route has this path."""
    return PlainTextResponse("404 page not found\n", 404, _NOSNIFF)


def wrong_method(allowed: list[str]) -> Response:
    """A route has this path, but not for this method."""
    return Response(status_code=405, headers={"Allow": ", ".join(allowed)})
