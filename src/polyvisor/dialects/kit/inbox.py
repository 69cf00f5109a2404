"""What a client says on a WebSocket, read ahead of whoever wants it.

The server answers pings, hears pongs and learns that a client has left only while it reads. So messages are read as
they come, up to a limit, also while nobody has a use for them: a guest is coming up, or a command takes no input.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

AHEAD = 4 * 1024 * 1024  # bytes of messages that nobody has taken yet, and one message more
T = TypeVar("T")


class Inbox:
    """The messages of an accepted socket, in order, within `async with`."""

    def __init__(self, socket: WebSocket, ahead: int = AHEAD) -> None:
        self._socket = socket
        self._ahead = ahead
        self._messages: deque[Message] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._gone = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read(), name="inbox")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        code = 1006
        try:
            while (message := await self._socket.receive())["type"] != "websocket.disconnect":
                self._messages.append(message)
                self._held += _size(message)
                self._news.set()
                while self._held > self._ahead:
                    self._room.clear()
                    await self._room.wait()
            code = message.get("code") or 1005
        finally:
            self._gone.set_result(code)
            self._news.set()

    async def get(self) -> Message:
        """The next message. :raise WebSocketDisconnect: there is none any more, the client is gone."""
        while not self._messages:
            if self._gone.done():
                raise WebSocketDisconnect(self._gone.result())
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._held -= _size(message)
        self._room.set()
        return message

    async def while_open(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives. :raise WebSocketDisconnect: the client left first, and the work is ended."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise WebSocketDisconnect(self._gone.result())
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _size(message: Message) -> int:
    return len(message.get("bytes") or message.get("text") or b"")
