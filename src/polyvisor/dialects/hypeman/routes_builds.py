"""Builds over HTTP: an image of a source and its Dockerfile, made in a machine of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.responses import Response, StreamingResponse

from polyvisor.dialects.hypeman import asks, policies, wire
from polyvisor.dialects.hypeman.encode import said, text_of
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.forms import form_of
from polyvisor.dialects.hypeman.names import ours, spelt_out
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.dialects.hypeman.validate import reason
from polyvisor.engine.builds import LARGEST_SOURCE
from polyvisor.model.build import Build, BuildAsk, BuildNews, SecretRef
from polyvisor.model.faults import Busy, Exists, Fault, Invalid, NotFound, OverQuota, WrongState
from polyvisor.model.units import MIB, Bytes, Seconds

routes = Routes()
_SECRETS = TypeAdapter(list[asks.BuildSecret])
_TAGS = TypeAdapter(asks.Tags)
_CODES = {"source": "invalid_source", "dockerfile": "dockerfile_required"}
_OURS = {"timeout": "timeout_seconds", "memory": "memory_mb"}


@routes.add("GET /builds", "build:read", 200, list[wire.Build], query=asks.ListTagged)
async def list_builds(call: Call) -> Response:
    """Those that this server knows of, newest first, or those with all of some tags."""
    query: asks.ListTagged = call.query
    wanted = (query.tags or {}).items()
    found = await call.core.builds.list(call.principal)
    return said([build_to(one) for one in found if wanted <= dict(one.labels).items()])


@routes.add("POST /builds", "build:write", 202, wire.Build, form=(asks.CreateBuildRequest, "source"))
async def create_build(call: Call) -> Response:
    """Begin to build an image of a source, a tar.gz archive, by the Dockerfile in it or beside it."""
    async with form_of(call, asks.CreateBuildRequest, "source", LARGEST_SOURCE) as form:
        ask = ask_of(form.fields)
        try:
            build = await call.core.builds.create(call.principal, ask, form.chunks(), form.file.size or 0)
        except (Invalid, Exists) as fault:
            raise _refusal(fault) from fault
        except NotFound as fault:
            raise Refusal(404, "not_found", "builder not found") from fault
        except (Busy, OverQuota) as fault:
            raise Refusal(409, "conflict", fault.public, final=False) from fault
    return said(build_to(build), 202, {"Location": f"/builds/{build.id}"})


def _refusal(fault: Fault) -> Refusal:
    """A field's name is told as it is called here."""
    text = fault.public
    for name, called in _OURS.items():
        text = called + text.removeprefix(name) if text.startswith(f"{name}:") else text
    return Refusal(400, _CODES.get(fault.field or "", "invalid_request"), text)


def ask_of(form: asks.CreateBuildRequest) -> BuildAsk:
    """What a form asks for. :raise Refusal: naming a field that is wrong, or means nothing here."""
    for name in ("cache_scope", "global_cache_key"):
        if getattr(form, name):
            raise _wrong(f"{name}: there is no cache but that of a builder, which builder_id names")
    if form.is_admin_build not in (None, "", "false"):
        raise _wrong("is_admin_build: there is no shared cache that such a build could fill")
    secrets = _parsed("secrets", _SECRETS, form.secrets, [])
    tags: dict[str, str] = _parsed("tags", _TAGS, form.tags, {})
    policies.check_tags(tags)
    if form.image_name and form.image_name.startswith("sha256:"):
        raise _wrong("image_name: must be a name, not a digest")
    return BuildAsk(
        dockerfile=form.dockerfile or "", image=ours(form.image_name) if form.image_name else "",
        base=form.base_image_digest or "", builder=form.builder_id or "", vcpus=form.cpus,
        memory=Bytes(form.memory_mb * MIB), timeout=Seconds(float(form.timeout_seconds)),
        secrets=tuple(SecretRef(one.id, one.env_var or "") for one in secrets), labels=tuple(tags.items()),
    )  # fmt: skip


def _parsed(name: str, adapter: TypeAdapter[Any], text: str | None, default: Any) -> Any:
    """A field that is JSON. :raise Refusal:"""
    if not text:
        return default
    try:
        return adapter.validate_json(text)
    except ValidationError as error:
        first: dict[str, Any] = dict(error.errors(include_url=False)[0])
        if first["type"] == "json_invalid":
            raise _wrong(f"{name}: must be JSON") from error
        place = "".join(f"/{part}" for part in first["loc"])
        raise _wrong(f'{name}: Error at "{place}": {reason(first)}') from error
    except (ValueError, RecursionError) as error:
        raise _wrong(f"{name}: must be JSON") from error


def _wrong(text: str) -> Refusal:
    return Refusal(400, "invalid_request", text)


def build_to(build: Build) -> wire.Build:
    """A build for its reader."""
    taken = (build.completed - build.started) if build.completed and build.started else None
    made = build.provenance
    return wire.Build(
        id=build.id, status=build.state.value, tags=dict(build.labels) or None, queue_position=build.position,
        image_digest=build.digest or None, image_ref=spelt_out(build.image) if build.digest else None,
        error=build.error or None, created_at=build.created, started_at=build.started, completed_at=build.completed,
        duration_ms=None if taken is None else int(taken.total_seconds() * 1000),
        builder_instance_id=build.instance, builder_id=build.builder or None,
        provenance=wire.BuildProvenance(
            base_image_digest=made.base or None, source_hash=made.source.removeprefix("sha256:") or None,
            lockfile_hashes={name: one.removeprefix("sha256:") for name, one in made.locks.items()} or None,
            timestamp=build.completed,
        ) if build.digest else None,
    )  # fmt: skip


def _gone() -> Refusal:
    return Refusal(404, "not_found", "build not found")


@routes.add("GET /builds/{id}", "build:read", 200, wire.Build)
async def get_build(call: Call) -> Response:
    """One build."""
    try:
        return said(build_to(await call.core.builds.get(call.principal, call.path("id"))))
    except NotFound:
        raise _gone() from None


@routes.add("DELETE /builds/{id}", "build:delete", 204, None)
async def cancel_build(call: Call) -> Response:
    """It is not made any more, and the machine that it was made in is gone."""
    try:
        await call.core.builds.cancel(call.principal, call.path("id"))
    except NotFound:
        raise _gone() from None
    except WrongState as fault:
        raise Refusal(409, "conflict", f"build already completed: {fault.public}") from fault
    return Response(status_code=204)


@routes.add(
    "GET /builds/{id}/events", "build:read", 200, wire.BuildEvent, query=asks.BuildEvents, media="text/event-stream"
)
async def build_events(call: Call) -> Response:
    """What it said and what became of it; with `follow` until it is over."""
    query: asks.BuildEvents = call.query
    try:
        news = await call.core.builds.news(call.principal, call.path("id"), follow=query.follow)
    except NotFound:
        raise _gone() from None
    return StreamingResponse(_events(news), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _events(news: AsyncIterator[BuildNews]) -> AsyncIterator[bytes]:
    async for one in news:
        yield b"data: " + text_of(_event(one)).encode("utf-8", "replace") + b"\n\n"


def _event(news: BuildNews) -> wire.BuildEvent:
    if news.state is not None:
        return wire.BuildEvent(type="status", timestamp=news.at, status=news.state.value)
    if news.line is not None:
        return wire.BuildEvent(type="log", timestamp=news.at, content=news.line)
    return wire.BuildEvent(type="heartbeat", timestamp=news.at)
