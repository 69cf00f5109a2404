"""exec, shell, console: from this terminal into a guest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import parse, show, terminal
from polyvisor.cli.options import Env, Name, Trailing, Words
from polyvisor.cli.session import OURS, talk

if TYPE_CHECKING:
    from polyvisor.client import Client

_ANY_SHELL = 'for s in "$SHELL" /bin/bash /bin/sh; do [ -x "$s" ] && exec "$s"; done; exec sh'
_LEAVE = b"\x1d"  # Ctrl-]


def exec_(  # noqa: PLR0913 - every flag is a parameter
    name: Name,
    words: Words = None,
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Be its stdin.")] = False,
    tty: Annotated[bool, typer.Option("-t", "--tty", help="Give it a terminal.")] = False,
    env: Env = [],  # noqa: B006 - typer copies it
    cwd: Annotated[str, typer.Option("-w", "--workdir", help="Where it starts.")] = "",
    user: Annotated[str, typer.Option("-u", "--user", help="As whom.")] = "",
    timeout: Annotated[float | None, typer.Option(help="Seconds until it is ended (exit code 124).", min=0.01)] = None,
) -> None:
    """Run a command in an instance and leave with its exit code; 125 when it could not be run for a reason of ours."""
    argv = parse.command(words)
    if not argv:
        raise typer.BadParameter("a command is missing", param_hint="CMD")
    variables = parse.environment(env)

    async def work(client: Client) -> int:
        asked = terminal.request(argv, env=variables, cwd=cwd, user=user, tty=tty, timeout=timeout)
        return await terminal.carry(client, name, asked, stdin=interactive)

    talk(work, failure=OURS)


def shell(
    name: Name,
    program: Annotated[str, typer.Option("--shell", help="Which; else $SHELL, bash or sh of the guest.")] = "",
    user: Annotated[str, typer.Option("-u", "--user", help="As whom.")] = "",
) -> None:
    """A shell in an instance, on this terminal."""
    argv = [program] if program else ["sh", "-c", _ANY_SHELL]

    async def work(client: Client) -> int:
        return await terminal.carry(client, name, terminal.request(argv, env={}, user=user, tty=True), stdin=True)

    talk(work, failure=OURS)


def console(name: Name) -> None:
    """The serial console: what it said so far, then both ways. Ctrl-] leaves."""

    async def work(client: Client) -> int:
        async with client.instances.console(name) as line:
            if sys.stdin.isatty():
                show.remark("connected; Ctrl-] leaves")
            with terminal.raw_mode(True):
                typing = asyncio.create_task(_type(line.write))
                showing = asyncio.create_task(_show(line.__aiter__()))
                try:
                    await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
                    if typing.done() and not typing.result():  # our stdin has ended, the console has not
                        await showing
                    if showing.done():
                        showing.result()
                finally:
                    typing.cancel()
                    showing.cancel()
                    await asyncio.gather(typing, showing, return_exceptions=True)
        return 0

    talk(work)


async def _type(write: Callable[[bytes], Awaitable[None]]) -> bool:
    """Pass keystrokes on; True when the one that leaves came."""
    async for data in terminal.typed():
        before, leave, _ = data.partition(_LEAVE)
        await write(before)
        if leave and sys.stdin.isatty():
            return True
    return False


async def _show(line: AsyncIterator[bytes]) -> None:
    async for data in line:
        show.raw(1, data)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("exec", cls=Trailing)(exec_)
    app.command()(shell)
    app.command()(console)
