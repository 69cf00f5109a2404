"""fork: another instance that is what one is now."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Json, Name, Timeout
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client


def fork(  # noqa: PLR0913 - every flag is a parameter
    source: Name,
    name: Annotated[str | None, typer.Option(help="A name; else one made of the source's.")] = None,
    disk_only: Annotated[bool, typer.Option("--disk-only", help="Boot from a copy of the disk; no memory.")] = False,
    without: Annotated[
        list[str], typer.Option(metavar="VOLUME", help="A volume it is not to have; then it boots from the disk.")
    ] = [],  # noqa: B006 - typer copies it
    port: Annotated[
        list[str], typer.Option("-p", "--port", metavar="[HOST:]GUEST[/udp]", help="Instead of those it had.")
    ] = [],  # noqa: B006 - typer copies it
    label: Annotated[list[str], typer.Option("-l", "--label", metavar="K=V", help="Instead of those it had.")] = [],  # noqa: B006 - typer copies it
    lifetime: Annotated[str | None, typer.Option(help="Delete it after that long, such as 1h.")] = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Make an instance that is what another one is now, memory and processes included, and print its id.

    It has a name, addresses and keys of its own. The source goes on after a pause of milliseconds.
    """
    ports = [parse.port(text) for text in port] or None
    labels = parse.pairs(label, "--label") or None
    kind: Literal["disk"] | None = "disk" if disk_only else None

    async def work(client: Client) -> None:
        from polyvisor.wire.native import ForkInstance

        wanted = ForkInstance(
            name=name, kind=kind, without=without, ports=ports, labels=labels, lifetime=lifetime
        )  # fmt: skip
        key = secrets.token_hex(16)
        made = await client.instances.fork(source, wanted, timeout=timeout, idempotency_key=key)
        if as_json:
            show.document(made)
        else:
            show.say(made.id)

    talk(work, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fork)
