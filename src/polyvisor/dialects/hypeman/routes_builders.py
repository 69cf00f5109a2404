"""Builders over HTTP: disks that builds keep their layers on."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, policies, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.engine.builders import SIZE
from polyvisor.model.build import Builder
from polyvisor.model.faults import Busy, Exists, NoCapacity, NotFound, OverQuota
from polyvisor.model.units import GIB, Bytes

routes = Routes()
_LONGEST_NAME = 255


async def find_builder(call: Call) -> Builder:
    """The builder that a path names, by its id alone. :raise Refusal:"""
    try:
        return await call.core.builders.get(call.principal, call.path("id"))
    except NotFound:
        raise Refusal(404, "not_found", "resource not found") from None


def builder_to(builder: Builder) -> wire.Builder:
    """A builder for its reader."""
    return wire.Builder(
        id=builder.id, name=builder.name or None, disk_size_gb=builder.size // GIB, status=builder.state.value,
        tags=dict(builder.labels) or None, created_at=builder.created, last_used_at=builder.used, max_concurrency=1,
        active_build_id=builder.active, queued_builds=list(builder.queued),
    )  # fmt: skip


@routes.add("GET /builders", "builder:read", 200, list[wire.Builder], query=asks.ListTagged)
async def list_builders(call: Call) -> Response:
    """Every builder, or those with all of some tags."""
    query: asks.ListTagged = call.query
    wanted = (query.tags or {}).items()
    found = await call.core.builders.list(call.principal)
    return said([builder_to(one) for one in found if wanted <= dict(one.labels).items()])


@routes.add("POST /builders", "builder:write", 201, wire.Builder, body=asks.CreateBuilderRequest)
async def create_builder(call: Call) -> Response:
    """One with an empty disk."""
    body: asks.CreateBuilderRequest = call.body
    policies.check_tags(body.tags)
    name = body.name or ""
    if len(name) > _LONGEST_NAME or "\0" in name:
        raise Refusal(400, "invalid_request", f"name must have at most {_LONGEST_NAME} characters")
    if body.id == "":
        raise Refusal(400, "invalid_request", "id must not be empty")
    size = Bytes(body.disk_size_gb * GIB) if body.disk_size_gb else SIZE
    labels = tuple((body.tags or {}).items())
    try:
        made = await call.core.builders.create(call.principal, body.id or "", name, size, labels)
    except Exists as fault:
        raise Refusal(409, "already_exists", "builder with this ID already exists") from fault
    except (OverQuota, NoCapacity) as fault:
        raise Refusal(409, "quota_exceeded", fault.public) from fault
    return said(builder_to(made), 201, {"Location": f"/builders/{made.id}"})


@routes.add("GET /builders/{id}", "builder:read", 200, wire.Builder, finder=find_builder)
async def get_builder(call: Call) -> Response:
    """One builder."""
    return said(builder_to(call.thing))


@routes.add("DELETE /builders/{id}", "builder:delete", 204, None, finder=find_builder)
async def delete_builder(call: Call) -> Response:
    """It and all that is on its disk are gone."""
    try:
        await call.core.builders.delete(call.principal, call.thing.id)
    except Busy as fault:
        raise Refusal(409, "conflict", fault.public, final=False) from fault
    return Response(status_code=204)


@routes.add("POST /builders/{id}/prune", "builder:write", 202, wire.Builder, finder=find_builder)
async def prune_builder(call: Call) -> Response:
    """Its disk is empty again, in a while."""
    try:
        return said(builder_to(await call.core.builders.prune(call.principal, call.thing.id)), 202)
    except Busy as fault:
        raise Refusal(409, "conflict", fault.public, final=False) from fault
