"""`/v2`: images pushed into this server, as OCI Distribution has it (hypeman.md §1.4). Refusals are in its shape.

Names are long paths with slashes in them, so one route takes them all and tells them apart by their ends.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute
from starlette.routing import Route as PathRoute
from starlette.types import Receive, Scope, Send

from polyvisor.dialects.hypeman.auth import Caller, Refused, caller_of
from polyvisor.dialects.hypeman.encode import moment_text, said
from polyvisor.dialects.hypeman.errors import TABLE
from polyvisor.dialects.hypeman.names import ours
from polyvisor.dialects.hypeman.table import rest_of
from polyvisor.dialects.kit.texts import clean
from polyvisor.engine import Engine
from polyvisor.model import faults
from polyvisor.model.faults import Fault
from polyvisor.model.principal import Principal
from polyvisor.model.units import MIB

log = logging.getLogger("polyvisor.hypeman")
MANIFEST_LIMIT = 4 * MIB
_CHUNK = 1 * MIB
_TOKEN_SECONDS = 300
_VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_PATH = re.compile(r"(?P<name>.*?)/(?:(?P<uploads>blobs/uploads/?)|blobs/uploads/(?P<id>[^/]+)|"
                   r"blobs/(?P<digest>[^/]+)|manifests/(?P<ref>[^/]+))", re.DOTALL)  # fmt: skip
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|sha256:[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")
_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/\S*)?")

# What a fault is called, by the field that it names.
_CODES: Mapping[tuple[type[Fault], str | None], tuple[int, str]] = {
    (faults.NotFound, "blob"): (404, "BLOB_UNKNOWN"),
    (faults.NotFound, "upload"): (404, "BLOB_UPLOAD_UNKNOWN"),
    (faults.NotFound, "manifest"): (404, "MANIFEST_UNKNOWN"),
    (faults.Invalid, "digest"): (400, "DIGEST_INVALID"),
    (faults.Invalid, "blob"): (400, "MANIFEST_BLOB_UNKNOWN"),
    (faults.Invalid, "manifest"): (400, "MANIFEST_INVALID"),
    (faults.Unsupported, "manifest"): (400, "MANIFEST_INVALID"),
    (faults.Invalid, "range"): (416, "BLOB_UPLOAD_INVALID"),
    (faults.Invalid, "body"): (413, "SIZE_INVALID"),
    (faults.Invalid, "name"): (400, "NAME_INVALID"),
    (faults.NoCapacity, "body"): (507, "DENIED"),
    (faults.Exists, "name"): (403, "DENIED"),
    (faults.Busy, "upload"): (429, "TOOMANYREQUESTS"),
}


class No(Exception):
    """A refusal in this protocol's words."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}
        super().__init__(message)

    def response(self) -> Response:
        """What is sent."""
        body = {"errors": [{"code": self.code, "message": clean(self.message)}]}
        return said(body, self.status, {**_VERSION, **self.headers})


def _of_fault(fault: Fault) -> No:
    if fault.private:
        log.warning("%s (%s)", fault.public, fault.private)
    status, code = _CODES.get((type(fault), fault.field), (TABLE[type(fault)][0], ""))
    if not code:
        code = {403: "DENIED", 400: "NAME_INVALID"}.get(status, "UNAVAILABLE" if status >= 500 else "DENIED")
    return No(status, code, fault.public)


@dataclass(slots=True)
class _Ask:
    """One request: who asks, and what its path names ("" where it does not)."""

    request: Request
    core: Engine
    caller: Caller
    name: str = ""
    id: str = ""
    digest: str = ""
    ref: str = ""
    headers: dict[str, str] = field(default_factory=lambda: dict(_VERSION))

    @property
    def principal(self) -> Principal:
        return self.caller.principal

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "")

    @property
    def length(self) -> int:
        """The announced one, or 0."""
        text = self.request.headers.get("content-length", "")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else 0

    @property
    def start(self) -> int | None:
        """Where the caller thinks that its piece goes. :raise No:"""
        text = self.request.headers.get("content-range")
        if text is None:
            return None
        found = _RANGE.fullmatch(text)
        if found is None or int(found[2]) < int(found[1]):
            raise No(416, "BLOB_UPLOAD_INVALID", "Content-Range: must be <first>-<last>")
        return int(found[1])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body."""
        async for chunk in self.request.stream():
            if chunk:
                yield chunk

    def answer(self, status: int, **headers: str) -> Response:
        """An empty one; `_` in a header's name stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Response(status_code=status, headers=self.headers | named)


