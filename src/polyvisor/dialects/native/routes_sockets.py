"""Exec, PTY and console over WebSocket.

Who may not or names nothing is refused before the upgrade, with a status. After it, what goes wrong is told by the
socket's last message in the words of `Problem`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ValidationError
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.dialects.native.auth import caller, engine_of
from polyvisor.dialects.native.errors import invalid, problem
from polyvisor.dialects.native.translate import exec_of, exit_to
from polyvisor.engine.streams import Process
from polyvisor.model.faults import Fault, Internal, Invalid
from polyvisor.model.guest import Output
from polyvisor.model.principal import Action
from polyvisor.wire import native as wire
from polyvisor.wire.streams import STDIN, pack, unpack

router = APIRouter()
log = logging.getLogger("polyvisor.native")
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


@router.websocket("/instances/{key}/exec")
async def execute(socket: WebSocket, key: str) -> None:
    """Run a command: the first message is an `ExecRequest`, the last one an `ExecResult` or a `Problem`."""
    principal, core = caller(socket), engine_of(socket)
    await core.instances.get(principal, key, Action.INSTANCE_INTERACT)
    await socket.accept()

    async def run() -> wire.ExecResult:
        async with Inbox(socket) as inbox:
            ask = _read(wire.ExecRequest, await inbox.get())
            process = await inbox.while_open(core.streams.execute(principal, key, exec_of(ask)))
            try:
                return await _first(_tell(socket, process), _feed(inbox, process))
            finally:
                await process.close()

    await _converse(socket, run())


@router.websocket("/instances/{key}/console")
async def console(socket: WebSocket, key: str) -> None:
    """The serial console: what it said so far, then both ways."""
    principal, core = caller(socket), engine_of(socket)
    source = await core.streams.console(principal, key)
    await socket.accept()

    async def typed(inbox: Inbox) -> None:
        while True:
            data = (await inbox.get()).get("bytes")
            if data is None:
                raise Invalid("a console takes binary messages", field="body")
            await core.streams.type(principal, key, data)

    async def run() -> None:
        async with Inbox(socket) as inbox:
            await _first(_show(socket, source), typed(inbox))

    await _converse(socket, run())


async def _converse(socket: WebSocket, work: Coroutine[Any, Any, wire.ExecResult | None]) -> None:
    """Let it happen, then say how it ended, if anybody is still there."""
    last: wire.ExecResult | wire.Problem | None
    try:
        last = await work
    except WebSocketDisconnect:
        return
    except Fault as fault:
        last = problem(fault)
    except Exception:  # told as what it is, with the details in the log only
        log.exception("%s", socket.url.path)
        last = problem(Internal())
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        if last is not None:
            await socket.send_text(last.model_dump_json())
        await socket.close()


async def _first(telling: Coroutine[Any, Any, T], feeding: Coroutine[Any, Any, None]) -> T:
    """Both directions until the instance has said all, or the client did what ends it: then `feeding` raises."""
    tell, feed = asyncio.create_task(telling), asyncio.create_task(feeding)
    try:
        await asyncio.wait({tell, feed}, return_when=asyncio.FIRST_COMPLETED)
        if feed.done() and not tell.done():
            feed.result()
        return await tell
    finally:
        tell.cancel()
        feed.cancel()
        await asyncio.gather(tell, feed, return_exceptions=True)


def _read(model: type[M], message: Message) -> M:
    """A text message as what it must be. :raise Invalid:"""
    text = message.get("text")
    if text is None:
        raise Invalid(f"body: a text message with an {model.__name__} is wanted", field="body")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise invalid(dict(error.errors()[0])) from error


async def _tell(socket: WebSocket, process: Process) -> wire.ExecResult:
    while True:
        said = await process.read()
        if not isinstance(said, Output):
            return exit_to(said)
        await socket.send_bytes(pack(said.fd, said.data))


async def _feed(inbox: Inbox, process: Process) -> None:
    while True:
        message = await inbox.get()
        data = message.get("bytes")
        if data is None:
            await _obey(process, _read(wire.ExecOrder, message))
        else:
            await _write(process, data)


async def _write(process: Process, message: bytes) -> None:
    try:
        channel, data = unpack(message)
    except ValueError as error:
        raise Invalid(f"body: {error}", field="body") from error
    if channel != STDIN:
        raise Invalid(f"body: there is no channel {channel} to write to", field="body")
    if data:
        await process.write(data)


async def _obey(process: Process, order: wire.ExecOrder) -> None:
    if order.resize is not None:
        rows, cols = order.resize
        await process.resize(cols, rows)
    if order.signal is not None:
        await process.signal(order.signal)
    if order.eof:
        await process.eof()


async def _show(socket: WebSocket, source: AsyncIterator[bytes]) -> None:
    async for data in source:
        await socket.send_bytes(data)
