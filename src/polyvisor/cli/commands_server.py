"""serve, doctor, completion: the commands that need no server."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from polyvisor.cli import settings
from polyvisor.cli.options import Json

Config = Annotated[str | None, typer.Option(help="A TOML file of settings.")]
Data = Annotated[str | None, typer.Option(metavar="DIR", help="The data directory.")]


class Mode(StrEnum):
    """Network modes."""

    USER = "user"
    BRIDGE = "bridge"


class Hypervisor(StrEnum):
    """What runs the machines; `fake` only pretends."""

    QEMU = "qemu"
    FAKE = "fake"


class Level(StrEnum):
    """How much the log says."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Shell(StrEnum):
    """Shells that can be taught."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


Network = Annotated[Mode | None, typer.Option(help="user: touches nothing on the host; bridge: needs root.")]


def serve(  # noqa: PLR0913 - every flag is a parameter
    data: Data = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Port 0: a free one.")] = None,
    tls_listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The same over TLS.")] = None,
    ssh_listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="A gateway for SSH into VMs.")] = None,
    network: Network = None,
    hypervisor: Annotated[Hypervisor | None, typer.Option(help="qemu, or fake for demos.")] = None,
    config: Config = None,
    log_level: Annotated[Level, typer.Option(help="How much the log on stderr says.")] = Level.INFO,
) -> None:
    """Run the server in the foreground. SIGTERM stops it and leaves the machines running."""
    from polyvisor.server import command

    flags = {
        "server.data": data or settings.variable("POLYVISOR_DATA"),
        "server.listen": listen,
        "server.tls_listen": tls_listen,
        "ssh.listen": ssh_listen,
        "network.mode": network and str(network),
        "host.hypervisor": hypervisor and str(hypervisor),
    }
    raise typer.Exit(command.serve(config=config, flags=flags, log_level=str(log_level)))


def doctor(data: Data = None, network: Network = None, config: Config = None, as_json: Json = False) -> None:
    """Test, by doing, what this host can do. Exit code 1 when something needed is missing."""
    from polyvisor.server import command

    flags = {
        "server.data": data or settings.variable("POLYVISOR_DATA"),
        "network.mode": network and str(network),
    }
    raise typer.Exit(command.doctor(config=config, flags=flags, as_json=as_json))


def completion(shell: Annotated[Shell, typer.Argument(help="For which shell.")]) -> None:
    """Print the script that completes our words: `eval "$(polyvisor completion bash)"`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer's own home for it

    script = get_completion_script(prog_name="polyvisor", complete_var="_POLYVISOR_COMPLETE", shell=str(shell))
    sys.stdout.write(script + "\n")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (serve, doctor, completion):
        app.command()(command)
