"""ps, inspect, update, rm, wait: instances as records."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import parse, show
from polyvisor.cli.options import Compress, CompressDelay, Egress, Json, Name, Names, StandbyAfter, Timeout
from polyvisor.cli.session import all_of, status_of, talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Instance

_RESTING = ("stopped", "failed")
_SLICE = 300.0  # one question's share of a long wait
Labels = Annotated[list[str], typer.Option("-l", "--label", metavar="K=V", help="Only those with the label.")]


def ps(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Stopped and failed ones too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Ids only.")] = False,
    label: Labels = [],  # noqa: B006 - typer copies it
    as_json: Json = False,
) -> None:
    """List instances."""
    labels = parse.pairs(label, "--label")

    async def work(client: Client) -> None:
        found = [i async for i in client.instances.list(labels) if everything or i.state not in _RESTING]
        if as_json:
            show.documents(found)
        elif quiet:
            for instance in found:
                show.say(instance.id)
        else:
            show.table(("NAME", "STATE", "IMAGE", "VCPUS", "MEMORY", "ADDRESS", "PORTS", "AGE"), map(_row, found))

    talk(work, as_json=as_json)


def _row(instance: Instance) -> list[str]:
    state: str = instance.state
    if state == "running":
        state += " (ready)" if instance.ready else " (starting up)"
    elif state == "stopped" and instance.exit is not None:
        state += f" ({status_of(instance)})"
    ports = ", ".join(f"{p.host}->{p.guest}/{p.protocol}" for p in instance.ports)
    return [
        instance.name, state, instance.image, str(instance.vcpus), show.size(instance.memory), instance.address or "",
        ports, show.age(instance.created),
    ]  # fmt: skip


def inspect(name: Name, as_json: Json = False) -> None:
    """All that is known of an instance."""

    async def work(client: Client) -> None:
        found = await client.instances.get(name)
        if as_json:
            show.document(found)
        else:
            rows = _facts(found)
            if found.health is not None:
                said = await client.instances.health(name)
                rows.append(("health", said.health if said.error is None else f"{said.health}: {said.error}"))
            show.table(("FIELD", "VALUE"), rows)

    talk(work, as_json=as_json)


def _facts(instance: Instance) -> list[tuple[str, str]]:
    rows = []
    for name, value in instance.model_dump(
        mode="json", exclude={"exit", "error", "volumes", "ports", "health"}
    ).items():
        if name in ("memory", "disk") or (value and name.endswith("_rate")):
            value = show.size(value)
        if isinstance(value, dict):
            value = " ".join(f"{key}={item}" for key, item in value.items())
        if isinstance(value, list):
            value = " ".join(map(str, value))
        rows.append((name, "" if value is None else str(value)))
    rows += [("port", f"{p.host}->{p.guest}/{p.protocol}") for p in instance.ports]
    for volume in instance.volumes:
        how = " read-only" if volume.read_only else ""
        rows.append(("volume", f"{volume.name} at {volume.path or 'no path'}{how} ({volume.state})"))
    if instance.exit is not None:
        rows.append(("exit code", f"{status_of(instance)} ({instance.exit.reason})"))
    if instance.error is not None:
        rows.append(("error", f"{instance.error.kind}: {instance.error.message}"))
    return rows


def update(  # noqa: PLR0913 - every flag is a parameter
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="A new name.")] = None,
    label: Annotated[list[str], typer.Option("-l", "--label", metavar="K=V", help="All labels, anew.")] = [],  # noqa: B006 - typer copies it
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Take all labels away.")] = False,
    lifetime: Annotated[str | None, typer.Option(help="Delete it so long from now; 0 takes that away.")] = None,
    compress: Compress = None,
    compress_delay: CompressDelay = None,
    standby_after: StandbyAfter = None,
    egress: Egress = None,
    as_json: Json = False,
) -> None:
    """Change name, labels, lifetime, how its saved memory is compressed, when it goes into standby; or, alone, what it
    may reach, from now on: `--egress none` leaves that to its network.
    """
    parse.compression(compress, policy=True)
    labels = parse.pairs(label, "--label")
    reach = egress if egress == "none" else parse.egress(egress)
    if reach is not None and (new_name or labels or no_labels or lifetime or compress or compress_delay):
        raise typer.BadParameter("it is changed alone", param_hint="--egress")

    async def work(client: Client) -> None:
        from polyvisor.wire.native import StandbyRequest, UpdateInstance

        wanted = labels if labels or no_labels else None
        request = UpdateInstance.model_validate({"egress": reach}) if reach is not None else UpdateInstance(
            name=new_name, labels=wanted, lifetime=lifetime, compression=compress, compression_delay=compress_delay,
            standby=None if standby_after is None else StandbyRequest(after=standby_after),
        )  # fmt: skip
        changed = await client.instances.update(name, request)
        if as_json:
            show.document(changed)
        else:
            show.say(changed.name)

    talk(work, as_json=as_json)


def rm(
    names: Annotated[list[str] | None, typer.Argument(metavar="N...", help="Ids or names of instances.")] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every instance.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Running ones too.")] = False,
    timeout: Timeout = 120,
    as_json: Json = False,
) -> None:
    """Delete instances and their disks; volumes stay. One that runs is refused without --force."""
    if bool(names) == everything:
        raise typer.BadParameter("name instances, or say --all", param_hint="N")

    async def work(client: Client) -> int:
        # Of all projects that the caller sees: a name is known in one of them only.
        which = [i.id async for i in client.instances.list()] if everything else names or []
        return await all_of(
            client, which, lambda c, name: c.instances.delete(name, force=force, timeout=timeout), as_json
        )

    talk(work, as_json=as_json)


def wait(
    names: Names,
    state: Annotated[list[str], typer.Option(help="Any of these; `ready` and `ended` too.")] = [],  # noqa: B006 - typer copies it
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most.", min=0.1)] = None,
    as_json: Json = False,
) -> None:
    """Wait until instances have ended, and print their exit codes; with --state, until they are there."""

    async def work(client: Client) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        for name in names:
            found = await until(client, name, state or ["ended"], end)
            if as_json:
                show.document(found)
            else:
                show.say(found.state if state else str(status_of(found)))

    talk(work, as_json=as_json)


async def until(client: Client, name: str, states: list[str], end: float | None) -> Instance:
    """The instance once it is in one of `states`; asked again and again, so that no proxy cuts a long wait short."""
    from polyvisor.client import Refused

    while True:
        left = _SLICE if end is None else max(0.01, end - time.monotonic())
        try:
            return await client.instances.wait(name, states, min(_SLICE, left))
        except Refused as refusal:
            if refusal.kind != "TimedOut" or (end is not None and left <= _SLICE):
                raise


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (ps, inspect, update, rm, wait):
        app.command()(command)
