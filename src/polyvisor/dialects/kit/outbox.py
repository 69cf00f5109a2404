"""What is said to a client on a WebSocket, held for a client that speaks before it listens.

Some clients send all that they have before they read a word. While they do, nothing that is said to them goes out; if
whoever has it to say waited for that, and the client for them, neither would go on. So it is held here, up to a limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Self

from starlette.websockets import WebSocket

HELD = 64 * 1024 * 1024  # bytes that nobody has taken yet


class Outbox:
    """Binary messages to an accepted socket, in order, within `async with`; at its end all of them are sent."""

    def __init__(self, socket: WebSocket, held: int = HELD) -> None:
        self._socket = socket
        self._limit = held
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False

    async def __aenter__(self) -> Self:
        self._sending = asyncio.create_task(self._send(), name="outbox")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        self._news.set()
        if kind is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        else:
            await self._sending

    async def put(self, message: bytes) -> None:
        """Say it; waits while too much is held. :raise Exception: what sending raised, once the client is gone."""
        while self._held > self._limit and not self._sending.done():
            self._room.clear()
            waiting = asyncio.ensure_future(self._room.wait())
            await asyncio.wait({waiting, self._sending}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if self._sending.done():
            self._sending.result()
        self._messages.append(message)
        self._held += len(message)
        self._news.set()

    async def _send(self) -> None:
        while True:
            while self._messages:
                message = self._messages.popleft()
                await self._socket.send_bytes(message)
                self._held -= len(message)
                self._room.set()
            if self._over:
                return
            self._news.clear()
            await self._news.wait()
