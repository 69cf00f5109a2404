"""Somebody on loopback to whom webhooks are sent, and who answers as he is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from instavm.webhooks import verify

LIMIT = 20.0


@dataclass(frozen=True)
class Got:
    """One request."""

    headers: Mapping[str, str]
    body: bytes

    def verified(self, secret: str) -> dict[str, Any]:
        """What upstream's own code reads of it. :raise WebhookVerificationError:"""
        found: dict[str, Any] = verify(self.headers, self.body, secret)
        return found


@dataclass
class Receiver:
    """`answers` are the statuses to come; 200 when there are no more."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it is, by an address."""
        return f"http://127.0.0.1:{self.port}/hook?a=b"

    async def some(self, count: int) -> list[Got]:
        """The first so many requests, once they are there."""
        async with asyncio.timeout(LIMIT):
            while len(self.got) < count:
                await asyncio.sleep(0.02)
        return self.got[:count]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, one request."""
        try:
            await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass  # who asks has gone
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.strip().split("\r\n")
        headers = {name.strip(): value.strip() for name, _, value in (one.partition(":") for one in lines)}
        headers[":line"] = line
        sizes = [int(value) for name, value in headers.items() if name.lower() == "content-length"]
        self.got.append(Got(headers, await reader.readexactly(sizes[0])))
        status = self.answers.pop(0) if self.answers else 200
        more = f"Location: {self.url}\r\n" if status // 100 == 3 else ""
        writer.write(f"HTTP/1.1 {status} X\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """One, while it is needed."""
    found = Receiver()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    async with server:
        found.port = server.sockets[0].getsockname()[1]
        yield found
