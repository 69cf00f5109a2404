"""`/api/sys/tokens`: logging in and out (vergeos.md §1.2)."""

from __future__ import annotations

import json
import secrets

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from polyvisor.dialects.kit.credentials import source_of
from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.engine import Engine
from polyvisor.model.principal import Credential

_BODY_LIMIT = 16 * 1024


async def answer(core: Engine, request: Request, token: str | None) -> Response:
    """POST makes a token, DELETE of one ends it."""
    if request.method == "POST" and token is None:
        credential = await _shown(request)
        made, _, _ = await core.sessions.login(credential, token=secrets.token_hex(20))
        place = {"location": f"/sys/tokens/{made}", "dbpath": f"tokens/{made}", "$row": 1, "$key": made}
        return JSONResponse(place, 201)
    if token is not None and request.method in ("GET", "DELETE"):
        await core.sessions.caller(token, source_of(request))
        if request.method == "DELETE":
            await core.sessions.logout(token)
            return Response()
        return JSONResponse({"$key": token})
    raise Refusal(405, f"{request.method} is not permitted on 'tokens'")


async def _shown(request: Request) -> Credential:
    """The name and password in the body. :raise Refusal:"""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_LIMIT:
            raise Refusal(413, "The body is too large")
    try:
        body = json.loads(data)
        login, password = body["login"], body["password"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refusal(422, "login and password are required parameters") from error
    if not isinstance(login, str) or not isinstance(password, str) or "\0" in login:
        raise errors.LOGIN
    return Credential(name=login, password=password, source=source_of(request))
