"""template: create, ls, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client

app = typer.Typer(help="Booted machines that new instances are copies of.", no_args_is_help=True)


@app.command()
def create(  # noqa: PLR0913 - the options of a command
    image: Annotated[str, typer.Argument(metavar="IMAGE")],
    vcpus: Annotated[int | None, typer.Option(help="As many as its instances will have.")] = None,
    memory: Annotated[str | None, typer.Option("-m", "--memory", help="Such as 512M.")] = None,
    disk: Annotated[str | None, typer.Option(help="Such as 10G.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="For every project; operators only.")] = False,
    code: Annotated[bool, typer.Option("--code", help="With a Python session that is up.")] = False,
    as_json: Json = False,
) -> None:
    """Boot a machine of IMAGE once and keep its memory: instances of the same size start as copies of it."""

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateTemplate

        wanted = CreateTemplate(image=image, vcpus=vcpus, memory=memory, disk=disk, shared=shared, code=code)
        made = await client.templates.create(wanted)
        if as_json:
            show.document(made)
        else:
            show.say(made.name)

    talk(work, as_json=as_json)


@app.command()
def ls(as_json: Json = False) -> None:
    """List templates, oldest first."""

    async def work(client: Client) -> None:
        found = await client.templates.list()
        if as_json:
            show.documents(found)
            return
        rows = [
            [t.name, t.image, str(t.vcpus), show.size(t.memory), show.size(t.disk), t.of, t.state, show.age(t.created)]
            for t in found
        ]
        show.table(("NAME", "IMAGE", "VCPUS", "MEMORY", "DISK", "FOR", "STATE", "AGE"), rows)

    talk(work, as_json=as_json)


@app.command()
def rm(names: Annotated[list[str], typer.Argument(metavar="T...")], as_json: Json = False) -> None:
    """Delete templates. Instances that were made of them stay."""

    async def work(client: Client) -> int:
        from polyvisor.client import Refused

        failed = 0
        for name in names:
            try:
                await client.templates.delete(name)
                show.say(name)
            except Refused as refusal:
                show.complain(refusal.problem, as_json)
                failed = 1
        return failed

    talk(work, as_json=as_json)
