"""Screens: a picture, a ticket, and the WebSocket that a ticket opens."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.kit.credentials import check_origin
from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.dialects.native.auth import PREFIX, Caller, Core, engine_of
from polyvisor.dialects.native.describe import pictured
from polyvisor.dialects.native.params import Key
from polyvisor.engine.screens import Viewer
from polyvisor.wire import native as wire

router = APIRouter(tags=["screens"])
_SUBPROTOCOL = "binary"  # what noVNC asks for


@router.get("/instances/{key}/screenshot", response_class=Response, responses=pictured("image/png"))
async def screenshot(key: Key, caller: Caller, core: Core) -> Response:
    """The screen as it is now."""
    return Response(await core.screens.shot(caller, key), media_type="image/png", headers={"Cache-Control": "no-store"})


@router.post("/instances/{key}/screen/tickets", status_code=201)
async def make_ticket(key: Key, caller: Caller, core: Core) -> wire.ScreenTicket:
    """A ticket for one viewer, who needs no other credential: it is the end of a path that opens once."""
    ticket = await core.screens.ticket(caller, key)
    return wire.ScreenTicket(
        ticket=ticket.text, expires_in=ticket.life, path=f"{PREFIX}/screens/{ticket.text}"
    )  # fmt: skip


@router.websocket("/screens/{ticket}")
async def watch(socket: WebSocket, ticket: str) -> None:
    """RFB both ways, in binary messages, until the machine ends or the viewer has left."""
    check_origin(socket)
    viewer = await engine_of(socket).screens.connect(ticket)
    try:
        offered = socket.scope.get("subprotocols", ())
        await socket.accept(subprotocol=_SUBPROTOCOL if _SUBPROTOCOL in offered else None)
        async with Inbox(socket) as inbox:
            await _both_ways(socket, viewer, inbox)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.close()
    finally:
        await viewer.close()


async def _both_ways(socket: WebSocket, viewer: Viewer, inbox: Inbox) -> None:
    async def shown() -> None:
        while data := await viewer.read():
            await socket.send_bytes(data)

    async def done() -> None:
        async for data in _said(inbox):
            await viewer.write(data)

    tasks = {asyncio.create_task(shown()), asyncio.create_task(done())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _said(inbox: Inbox) -> AsyncIterator[bytes]:
    """Until the viewer leaves, or says what is no RFB."""
    with contextlib.suppress(WebSocketDisconnect):
        while (data := (await inbox.get()).get("bytes")) is not None:
            yield data
