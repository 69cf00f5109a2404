"""snapshot: create, ls, inspect, restore, fork, rm."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Compress, Env, Json, Name, Timeout
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Snapshot

app = typer.Typer(help="What instances were at a moment, kept.", no_args_is_help=True)
_Many = list[str]
_SIZES = ("memory", "disk", "size", "compressed_size", "uncompressed_size")
SnapshotName = Annotated[str, typer.Argument(metavar="S", help="A snapshot's id or name.")]


@app.command()
def create(
    instance: Name,
    name: Annotated[str | None, typer.Option(help="A name; else its id is its name.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The memory too: what is made from it goes on.")] = False,
    compress: Compress = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Take a snapshot of an instance's disk. Volumes are not a part of it."""
    parse.compression(compress)

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateSnapshot

        wanted = CreateSnapshot(name=name, kind="full" if full else "disk", compression=compress)
        key = secrets.token_hex(16)
        _say(await client.instances.snapshot(instance, wanted, timeout=timeout, idempotency_key=key), as_json)

    talk(work, as_json=as_json)


@app.command()
def ls(
    instance: Annotated[str | None, typer.Argument(metavar="[N]", help="Of this instance only.")] = None,
    as_json: Json = False,
) -> None:
    """List snapshots, oldest first."""

    async def work(client: Client) -> None:
        found = [snapshot async for snapshot in client.snapshots.list(instance)]
        if as_json:
            show.documents(found)
        else:
            show.table(("NAME", "OF", "KIND", "STATE", "SIZE", "COMPRESSION", "BY", "AGE"), map(_row, found))

    talk(work, as_json=as_json)


def _row(snapshot: Snapshot) -> list[str]:
    return [
        snapshot.name, snapshot.instance_name, snapshot.kind, snapshot.state, show.size(snapshot.size),
        _compression(snapshot), "schedule" if snapshot.scheduled else "hand", show.age(snapshot.created),
    ]  # fmt: skip


def _compression(snapshot: Snapshot) -> str:
    """`zstd:1`, and how far that is."""
    state = snapshot.compression_state
    if state in ("none", "compressed"):
        return snapshot.compression if state == "compressed" else ""
    return f"{snapshot.compression} ({state})"


@app.command()
def inspect(name: SnapshotName, as_json: Json = False) -> None:
    """All that is known of a snapshot."""

    async def work(client: Client) -> None:
        found = await client.snapshots.get(name)
        if as_json:
            show.document(found)
        else:
            facts = found.model_dump(mode="json")
            facts |= {field: show.size(facts[field]) for field in _SIZES if facts[field] is not None}
            show.table(("FIELD", "VALUE"), [(field, str(value)) for field, value in facts.items()])

    talk(work, as_json=as_json)


@app.command()
def restore(instance: Name, name: SnapshotName, timeout: Timeout = 120, as_json: Json = False) -> None:
    """Let a stopped instance be what it was. What it has now is gone."""

    async def work(client: Client) -> None:
        changed = await client.instances.revert(instance, name, timeout=timeout)
        if as_json:
            show.document(changed)
        else:
            show.say(changed.name)

    talk(work, as_json=as_json)


@app.command()
def fork(  # noqa: PLR0913 - every flag is a parameter
    snapshot: SnapshotName,
    name: Annotated[str | None, typer.Option(help="A name; else its id is its name.")] = None,
    hostname: Annotated[str, typer.Option(help="Else the snapshot's, or its name.")] = "",
    vcpus: Annotated[int | None, typer.Option(help="Else as many as it had.")] = None,
    memory: Annotated[str | None, typer.Option("-m", "--memory", help="Else as much as it had.")] = None,
    env: Env = [],  # noqa: B006 - typer copies it
    port: Annotated[
        _Many, typer.Option("-p", "--port", metavar="[HOST:]GUEST[/udp]", help="Instead of those it had.")
    ] = [],  # noqa: B006 - typer copies it
    restart: Annotated[str | None, typer.Option(help="never, on-failure[:N] or always; else as it was.")] = None,
    label: Annotated[_Many, typer.Option("-l", "--label", metavar="K=V", help="Instead of those it had.")] = [],  # noqa: B006 - typer copies it
    lifetime: Annotated[str | None, typer.Option(help="Delete it after that long, such as 1h.")] = None,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Make an instance from a snapshot, start it, and print its id.

    One from a snapshot with memory goes on where that was, so it takes neither vCPUs, memory nor variables of its own.
    """
    ports = [parse.port(text) for text in port] or None
    labels = parse.pairs(label, "--label") or None
    policy = None if restart is None else parse.restart(restart)

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateInstance

        wanted = CreateInstance(
            snapshot=snapshot, name=name, hostname=hostname, vcpus=vcpus, memory=memory, env=parse.environment(env),
            ports=ports, restart=policy, labels=labels, lifetime=lifetime,
        )  # fmt: skip
        key = secrets.token_hex(16)
        made = await client.instances.create(wanted, wait="launched", timeout=timeout, idempotency_key=key)
        if as_json:
            show.document(made)
        else:
            show.say(made.id)

    talk(work, as_json=as_json)


@app.command()
def rm(names: Annotated[_Many, typer.Argument(metavar="S...")], as_json: Json = False) -> None:
    """Delete snapshots. Instances that were made from them stay."""

    async def work(client: Client) -> int:
        from polyvisor.client import Refused

        failed = 0
        for name in names:
            try:
                snapshot = await client.snapshots.get(name)
                await client.snapshots.delete(name)
                _say(snapshot, as_json)
            except Refused as refusal:
                show.complain(refusal.problem, as_json)
                failed = 1
        return failed

    talk(work, as_json=as_json)


def _say(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        show.document(snapshot)
    else:
        show.say(snapshot.name)
