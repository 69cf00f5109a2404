"""Pushes over HTTP: images that are taken to other registries."""

from __future__ import annotations

from starlette.responses import Response

from polyvisor.dialects.hypeman import asks, wire
from polyvisor.dialects.hypeman.encode import said
from polyvisor.dialects.hypeman.errors import Refusal
from polyvisor.dialects.hypeman.names import ours, spelt_out
from polyvisor.dialects.hypeman.pulling import find_image
from polyvisor.dialects.hypeman.table import Call, Routes
from polyvisor.model.faults import Forbidden, Invalid, NotFound, OverQuota
from polyvisor.model.push import Login, Push

routes = Routes()
_LATER = "1"  # seconds after which it is worth asking again


@routes.add("GET /pushes", "image:read", 200, list[wire.Push])
async def list_pushes(call: Call) -> Response:
    """Those that this server knows of, newest first."""
    return said([push_to(one) for one in await call.core.pushes.list(call.principal)])


@routes.add("POST /pushes", "image:write", 202, wire.Push, body=asks.CreatePushRequest)
async def create_push(call: Call) -> Response:
    """Begin to take an image that is here to a registry."""
    body: asks.CreatePushRequest = call.body
    login = login_of(body.credentials)
    try:
        name, _ = await find_image(call, body.image)
    except NotFound:
        if _is_fetched(call, body.image):
            raise Refusal(409, "image_not_ready", "image is not ready") from None
        raise Refusal(404, "not_found", "image not found") from None
    try:
        push = await call.core.pushes.create(call.principal, name, body.target, insecure=body.insecure, login=login)
    except (Invalid, Forbidden) as fault:
        code = "invalid_target" if fault.field == "target" else "invalid_request"
        raise Refusal(400, code, fault.public) from fault
    except OverQuota as fault:
        raise Refusal(409, "conflict", fault.public, final=False) from fault
    return said(push_to(push), 202, {"Location": f"/pushes/{push.id}", "Retry-After": _LATER})


def _is_fetched(call: Call, asked: str) -> bool:
    """Whether it is on its way here."""
    if asked.startswith("sha256:"):
        return False
    fetching = call.core.images.fetching(call.principal)
    return any(name in fetching and not fetching[name].error for name in (ours(asked), spelt_out(asked)))


def login_of(credentials: asks.PushCredentials | None) -> Login | None:
    """What is borrowed; None: nothing was said. :raise Refusal:"""
    if credentials is None or not any((credentials.username, credentials.password, credentials.registry_token)):
        return None
    if credentials.registry_token:
        if credentials.username or credentials.password:
            text = "credentials: a registry_token and a username and password exclude each other"
            raise Refusal(409, "credential_conflict", text)
        text = "credentials.registry_token: is not supported; a username and a password are"
        raise Refusal(400, "invalid_request", text)
    if not credentials.username or not credentials.password:
        raise Refusal(400, "invalid_request", "credentials: username and password are needed together")
    if ":" in credentials.username:
        raise Refusal(400, "invalid_request", "credentials.username: must not hold a colon")
    return Login(credentials.username, credentials.password)


@routes.add("GET /pushes/{id}", "image:read", 200, wire.Push)
async def get_push(call: Call) -> Response:
    """One push."""
    try:
        return said(push_to(await call.core.pushes.get(call.principal, call.path("id"))))
    except NotFound:
        raise Refusal(404, "not_found", "push not found") from None


def push_to(push: Push) -> wire.Push:
    """A push for its reader."""
    name = push.image if push.image.startswith("sha256:") else spelt_out(push.image)
    return wire.Push(
        id=push.id, image=name, digest=push.digest, target=push.target, status=push.state.value,
        queue_position=push.position, error=push.error or None, layers=push.sent.layers if push.sent else None,
        bytes=push.sent.size if push.sent else None, created_at=push.created, completed_at=push.completed,
    )  # fmt: skip
