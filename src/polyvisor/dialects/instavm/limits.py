"""How much a request may say. JSON is held in memory, so it is small; files may be large, of who has shown a key."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyvisor.dialects.instavm import errors
from polyvisor.dialects.instavm.door import shown
from polyvisor.engine import Engine
from polyvisor.model.faults import Fault
from polyvisor.model.units import GIB, MIB

JSON_LIMIT = 4 * MIB
CODE_LIMIT = 64 * MIB  # 8 MiB of code, in JSON's longest spelling
UPLOAD_LIMIT = 64 * GIB


def _limit(path: str, *, known: bool) -> int:
    """Who shows a key in a form alone is known when all of that is here: a small file comes that way."""
    if path in ("/execute", "/execute_async"):
        return CODE_LIMIT
    if path == "/upload" or (path.startswith("/v1/volumes/") and path.endswith("/files/upload")):
        return UPLOAD_LIMIT if known else CODE_LIMIT
    return JSON_LIMIT


class BodyLimit:
    """Middleware: 413 from the announced length, or as soon as more has come; a wrong key is told before a file is
    taken."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self._app = app
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = "x-api-key" in headers or "authorization" in headers
        limit, got = _limit(scope["path"], known=known), 0
        if limit == UPLOAD_LIMIT:
            try:
                await self._engine.authenticate(shown(HTTPConnection(scope)))
            except Fault as fault:
                await errors.reply(fault)(scope, receive, send)
                return
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > limit:
            await _too_large(limit)(scope, receive, send)
            return

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > limit:
                raise HTTPException(413, f"The body is larger than {limit} bytes")
            return message

        await self._app(scope, counted, send)


def _too_large(limit: int) -> JSONResponse:
    return JSONResponse({"detail": f"The body is larger than {limit} bytes"}, 413)
