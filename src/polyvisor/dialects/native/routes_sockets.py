"""Exec, PTY and console over WebSocket. Refusals come before the upgrade where the caller is unknown, else as the
socket's last message in the words of `Problem`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, WebSocket
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.native.auth import caller, engine_of
from polyvisor.dialects.native.errors import problem
from polyvisor.dialects.native.translate import exec_of, exit_to
from polyvisor.engine.streams import Process
from polyvisor.model.faults import Fault, Internal, Invalid
from polyvisor.model.guest import Exit, Output
from polyvisor.wire import native as wire
from polyvisor.wire.streams import STDIN, pack, unpack

router = APIRouter()


@router.websocket("/instances/{key}/exec")
async def execute(socket: WebSocket, key: str) -> None:
    """Run a command: the first message is an `ExecRequest`, the last one an `ExecResult` or a `Problem`."""
    principal = await caller(socket)
    await socket.accept()
    try:
        ask = _request(await socket.receive_text())
        process = await engine_of(socket).streams.execute(principal, key, exec_of(ask))
    except WebSocketDisconnect:
        return
    except Fault as fault:
        await _say(socket, problem(fault))
        return
    try:
        await _bridge(socket, process)
    finally:
        await process.close()


def _request(text: str) -> wire.ExecRequest:
    try:
        return wire.ExecRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise Invalid(f"{field}: {first['msg']}", field=field) from error


async def _bridge(socket: WebSocket, process: Process) -> None:
    """Both directions until the command ends or the client is gone."""
    feeding = asyncio.create_task(_feed(socket, process))
    telling = asyncio.create_task(_tell(socket, process))
    try:
        await asyncio.wait({feeding, telling}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not telling.done() and feeding.exception() is None:
            return  # the client went away: closing the process ends the command
        await telling
    except Fault as fault:
        await _say(socket, problem(fault))
    except (WebSocketDisconnect, RuntimeError):
        return
    finally:
        for task in (feeding, telling):
            task.cancel()
        await asyncio.gather(feeding, telling, return_exceptions=True)


async def _tell(socket: WebSocket, process: Process) -> None:
    while True:
        said = await process.read()
        if isinstance(said, Output):
            await socket.send_bytes(pack(said.fd, said.data))
        else:
            assert isinstance(said, Exit)
            await _say(socket, exit_to(said))
            return


async def _feed(socket: WebSocket, process: Process) -> None:
    """Client to command, until the client hangs up."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        data = message.get("bytes")
        if data is not None:
            channel, payload = unpack(data)
            if channel == STDIN and payload:
                await process.write(payload)
        else:
            await _control(process, json.loads(message["text"]))


async def _control(process: Process, order: dict[str, Any]) -> None:
    if order.get("eof"):
        await process.eof()
    if "resize" in order:
        rows, cols = (max(1, min(int(n), 10_000)) for n in order["resize"])
        await process.resize(cols, rows)
    if "signal" in order:
        await process.signal(int(order["signal"]))


async def _say(socket: WebSocket, last: wire.ExecResult | wire.Problem) -> None:
    await socket.send_text(last.model_dump_json())
    await socket.close()


@router.websocket("/instances/{key}/console")
async def console(socket: WebSocket, key: str) -> None:
    """The serial console: what it said so far, then both ways."""
    principal = await caller(socket)
    core = engine_of(socket)
    source = await core.streams.console(principal, key)
    await socket.accept()

    async def show() -> None:
        async for data in source:
            await socket.send_bytes(data)
        await socket.close()

    async def typed() -> None:
        while True:
            await core.streams.type(principal, key, await socket.receive_bytes())

    tasks = [asyncio.create_task(show()), asyncio.create_task(typed())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Fault | Internal):
                await _say(socket, problem(outcome))