def registry_routes(engine: Engine) -> list[BaseRoute]:
    """Everything below `/v2`."""
    door = _Door(engine)
    return [PathRoute("/v2", door), PathRoute(rest_of("/v2/{rest:path}"), door)]


class _Door:
    """As an ASGI application, so that every method comes here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await (await self._answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            return await _answer(request, self._engine)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except No as no:
            return no.response()
        except Fault as fault:
            return _of_fault(fault).response()
        except Exception:  # told as what it is, with the details in the log only
            log.exception("%s", request.url.path)
            return No(500, "UNKNOWN", "something went wrong on our side").response()


async def _answer(request: Request, engine: Engine) -> Response:
    rest = (
        str(request.scope["path"]).removeprefix("/v2").removeprefix("/")
    )  # a parameter would lose a newline at its end
    caller, secret = await _who(request, engine)
    ask = _Ask(request, engine, caller)
    if rest in ("", "token"):
        if request.method not in ("GET", "HEAD"):
            raise No(405, "UNSUPPORTED", f"{request.method} is not for this path", {"Allow": "GET, HEAD"})
        return await _token(ask, secret) if rest else said({}, 200, _VERSION)
    found = _PATH.fullmatch(rest)
    if found is None:
        raise No(404, "UNSUPPORTED", "there is no such path")
    ask.name, ask.id = found["name"], found["id"] or ""
    ask.digest, ask.ref = found["digest"] or "", found["ref"] or ""
    if len(ask.name) > 255 or not _NAME.fullmatch(ask.name):
        raise No(400, "NAME_INVALID", "the name must be lower-case parts with '/' between, 255 characters at most")
    kind = next(kind for kind in ("uploads", "id", "digest", "ref") if found[kind])
    methods = _HANDLERS[kind]
    handler = methods.get(request.method)
    if handler is None:
        raise No(405, "UNSUPPORTED", f"{request.method} is not for this path", {"Allow": ", ".join(methods)})
    reading = request.method in ("GET", "HEAD") and kind != "id"
    scope = "image:read" if reading else "image:write"
    if not caller.may(scope):
        raise No(403, "DENIED", f"missing required scope: {scope}")
    if kind == "ref" and not _REF.fullmatch(ask.ref):
        code = "DIGEST_INVALID" if ":" in ask.ref else "TAG_INVALID"
        raise No(400, code, "the reference is neither a tag nor a sha256 digest")
    return await handler(ask)


# -- who asks --------------------------------------------------------------------------------------------------------


async def _who(request: Request, engine: Engine) -> tuple[Caller, str]:
    """The caller and its token, which may come as the password of Basic. :raise No:"""
    scheme, _, rest = request.headers.get("authorization", "").partition(" ")
    connection: HTTPConnection = request
    secret = rest.strip()
    if scheme.lower() == "basic":
        try:
            secret = base64.b64decode(secret, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            secret = ""
        header = (b"authorization", b"Bearer " + secret.encode())
        connection = HTTPConnection({"type": "http", "headers": [header]})
    try:
        return await caller_of(connection, engine), request.headers.get("x-api-key") or secret
    except (Refused, faults.Unauthenticated) as refused:
        host = request.headers.get("host", "")
        where = host if _HOST.fullmatch(host) else "localhost"
        challenge = f'Bearer realm="{request.url.scheme}://{where}/v2/token",service="hypeman"'
        raise No(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge}) from refused


async def _token(ask: _Ask, secret: str) -> Response:
    """The caller's own token, which it may bring along from now on: there is no weaker kind here."""
    now, lasts = datetime.now(UTC), _TOKEN_SECONDS
    if secret.count(".") == 2:
        ends = (await ask.core.bearer(secret)).claims.get("exp")
        if isinstance(ends, int | float):
            lasts = max(1, min(lasts, int(ends - now.timestamp())))
    body = {"token": secret, "access_token": secret, "expires_in": lasts, "issued_at": moment_text(now)}
    return said(body, 200, {**_VERSION, "Cache-Control": "no-store"})


# -- blobs -----------------------------------------------------------------------------------------------------------


