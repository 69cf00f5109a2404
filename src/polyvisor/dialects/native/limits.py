"""How much a request may say. JSON is held in memory, so it is small; uploads are streams and may be large."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyvisor.dialects.native.errors import too_large
from polyvisor.model.spec import MAX_DISK
from polyvisor.model.units import GIB, MIB

JSON_LIMIT = 1 * MIB
UPLOAD_LIMIT = 64 * GIB
_UPLOADS = {"/files": UPLOAD_LIMIT, "/archive": UPLOAD_LIMIT, "/images": UPLOAD_LIMIT, "/media": MAX_DISK}


def _limit(scope: Scope) -> int:
    if scope["method"] != "PUT":
        return JSON_LIMIT
    return next((limit for end, limit in _UPLOADS.items() if scope["path"].endswith(end)), JSON_LIMIT)


class BodyLimit:
    """Middleware: 413 from the announced length, or as soon as more has come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit, got = _limit(scope), 0
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > limit:
            await too_large(limit)(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > limit:
                raise HTTPException(413, f"body: larger than {limit} bytes")
            return message

        await self._app(scope, counted, send)


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """An upload's chunks, without the empty one at the end."""
    async for chunk in request.stream():
        if chunk:
            yield chunk
