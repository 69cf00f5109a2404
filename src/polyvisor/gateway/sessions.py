"""A session of SSH: a command of the guest's, with or without a terminal."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
from typing import Any

import asyncssh

from polyvisor.engine.streams import Process
from polyvisor.gateway.door import Door
from polyvisor.gateway.logins import Login
from polyvisor.model.faults import Fault
from polyvisor.model.guest import Exec, Exit, Output

log = logging.getLogger("polyvisor.gateway")
_CHUNK = 32 * 1024
_FAILED = 255
_SIGNALLED = 128
_SIZE = (80, 24)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SHELL = "if command -v bash >/dev/null 2>&1; then s=bash; else s=sh; fi; cd 2>/dev/null || cd /; "
_LOGIN = ("sh", "-c", _SHELL + "exec $s -l")
_COMMAND = ("sh", "-c", _SHELL + 'exec $s -c "$1"', "sh")
_NAMES = {one.value: one.name.removeprefix("SIG") for one in signal.Signals}


async def run_session(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """What asyncssh calls for each."""
    door: Door = process.channel.get_connection().get_extra_info("door")
    try:
        if not door.enter():
            raise Fault("too many sessions on one connection")
        guest = await door.guest()
        command = await guest.execute(_ask(process, await door.login(guest)))
        try:
            await _relay(process, command, door)
        finally:
            await command.close()
    except Fault as fault:
        log.info("ssh: %s %s", fault.public, fault.private)
        _end(process, fault.public)
    except (BrokenPipeError, ConnectionError, asyncssh.Error):
        return  # the client has left
    finally:
        door.leave()


def _end(process: asyncssh.SSHServerProcess[bytes], text: str) -> None:
    process.stderr.write(f"polyvisor: {text}\r\n".encode())
    process.exit(_FAILED)


def _ask(process: asyncssh.SSHServerProcess[bytes], login: Login) -> Exec:
    """The command that is asked for. :raise Fault: a subsystem that is not known here."""
    if process.subsystem:
        raise Fault("there is no such subsystem")
    said = {name: value for name, value in map(_texts, process.env.items()) if _NAME.fullmatch(name)}
    env = {**login.env, **said}
    words = _LOGIN if process.command is None else (*_COMMAND, _text(process.command))
    if process.term_type is None:
        return Exec(words, env, cwd="/", user=login.user)
    cols, rows = process.term_size[:2]
    env["TERM"] = _text(process.term_type) or "xterm"
    cols, rows = _within(cols, _SIZE[0]), _within(rows, _SIZE[1])
    return Exec(words, env, cwd="/", user=login.user, tty=True, cols=cols, rows=rows)


def _within(size: int, usual: int) -> int:
    return min(size, 10_000) or usual


def _texts(pair: tuple[Any, Any]) -> tuple[str, str]:
    return _text(pair[0]), _text(pair[1])


def _text(said: str | bytes) -> str:
    """:raise Fault: what cannot be said to a guest."""
    try:
        text = said.decode() if isinstance(said, bytes) else said
        text.encode()
    except UnicodeError as error:
        raise Fault("the request is not valid UTF-8") from error
    if "\0" in text:
        raise Fault("the request holds a NUL")
    return text


async def _relay(process: asyncssh.SSHServerProcess[bytes], command: Process, door: Door) -> None:
    feeding = asyncio.create_task(_feed(process, command, door), name="ssh input")
    try:
        while isinstance(said := await command.read(), Output):
            door.heard()
            writer = process.stderr if said.fd == 2 else process.stdout
            writer.write(said.data)
            await writer.drain()
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    _exit(process, said)


def _exit(process: asyncssh.SSHServerProcess[bytes], ended: Exit) -> None:
    if ended.code is not None:
        process.exit(ended.code)
    elif ended.signal in _NAMES:
        process.exit_with_signal(_NAMES[ended.signal])
    else:
        process.exit(_SIGNALLED + (ended.signal or 0))


async def _feed(process: asyncssh.SSHServerProcess[bytes], command: Process, door: Door) -> None:
    """What the client types, and what it does to its terminal, which comes as exceptions of reading."""
    while True:
        try:
            data = await process.stdin.read(_CHUNK)
        except asyncssh.TerminalSizeChanged as change:
            await command.resize(_within(change.width, _SIZE[0]), _within(change.height, _SIZE[1]))
            continue
        except asyncssh.BreakReceived:
            await command.signal(signal.SIGINT)
            continue
        except asyncssh.SignalReceived as received:
            number = getattr(signal, f"SIG{received.signal}", None)
            if number is not None:
                await command.signal(int(number))
            continue
        door.heard()
        if not data:
            await command.eof()
            return
        await command.write(data)
