"""screenshot: the screen of a machine that has one. create: a machine of media, without an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Json, Name
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client

_Many = list[str]


def screenshot(name: Name, file: Annotated[Path, typer.Argument(metavar="FILE.png")]) -> None:
    """Write what its screen shows into a PNG file."""

    async def work(client: Client) -> None:
        picture = await client.instances.screenshot(name)
        file.write_bytes(picture)
        show.say(str(file))

    talk(work)


def assemble(  # noqa: PLR0913 - every flag is a parameter
    name: Annotated[str, typer.Argument(metavar="NAME")],
    medium: Annotated[_Many, typer.Option("--medium", metavar="VOL[:usb][:ro]", help="Booted in this order.")] = [],  # noqa: B006 - typer copies it
    vcpus: Annotated[int, typer.Option(help="How many vCPUs.")] = 1,
    memory: Annotated[str | None, typer.Option("-m", "--memory", help="Such as 512M.")] = None,
    firmware: Annotated[str, typer.Option(help="bios or uefi.")] = "uefi",
    display: Annotated[str, typer.Option(metavar="WxH", help='The screen in pixels; "" for none.')] = "1024x768",
    autostart: Annotated[bool, typer.Option("--autostart", help="Start it with the server.")] = False,
    tpm: Annotated[bool, typer.Option("--tpm", help="With a TPM 2.0.")] = False,
    no_network: Annotated[bool, typer.Option("--no-network", help="Without a network.")] = False,
    off: Annotated[bool, typer.Option("--off", help="Do not start it.")] = False,
    as_json: Json = False,
) -> None:
    """Make a machine without a disk of its own, which boots the media that are given."""
    fields: dict[str, Any] = {
        "blank": True, "name": name, "vcpus": vcpus, "memory": memory, "firmware": firmware, "autostart": autostart,
        "network": not no_network, "power": "off" if off else "on", "volumes": [parse.medium(text) for text in medium],
        "displays": parse.display(display), "tpm": tpm,
    }  # fmt: skip

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateInstance

        made = await client.instances.create(CreateInstance.model_validate(fields), wait="launched")
        if as_json:
            show.document(made)
        else:
            show.say(made.id)

    talk(work, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add them to the commands."""
    app.command()(screenshot)
    app.command()(assemble)
