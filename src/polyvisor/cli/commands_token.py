"""token: a signed token for clients that want one. Made here, from the secret in the server's own file."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from polyvisor.cli import settings
from polyvisor.cli.parse import seconds


def token(
    subject: Annotated[str, typer.Option(help="Whose token it is: a user of the server, or any name.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", metavar="S", help="May be given often; none: all.")
    ] = None,
    duration: Annotated[str, typer.Option(metavar="D", help="How long it holds, such as 12h.")] = "24h",
) -> None:
    """Print a token for `Authorization: Bearer`, as clients of Hypeman use it.

    It is signed with the secret of the server's data directory, so it works for that server only.
    """
    import jwt  # a third of what the other commands would wait for

    now = int(time.time())
    claims: dict[str, object] = {"sub": subject, "iat": now, "exp": now + int(seconds(duration))}
    if scope:
        claims["permissions"] = scope
    try:
        secret = settings.signing_secret()
    except settings.Unset as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(jwt.encode(claims, secret, algorithm="HS256"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(token)
