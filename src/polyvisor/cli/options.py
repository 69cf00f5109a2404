"""Options that many commands share, and the command whose last words are another command."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output; errors as JSON on stderr.")]
Name = Annotated[str, typer.Argument(metavar="N", help="An instance's id or name.")]
Names = Annotated[list[str], typer.Argument(metavar="N...", help="Ids or names of instances.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait at most; the work goes on.", min=0.1, max=3600)]
Env = Annotated[list[str], typer.Option("-e", "--env", metavar="K=V", help="A variable; a bare K passes ours on.")]
Compress = Annotated[
    str | None, typer.Option("--compress", metavar="ALG[:LEVEL]", help="Saved memory: zstd:1-19, lz4:0-9 or none.")
]
CompressDelay = Annotated[str | None, typer.Option(help="How long after a standby that begins, such as 5m.")]
Health = Annotated[
    str | None,
    typer.Option("--health", metavar="CHECK", help="http://:PORT/PATH, https://:PORT/PATH, tcp://:PORT or a command."),
]
Egress = Annotated[
    str | None,
    typer.Option(
        "--egress", metavar="WHAT,...", help="What it may reach: open, deny, http, https, packages, names, ranges."
    ),
]
StandbyAfter = Annotated[
    str | None, typer.Option(help="Into standby after so long without a connection, such as 10m; 0: never.")
]
Words = Annotated[list[str] | None, typer.Argument(metavar="-- CMD...", help="The command and its arguments.")]


class Trailing(TyperCommand):
    """With `--`, options may stand anywhere before it. Without, the first name ends them: `exec N ls -l` works too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        ctx.allow_interspersed_args = "--" in args
        rest: list[str] = super().parse_args(ctx, args)
        return rest
