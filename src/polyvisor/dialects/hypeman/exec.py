"""A command over a WebSocket: hypeman.md §1.5, of which every client's parser depends on the last frame.

Output is sent as it comes, both streams in one; upstream holds it back until the command has ended. The SDK sends all
of its input before it listens, so neither side may ever wait for the other: what comes and what goes is held meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any

from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from polyvisor.dialects.hypeman.asks import Ask
from polyvisor.dialects.hypeman.encode import text_of
from polyvisor.dialects.hypeman.sockets import Talk
from polyvisor.dialects.hypeman.validate import reason
from polyvisor.dialects.kit.inbox import Inbox
from polyvisor.dialects.kit.outbox import Outbox
from polyvisor.dialects.kit.texts import clean
from polyvisor.engine.streams import Process
from polyvisor.model.faults import Fault, Internal
from polyvisor.model.guest import Exec, Exit, Output
from polyvisor.model.units import Seconds

log = logging.getLogger("polyvisor.hypeman")
_FRAME = 32 * 1024
_AHEAD = 64 * 1024 * 1024  # bytes of input that a command has not taken yet
_SILENCE, _PATIENCE = 0.1, 30.0  # seconds
_FAILED = 127
_TIMED_OUT = 124
_TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


class ExecRequest(Ask):
    """The first message. `wait_for_agent` is for guests that are coming up; here only those that are up are asked."""

    command: list[str] | None = None
    tty: bool = False
    env: dict[str, str] | None = None
    cwd: str | None = None
    timeout: int | None = Field(default=None, ge=0)
    wait_for_agent: int | None = Field(default=None, ge=0)
    rows: int | None = Field(default=None, ge=1, le=65535)
    cols: int | None = Field(default=None, ge=1, le=65535)


async def execute(talk: Talk) -> None:
    """Run a command; the last message is its exit code."""
    socket = talk.socket
    try:
        async with Inbox(socket, _AHEAD) as inbox:
            ask = _read(await inbox.get())
            if isinstance(ask, str):
                await socket.send_text(text_of({"error": clean(ask)}))
            else:
                code = await _run(talk, inbox, ask)
                await socket.send_text(f'{{"exitCode":{code}}}')
                await _hear_out(inbox)
        await socket.close()
    except (WebSocketDisconnect, RuntimeError):
        return  # nobody listens any more; the command was ended with the socket


async def _hear_out(inbox: Inbox) -> None:
    """Let a client finish that still sends input nobody wants: closed on, it would not see its answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while True:
                async with asyncio.timeout(_SILENCE):
                    await inbox.get()


def _read(message: Any) -> ExecRequest | str:
    """The first message, or what is wrong with it."""
    text = message.get("text")
    if text is None:
        return "first message must be JSON text"
    try:
        return ExecRequest.model_validate_json(text)
    except ValidationError as error:
        first: dict[str, Any] = dict(error.errors(include_url=False)[0])
        place = ".".join(str(part) for part in first["loc"])
        return f"invalid JSON: {place + ': ' if place else ''}{reason(first)}"
    except (ValueError, RecursionError) as error:
        return f"invalid JSON: {error}"


def _exec_of(ask: ExecRequest) -> Exec:
    env = {**(_TERMINAL if ask.tty else {}), **(ask.env or {})}
    return Exec(
        tuple(ask.command or ("/bin/sh",)), env, ask.cwd or None, None, ask.tty, ask.cols or 80, ask.rows or 24,
        Seconds(float(ask.timeout)) if ask.timeout else None,
    )  # fmt: skip


async def _run(talk: Talk, inbox: Inbox, ask: ExecRequest) -> int:
    """Its exit code. What it never got to do is said as output."""
    try:
        principal = talk.caller.principal
        starting = talk.core.streams.execute(principal, talk.instance.id, _exec_of(ask))
        process = await inbox.while_open(starting)
        try:
            return await _first(talk, inbox, process, tty=ask.tty)
        finally:
            await process.close()
    except WebSocketDisconnect:
        raise
    except Fault as fault:
        await _complain(talk, fault)
    except Exception:
        log.exception("exec in %s", talk.instance.id)
        await _complain(talk, Internal())
    return _FAILED


async def _complain(talk: Talk, fault: Fault) -> None:
    await talk.socket.send_bytes(f"Error: {clean(fault.public)}\r\n".encode())


async def _first(talk: Talk, inbox: Inbox, process: Process, *, tty: bool) -> int:
    """Both ways until the command has ended; a client that leaves ends it."""
    tell = asyncio.create_task(_told(talk, process))
    feed = asyncio.create_task(_feed(inbox, process, tty=tty))
    try:
        await asyncio.wait({tell, feed}, return_when=asyncio.FIRST_COMPLETED)
        if feed.done() and not tell.done():
            feed.result()
        return await tell
    finally:
        for task in (tell, feed):
            task.cancel()
        await asyncio.gather(tell, feed, return_exceptions=True)


async def _told(talk: Talk, process: Process) -> int:
    async with Outbox(talk.socket) as outbox:
        return await _tell(outbox, process)


async def _tell(outbox: Outbox, process: Process) -> int:
    while True:
        heard = await process.read()
        if isinstance(heard, Exit):
            return _code(heard)
        assert isinstance(heard, Output)
        for start in range(0, len(heard.data), _FRAME):
            await outbox.put(heard.data[start : start + _FRAME])


def _code(exit: Exit) -> int:
    """The code of an end: upstream's for a signal is -1, for the time limit the one that its documents promise."""
    if exit.timed_out:
        return _TIMED_OUT
    return -1 if exit.signal is not None else exit.code or 0


async def _feed(inbox: Inbox, process: Process, *, tty: bool) -> None:
    while True:
        message = await inbox.get()
        data, text = message.get("bytes"), message.get("text")
        if text is not None:
            size = _resize(text) if tty else None
            if size is not None:
                await process.resize(*size)
                continue
            data = text.encode("utf-8", "replace")
        if data:
            with contextlib.suppress(Fault):  # it has ended already: its code is on the way
                await process.write(data)


def _resize(text: str) -> tuple[int, int] | None:
    """Columns and rows, when that is what a terminal's text message says; else it is input."""
    try:
        said = json.loads(text)["resize"]
        rows, cols = said["rows"], said["cols"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    fits = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 65535 for n in (rows, cols))
    return (cols, rows) if fits else None
