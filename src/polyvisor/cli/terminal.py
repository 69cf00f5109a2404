"""Our own terminal and a command far away: raw mode, size, bytes both ways, the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from polyvisor.cli import show
from polyvisor.cli.settings import variable

if TYPE_CHECKING:
    from polyvisor.client import Client, Exec
    from polyvisor.wire.native import ExecRequest, ExecResult

_CHUNK = 32 * 1024
_AHEAD = 4
TIMED_OUT = 124  # as timeout(1) has it


def request(
    argv: list[str], *, env: dict[str, str], cwd: str = "", user: str = "", tty: bool = False,
    timeout: float | None = None,
) -> ExecRequest:  # fmt: skip
    """A command with the size and the kind of the terminal that it will show on."""
    from polyvisor.wire.native import ExecRequest

    rows, cols = window()
    if tty and (term := variable("TERM")):
        env = {"TERM": term, **env}
    return ExecRequest(argv=argv, env=env, cwd=cwd, user=user, tty=tty, rows=rows, cols=cols, timeout=timeout)


async def carry(client: Client, key: str, asked: ExecRequest, *, stdin: bool) -> int:
    """Run it, be its stdin and its screen; its exit code."""
    async with client.instances.exec(key, asked) as process:
        with raw_mode(stdin and asked.tty), _resizes(process, asked.tty):
            feeding = asyncio.create_task(_feed(process) if stdin else process.eof())
            try:
                async for said in process:
                    show.raw(said.channel, said.data)
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
        return _code(await process.result())


def _code(result: ExecResult) -> int:
    if result.timed_out:
        return TIMED_OUT
    return 128 + result.signal if result.signal is not None else result.code or 0


async def _feed(process: Exec) -> None:
    async for data in typed():
        await process.write(data)
    await process.eof()


async def typed() -> AsyncIterator[bytes]:
    """Our stdin, whatever it is: a thread reads it, because not every kind can be waited for."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    free = threading.Semaphore(_AHEAD)

    def pump() -> None:
        data = b"-"
        while data:
            free.acquire()
            try:
                data = os.read(sys.stdin.fileno(), _CHUNK)
            except OSError:
                data = b""
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are leaving
                loop.call_soon_threadsafe(queue.put_nowait, data)

    threading.Thread(target=pump, daemon=True).start()
    while data := await queue.get():
        yield data
        free.release()


def window() -> tuple[int, int]:
    """Rows and columns of our terminal; a classic one where there is none."""
    for stream in (sys.stdout, sys.stdin, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            cols, rows = os.get_terminal_size(stream.fileno())
            if rows and cols:
                return rows, cols
    return 24, 80


@contextlib.contextmanager
def raw_mode(wanted: bool) -> Iterator[None]:
    """Every keystroke goes through, Ctrl-C too; the terminal is as it was afterwards."""
    if not wanted or not sys.stdin.isatty():
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizes(process: Exec, wanted: bool) -> Iterator[None]:
    """Pass on that the window has another size."""
    if not wanted:
        yield
        return
    loop = asyncio.get_running_loop()
    telling: set[asyncio.Task[None]] = set()

    def tell() -> None:
        task = asyncio.ensure_future(process.resize(*window()))
        telling.add(task)
        task.add_done_callback(telling.discard)

    loop.add_signal_handler(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
