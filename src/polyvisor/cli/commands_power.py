"""start, stop, restart, reset, press, pause, resume, standby, restore: each on any number of instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import parse
from polyvisor.cli.options import Compress, CompressDelay, Json, Names, Timeout
from polyvisor.cli.session import each

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Instance

Force = Annotated[bool, typer.Option("--force", "-f", help="Do not ask the guest.")]


def start(names: Names, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Power on."""
    each(names, lambda client, name: client.instances.start(name, timeout=timeout), as_json)


def stop(
    names: Names,
    force: Force = False,
    grace: Annotated[str | None, typer.Option(help="How long the guest may take, as 30s or 2m.")] = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Power off: the guest is asked first, and not asked any more when its grace is over."""
    each(names, lambda client, n: client.instances.stop(n, force=force, grace=grace, timeout=timeout), as_json)


def restart(names: Names, force: Force = False, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Stop, then start."""
    each(names, lambda client, name: client.instances.restart(name, force=force, timeout=timeout), as_json)


def reset(names: Names, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Press the reset button."""
    each(names, lambda client, name: client.instances.reset(name, timeout=timeout), as_json)


def press(names: Names, as_json: Json = False) -> None:
    """Press the power button, and no more: the guest may obey or not."""
    each(names, lambda client, name: client.instances.press(name), as_json)


def pause(names: Names, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Stop the vCPUs; memory stays."""
    each(names, lambda client, name: client.instances.pause(name, timeout=timeout), as_json)


def resume(names: Names, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Let the vCPUs go on."""
    each(names, lambda client, name: client.instances.resume(name, timeout=timeout), as_json)


def standby(
    names: Names,
    compress: Compress = None,
    compress_delay: CompressDelay = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Save memory to disk and end the process: a suspended instance uses none of the host's RAM."""
    parse.compression(compress)

    async def one(client: Client, name: str) -> Instance:
        from polyvisor.wire.native import StandbyInstance

        how = StandbyInstance(compression=compress, compression_delay=compress_delay)
        return await client.instances.standby(name, how, timeout=timeout)

    each(names, one, as_json)


def restore(names: Names, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Go on where it was suspended."""
    each(names, lambda client, name: client.instances.restore(name, timeout=timeout), as_json)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (start, stop, restart, reset, press, pause, resume, standby, restore):
        app.command()(command)
