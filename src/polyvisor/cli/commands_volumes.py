"""volumes: create, upload, pools, ls, inspect, resize, attach, detach, rm."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Json, Name, Timeout
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Volume

app = typer.Typer(help="Disks that outlive instances.", no_args_is_help=True)
VolumeName = Annotated[str, typer.Argument(metavar="VOL", help="A volume's id or name.")]
NewName = Annotated[str, typer.Argument(metavar="NAME")]
InPool = Annotated[str, typer.Option("--pool", metavar="POOL", help="Where it is to be; see volumes pools.")]
_CHUNK = 2**20
Size = Annotated[str, typer.Argument(metavar="SIZE", help="Such as 512M or 2G.")]


@app.command()
def create(
    name: NewName,
    size: Size,
    kind: Annotated[str, typer.Option(metavar="KIND", help="A word such as disk: zeros, without a file system.")] = "",
    pool: InPool = "",
    as_json: Json = False,
) -> None:
    """Make a volume with an empty ext4 file system, or with --kind a medium of zeros."""

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateVolume

        wanted = CreateVolume(name=name, size=size, kind=kind or "data", pool=pool)
        repeat = "" if kind else secrets.token_hex(16)
        _say(await client.volumes.create(wanted, idempotency_key=repeat), as_json)

    talk(work, as_json=as_json)


@app.command()
def upload(
    name: NewName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A raw disk or an ISO image.")],
    kind: Annotated[str, typer.Option(metavar="KIND", help="A word for what it is, such as iso.")] = "disk",
    pool: InPool = "",
    read_only: Annotated[bool, typer.Option("--read-only", help="Never to be attached writable.")] = False,
    as_json: Json = False,
) -> None:
    """Make a volume of a file, byte for byte."""
    if not file.is_file() or not os.access(file, os.R_OK):
        raise typer.BadParameter(f"{file} cannot be read", param_hint="FILE")

    async def work(client: Client) -> None:
        with file.open("rb") as source:
            length = os.fstat(source.fileno()).st_size
            made = await client.volumes.upload(name, _chunks(source), length, kind=kind, pool=pool, read_only=read_only)
            _say(made, as_json)

    talk(work, as_json=as_json)


async def _chunks(source: BinaryIO) -> AsyncIterator[bytes]:
    while data := source.read(_CHUNK):
        yield data


@app.command()
def pools(as_json: Json = False) -> None:
    """List the pools that volumes can be in."""

    async def work(client: Client) -> None:
        found = await client.volumes.pools()
        if as_json:
            show.documents(found)
        else:
            rows = [[pool.name, str(pool.number), show.size(pool.free), show.size(pool.total)] for pool in found]
            show.table(("NAME", "NUMBER", "FREE", "TOTAL"), rows)

    talk(work, as_json=as_json)


@app.command()
def ls(as_json: Json = False) -> None:
    """List volumes."""

    async def work(client: Client) -> None:
        found = [volume async for volume in client.volumes.list()]
        if as_json:
            show.documents(found)
        else:
            show.table(("NAME", "SIZE", "STATE", "ATTACHED TO", "AGE"), map(_row, found))

    talk(work, as_json=as_json)


def _row(volume: Volume) -> list[str]:
    return [volume.name, show.size(volume.size), volume.state, ", ".join(volume.attached), show.age(volume.created)]


@app.command()
def inspect(name: VolumeName, as_json: Json = False) -> None:
    """All that is known of a volume."""

    async def work(client: Client) -> None:
        found = await client.volumes.get(name)
        if as_json:
            show.document(found)
        else:
            facts = {**found.model_dump(mode="json"), "size": show.size(found.size), "attached": _row(found)[3]}
            show.table(("FIELD", "VALUE"), [(key, str(value)) for key, value in facts.items()])

    talk(work, as_json=as_json)


@app.command()
def resize(name: VolumeName, size: Size, as_json: Json = False) -> None:
    """Make a volume larger; a running holder sees it at once."""

    async def work(client: Client) -> None:
        _say(await client.volumes.resize(name, size), as_json)

    talk(work, as_json=as_json)


@app.command()
def attach(
    name: Name,
    volume: Annotated[str, typer.Argument(metavar="VOL[:PATH[:ro]]", help="Without a path: a bare disk.")],
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Attach a volume: at once when the instance runs, at its next start when it does not."""
    mount = parse.mount(volume)

    async def work(client: Client) -> None:
        from polyvisor.wire.native import AttachVolume

        wanted = AttachVolume(volume=mount.volume, path=mount.path, read_only=mount.read_only)
        instance = await client.instances.attach(name, wanted, timeout=timeout)
        if as_json:
            show.document(instance)
        else:
            show.say(mount.volume)

    talk(work, as_json=as_json)


@app.command()
def detach(name: Name, volume: VolumeName, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Unmount and unplug a volume. It stays as it is."""

    async def work(client: Client) -> None:
        instance = await client.instances.detach(name, volume, timeout=timeout)
        if as_json:
            show.document(instance)
        else:
            show.say(volume)

    talk(work, as_json=as_json)


@app.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="VOL...")], as_json: Json = False) -> None:
    """Delete volumes. Refused while they are attached."""

    async def work(client: Client) -> int:
        from polyvisor.client import Refused

        failed = 0
        for name in names:
            try:
                volume = await client.volumes.get(name)
                await client.volumes.delete(name)
                _say(volume, as_json)
            except Refused as refusal:
                show.complain(refusal.problem, as_json)
                failed = 1
        return failed

    talk(work, as_json=as_json)


def _say(volume: Volume, as_json: bool) -> None:
    if as_json:
        show.document(volume)
    else:
        show.say(volume.name)
