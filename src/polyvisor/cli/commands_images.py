"""images: ls, pull, import, rm."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from polyvisor.cli import pulling, show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Image

app = typer.Typer(help="Images on the host.", no_args_is_help=True)
_CHUNK = 256 * 1024
ImageName = Annotated[str, typer.Argument(metavar="IMAGE", help="A name or a digest.")]


@app.command()
def ls(as_json: Json = False) -> None:
    """List images."""

    async def work(client: Client) -> None:
        found = await client.images.list()
        if as_json:
            show.documents(found)
        else:
            show.table(("NAME", "KIND", "SIZE", "DIGEST", "AGE"), map(_row, found))

    talk(work, as_json=as_json)


def _row(image: Image) -> list[str]:
    size = show.size(image.virtual_size or image.size)
    return [", ".join(image.names), image.kind, size, image.digest[:19], show.age(image.created)]


@app.command()
def pull(name: ImageName, as_json: Json = False) -> None:
    """Fetch an image: a built-in one, or `registry/path:tag`."""

    async def work(client: Client) -> None:
        _say(await pulling.pull(client, name), as_json)

    talk(work, as_json=as_json)


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it will be called.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A tar of an image, a disk; - for stdin.")],
    as_json: Json = False,
) -> None:
    """Import a `docker save` or OCI tar, a qcow2 or raw disk."""
    if file != "-" and (not os.access(file, os.R_OK) or Path(file).is_dir()):
        raise typer.BadParameter(f"{file} cannot be read", param_hint="FILE")

    async def work(client: Client) -> None:
        with open(0 if file == "-" else file, "rb", closefd=file != "-") as source:  # noqa: ASYNC230 - nothing else waits
            _say(await client.images.take(name, _chunks(source)), as_json)

    talk(work, as_json=as_json)


async def _chunks(source: BinaryIO) -> AsyncIterator[bytes]:
    while data := source.read(_CHUNK):
        yield data


def _say(image: Image, as_json: bool) -> None:
    if as_json:
        show.document(image)
    else:
        show.say(", ".join(image.names) or image.digest)


@app.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="IMAGE...")], as_json: Json = False) -> None:
    """Delete images. Refused while instances are made from them."""

    async def work(client: Client) -> int:
        from polyvisor.client import Refused

        failed = 0
        for name in names:
            try:
                image = await client.images.get(name)
                await client.images.delete(name)
                _say(image, as_json)
            except Refused as refusal:
                show.complain(refusal.problem, as_json)
                failed = 1
        return failed

    talk(work, as_json=as_json)
