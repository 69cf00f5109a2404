"""What can be asked of a build and of a builder beside their lives. There are none (see `routes_later`)."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks
from polyvisor.dialects.hypeman.resolve import not_found
from polyvisor.dialects.hypeman.table import Call, Routes

routes = Routes()


@routes.add("GET /builds/{id}/events", "build:read", 200, str, query=asks.BuildEvents, media="text/event-stream")
async def build_events(call: Call) -> Response:
    """There are none."""
    raise not_found()


@routes.add("POST /builders/{id}/prune", "builder:write", 202, None)
async def prune_builder(call: Call) -> Response:
    """There are none."""
    raise not_found()
