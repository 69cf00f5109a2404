"""Waiting for a state: as long as asked, five minutes at most, and no longer than there is hope."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, resolve, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.grammar import Malformed, parse_duration
from polyvisor.dialects.hypeman.states import RESTING, word
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.model.face import face
from polyvisor.model.faults import NotFound, TimedOut
from polyvisor.model.instance import Instance

routes = Routes()
_LONGEST = 300.0


@routes.add(
    "GET /instances/{id}/wait",
    "instance:read",
    200,
    wire.WaitForStateResponse,
    query=asks.Wait,
    finder=resolve.instance,
)
async def wait_for_state(call: Call) -> Response:
    """Until it is in that state, rests in another one, or the time is over."""
    query: asks.Wait = call.query
    if query.state == "Unknown":
        raise Refusal(400, "invalid_state", f"invalid target state: {query.state}")
    limit = min(_limit(query.timeout), _LONGEST)
    instance: Instance = call.thing
    timed_out, found = False, None
    try:
        found = await call.core.instances.wait(call.principal, instance.id, lambda i: _over(i, query.state), limit)
    except NotFound:
        found = None
    except TimedOut:
        timed_out = True
        found = await call.core.instances.wait(call.principal, instance.id, lambda _: True, None)
    if found is None:
        raise Refusal(404, "not_found", "instance was deleted while waiting")
    state = word(found)
    error = found.observed.fault or None
    return said(
        wire.WaitForStateResponse(
            state=state,
            timed_out=timed_out and state != query.state,
            state_error=error if state == "Unknown" else None,
        )
    )


def _limit(text: str) -> float:
    try:
        limit = parse_duration(text)
    except Malformed as error:
        raise Refusal(400, "invalid_timeout", f"invalid timeout format: {error}") from error
    if limit <= 0:
        raise Refusal(400, "invalid_timeout", "timeout must be positive")
    return limit


def _over(instance: Instance, state: str) -> bool:
    """It is there, or will not get there by itself. One that is to be started again by its policy still may."""
    now = word(instance)
    return now == state or (face(instance) in RESTING and instance.observed.restart_at is None)
