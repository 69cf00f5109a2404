"""events, hosts, operations, version; and `pull` for `images pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.commands_images import pull
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Event, Host, Operation, ReclaimAction


def events(
    after: Annotated[int | None, typer.Option(min=0, help="Begin behind this number; else from now on.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C.")] = True,
    as_json: Json = False,
) -> None:
    """What happens, line by line; a dropped connection is taken up again where it was."""

    async def work(client: Client) -> None:
        if follow:
            async for event in client.events.follow(after):
                _say(event, as_json)
            return
        seq = after or 0
        while batch := await client.events.after(seq):
            for event in batch:
                _say(event, as_json)
            seq = batch[-1].seq

    talk(work, as_json=as_json)


def _say(event: Event, as_json: bool) -> None:
    if as_json:
        show.document(event)
        return
    data = " ".join(f"{key}={value}" for key, value in event.data.items())
    show.say(f"{event.at:%Y-%m-%d %H:%M:%S} {event.seq} {event.kind} {event.subject} {data}".rstrip())


def hosts(as_json: Json = False) -> None:
    """The hosts and what they can do."""

    async def work(client: Client) -> None:
        found = await client.hosts.list()
        if as_json:
            show.documents(found)
        else:
            heads = ("HOST", "OK", "CPUS", "MEMORY", "DISK FREE", "HYPERVISOR", "ACCELERATOR", "NETWORK", "ABILITIES")
            show.table(heads, map(_host, found))

    talk(work, as_json=as_json)


def _host(host: Host) -> list[str]:
    return [
        host.id, "yes" if host.ok else f"no: {host.trouble}", str(host.cpus), show.size(host.memory),
        show.size(host.disk_free), f"{host.hypervisor} {host.version}", host.accelerator, host.network,
        " ".join(host.abilities),
    ]  # fmt: skip


def reclaim(
    size: Annotated[str, typer.Argument(metavar="BYTES", help="Such as 512M, of all guests together; 0 ends a hold.")],
    hold: Annotated[str, typer.Option(help="For how long, at most 1h.")] = "5m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    reason: Annotated[str, typer.Option(help="For the log.")] = "",
    as_json: Json = False,
) -> None:
    """Let running guests lend the host memory for a while. Each keeps its protected floor."""

    async def work(client: Client) -> None:
        from polyvisor.wire.native import ReclaimMemory

        wanted = ReclaimMemory(bytes=0 if size == "0" else size, hold=hold, dry_run=dry_run, reason=reason)
        done = await client.hosts.reclaim(wanted)
        if as_json:
            show.document(done)
            return
        show.table(("NAME", "MEMORY", "FLOOR", "BEFORE", "PLANNED", "NOW", "STATUS"), map(_action, done.actions))
        until = f" until {done.hold_until:%H:%M:%S}" if done.hold_until else ""
        applied, available = show.size(done.applied), show.size(done.host_available)
        show.remark(f"guests lend {applied}{until}; the host has {available} available ({done.host_pressure})")

    talk(work, as_json=as_json)


def _action(action: ReclaimAction) -> list[str]:
    sizes = (action.assigned, action.floor, action.previous, action.planned, action.target)
    return [action.name, *map(show.size, sizes), action.status + (f": {action.error}" if action.error else "")]


def operations(
    name: Annotated[str | None, typer.Argument(metavar="[N]", help="Of this instance only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    as_json: Json = False,
) -> None:
    """What was asked, newest first."""

    async def work(client: Client) -> None:
        found = await client.operations.list(name, limit)
        if as_json:
            show.documents(found)
        else:
            show.table(("OPERATION", "VERB", "STATE", "INSTANCE", "AGE", "ERROR"), map(_operation, found))

    talk(work, as_json=as_json)


def _operation(op: Operation) -> list[str]:
    error = f"{op.error.kind}: {op.error.message}" if op.error else ""
    return [op.id, op.verb, op.state, op.instance, show.age(op.created), error]


def version(as_json: Json = False) -> None:
    """Our own version."""
    from polyvisor import __version__

    if as_json:
        show.say(f'{{"version": "{__version__}"}}')
    else:
        show.say(f"polyvisor {__version__}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (events, hosts, reclaim, operations, version, pull):
        app.command()(command)
