"""Messages are read ahead of their reader, and a client that leaves is noticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from polyvisor.dialects.kit.inbox import Inbox

GONE = {"type": "websocket.disconnect", "code": 1001}


def text(word: str) -> Message:
    """A message."""
    return {"type": "websocket.receive", "text": word}


class Client:
    """The other end of a socket; `taken` counts what was read."""

    def __init__(self, *messages: Message) -> None:
        self.said: asyncio.Queue[Message] = asyncio.Queue()
        for message in messages:
            self.said.put_nowait(message)
        self.taken = 0

    async def receive(self) -> Message:
        """As an ASGI server would."""
        message = await self.said.get()
        self.taken += 1
        return message

    def socket(self) -> WebSocket:
        """Accepted."""

        async def send(message: Any) -> None:
            pass

        async def receive() -> Message:
            return {"type": "websocket.connect"} if self.fresh() else await self.receive()

        return WebSocket({"type": "websocket"}, receive, send)

    _connected = False

    def fresh(self) -> bool:
        """True once."""
        fresh, self._connected = not self._connected, True
        return fresh


async def accepted(client: Client) -> WebSocket:
    """Its socket, open."""
    socket = client.socket()
    await socket.accept()
    return socket


async def test_messages_come_in_order_and_then_the_end() -> None:
    async with Inbox(await accepted(Client(text("a"), text("b"), GONE))) as inbox:
        assert [(await inbox.get())["text"], (await inbox.get())["text"]] == ["a", "b"]
        with pytest.raises(WebSocketDisconnect) as gone:
            await inbox.get()
        assert gone.value.code == 1001


async def test_what_nobody_takes_is_bounded() -> None:
    client = Client(*(text("x" * 10) for _ in range(100)))
    async with Inbox(await accepted(client), ahead=50) as inbox:
        await asyncio.sleep(0.01)
        assert client.taken == 6
        for _ in range(100):
            await inbox.get()
        assert client.taken == 100


async def test_work_ends_when_the_client_leaves() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with Inbox(await accepted(Client(text("unread"), GONE))) as inbox:
        with pytest.raises(WebSocketDisconnect):
            await inbox.while_open(work())
    assert ended.is_set()


async def test_work_that_is_done_first_is_given() -> None:
    async def work() -> int:
        return 7

    async with Inbox(await accepted(Client())) as inbox:
        assert await inbox.while_open(work()) == 7
