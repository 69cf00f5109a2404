"""`Link`: the way to one server. All that goes out or comes in passes here; every failure leaves as `Refused`."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from polyvisor.client.errors import Refused, from_answer, unreachable
from polyvisor.wire.native import Problem

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

M = TypeVar("M", bound=BaseModel)
Params = Mapping[str, str | int | float | bool | Sequence[str] | None]
PREFIX = "/api/v1"
_CONNECT = 10.0
_PATIENCE = 60.0
_LARGEST_MESSAGE = 4 * 1024 * 1024


def part(key: str) -> str:
    """`key` as one part of a path. :raise Refused: it could only lead elsewhere, so nothing is called that."""
    if "/" in key or key in ("", ".", ".."):
        raise Refused(Problem(kind="NotFound", message=f"nothing is called {key!r}", subject=key))
    return quote(key, safe="")


class More(TypedDict, total=False):
    """What a request may have beside method and path. `patience`: how many seconds the server may be silent; None: as
    long as it wants."""

    body: BaseModel
    content: AsyncIterator[bytes]
    params: Params
    headers: Mapping[str, str]
    patience: float | None


class Link:
    """Proxies of the environment are not used: the key is for the address that was given, and for nobody between."""

    def __init__(self, url: str, key: str, ca_file: str = "", project: str = "") -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        if project:
            self._headers["X-Project"] = project
        self._tls = ssl.create_default_context(cafile=ca_file or None) if self.url.startswith("https:") else None
        self._http = httpx.AsyncClient(
            base_url=self.url + PREFIX, headers=self._headers, trust_env=False, verify=self._tls or True
        )

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def ask(self, method: str, path: str, reply: type[M], **more: Unpack[More]) -> M:
        """One question and its answer. :raise Refused:"""
        answer = await self._send(method, path, more)
        try:
            return reply.model_validate_json(answer)
        except ValidationError as error:
            problem = Problem(kind="Upstream", message=f"{self.url} does not answer as a polyvisor server does")
            raise Refused(problem) from error

    async def tell(self, method: str, path: str, **more: Unpack[More]) -> None:
        """A request whose answer has no body. :raise Refused:"""
        await self._send(method, path, more)

    async def _send(self, method: str, path: str, more: More) -> bytes:
        more.setdefault("patience", _PATIENCE)
        async with self.stream(method, path, **more) as answer:
            return await answer.aread()

    @asynccontextmanager
    async def stream(self, method: str, path: str, **more: Unpack[More]) -> AsyncIterator[httpx.Response]:
        """An answer that is read as it comes. :raise Refused: also when it breaks off in the middle."""
        body, content = more.get("body"), more.get("content")
        headers = {"Content-Type": "application/octet-stream" if body is None else "application/json"}
        params = {name: value for name, value in more.get("params", {}).items() if value is not None}
        try:
            async with self._http.stream(
                method,
                path,
                params=params,
                headers={**headers, **more.get("headers", {})},
                content=content if body is None else body.model_dump_json(exclude_none=True).encode(),
                timeout=httpx.Timeout(_CONNECT, read=more.get("patience"), write=None),
            ) as answer:
                if answer.status_code >= 400:
                    raise from_answer(answer.status_code, await answer.aread())
                yield answer
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> Refused:
        why = "it does not answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
        return unreachable(f"cannot talk to {self.url}: {why or type(error).__name__}")

    async def socket(self, path: str) -> ClientConnection:
        """An open WebSocket. :raise Refused: with the status that came instead."""
        from websockets.asyncio.client import connect  # only those who need one pay for it
        from websockets.exceptions import InvalidStatus, WebSocketException

        try:
            return await connect(
                "ws" + self.url.removeprefix("http") + PREFIX + path, additional_headers=self._headers, proxy=None,
                ssl=self._tls, max_size=_LARGEST_MESSAGE, compression=None, open_timeout=_CONNECT,
                ping_timeout=None,  # a command may take no input for as long as it likes
            )  # fmt: skip
        except InvalidStatus as error:
            raise from_answer(error.response.status_code, bytes(error.response.body or b"")) from error
        except (OSError, TimeoutError, ValueError, WebSocketException) as error:
            raise self._broken(error) from error