def _content(ask: _Ask, size: int, digest: str, media: str) -> Mapping[str, str]:
    return ask.headers | {"Content-Length": str(size), "Content-Type": media, "Docker-Content-Digest": digest}


async def _head_blob(ask: _Ask) -> Response:
    size = ask.core.registry.has(ask.principal, ask.digest)
    return Response(headers=dict(_content(ask, size, ask.digest, "application/octet-stream")))


async def _get_blob(ask: _Ask) -> Response:
    file, size = ask.core.registry.open(ask.principal, ask.digest)
    return StreamingResponse(_read(file), headers=_content(ask, size, ask.digest, "application/octet-stream"))


async def _read(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


def _where(ask: _Ask, id: str) -> str:
    return f"/v2/{ask.name}/blobs/uploads/{id}"


def _range(size: int) -> str:
    return f"0-{max(0, size - 1)}"


def _created(ask: _Ask, digest: str) -> Response:
    return ask.answer(201, Location=f"/v2/{ask.name}/blobs/{digest}", Docker_Content_Digest=digest)


async def _begin(ask: _Ask) -> Response:
    """A new upload; whole with `digest`, and none at all where a part to `mount` is here."""
    registry = ask.core.registry
    if mount := ask.query("mount"):
        try:
            registry.has(ask.principal, mount)
            return _created(ask, mount)
        except faults.NotFound:
            pass  # then it is sent
    id = registry.begin(ask.principal, ask.name)
    if digest := ask.query("digest"):
        try:
            await registry.finish(ask.principal, ask.name, id, digest, ask.pieces(), ask.length)
        except BaseException:
            _forget(ask, id)
            raise
        return _created(ask, digest)
    return ask.answer(202, Location=_where(ask, id), Docker_Upload_UUID=id, Range=_range(0))


def _forget(ask: _Ask, id: str) -> None:
    try:
        ask.core.registry.cancel(ask.principal, ask.name, id)
    except Fault:
        return  # it is gone already


async def _send(ask: _Ask) -> Response:
    size = await ask.core.registry.append(ask.principal, ask.name, ask.id, ask.pieces(), ask.length, ask.start)
    return ask.answer(202, Location=_where(ask, ask.id), Docker_Upload_UUID=ask.id, Range=_range(size))


async def _end(ask: _Ask) -> Response:
    digest = ask.query("digest")
    await ask.core.registry.finish(
        ask.principal, ask.name, ask.id, digest, ask.pieces(), ask.length, ask.start
    )  # fmt: skip
    return _created(ask, digest)


async def _progress(ask: _Ask) -> Response:
    size = ask.core.registry.arrived(ask.principal, ask.name, ask.id)
    return ask.answer(204, Location=_where(ask, ask.id), Docker_Upload_UUID=ask.id, Range=_range(size))


async def _cancel(ask: _Ask) -> Response:
    ask.core.registry.cancel(ask.principal, ask.name, ask.id)
    return ask.answer(204)


# -- manifests -------------------------------------------------------------------------------------------------------


async def _get_manifest(ask: _Ask) -> Response:
    digest, media, data = ask.core.registry.manifest(ask.principal, ask.name, ask.ref)
    return Response(data, headers=dict(_content(ask, len(data), digest, media)))


async def _put_manifest(ask: _Ask) -> Response:
    data = b""
    async for chunk in ask.request.stream():
        data += chunk
        if len(data) > MANIFEST_LIMIT:
            raise No(413, "MANIFEST_INVALID", f"a manifest has {MANIFEST_LIMIT} bytes at most")
    media = ask.request.headers.get("content-type", "").partition(";")[0].strip()
    called = "" if ":" in ask.ref else ours(f"{ask.name}:{ask.ref}")
    digest = await ask.core.registry.put(ask.principal, ask.name, ask.ref, data, media, called)
    where = f"/v2/{ask.name}/manifests/{digest}"
    return ask.answer(201, Location=where, Docker_Content_Digest=digest)


_Handler = Callable[[_Ask], Awaitable[Response]]
_HANDLERS: Mapping[str, Mapping[str, _Handler]] = {
    "uploads": {"POST": _begin},
    "id": {"GET": _progress, "PATCH": _send, "PUT": _end, "DELETE": _cancel},
    "digest": {"GET": _get_blob, "HEAD": _head_blob},
    "ref": {"GET": _get_manifest, "HEAD": _get_manifest, "PUT": _put_manifest},
}
