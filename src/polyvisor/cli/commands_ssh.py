"""ssh-key: add, ls, rm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.access import SshKey

app = typer.Typer(help="Public keys that let their owners into VMs by SSH.", no_args_is_help=True)


@app.command()
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Such as ~/.ssh/id_ed25519.pub; '-': standard input.")],
    comment: Annotated[str, typer.Option(help="In the place of the key's own.")] = "",
    as_json: Json = False,
) -> None:
    """Add a public key of yours, and print its fingerprint."""

    async def work(client: Client) -> None:
        from polyvisor.wire.access import AddSshKey

        text = sys.stdin.read() if file == "-" else Path(file).expanduser().read_text()
        made = await client.ssh_keys.add(AddSshKey(public_key=text, comment=comment))
        show.document(made) if as_json else show.say(made.fingerprint)

    talk(work, as_json=as_json)


@app.command()
def ls(as_json: Json = False) -> None:
    """List SSH keys."""

    async def work(client: Client) -> None:
        found = await client.ssh_keys.list()
        if as_json:
            show.documents(found)
        else:
            show.table(("ID", "FINGERPRINT", "COMMENT", "OWNER", "AGE"), map(_key, found))

    talk(work, as_json=as_json)


def _key(key: SshKey) -> list[str]:
    return [str(key.id), key.fingerprint, key.comment, key.owner, show.age(key.created)]


@app.command()
def rm(
    id: Annotated[int, typer.Argument(metavar="ID", help="As `ssh-key ls` shows it.")], as_json: Json = False
) -> None:
    """Take an SSH key away."""

    async def work(client: Client) -> None:
        await client.ssh_keys.remove(id)

    talk(work, as_json=as_json)
