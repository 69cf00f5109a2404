"""schedule: set, show, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json, Name
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Schedule

app = typer.Typer(help="Snapshots by the clock.", no_args_is_help=True)


@app.command("set")
def set_(
    instance: Name,
    every: Annotated[str, typer.Option(help="How often, such as 1h; a minute at least.")],
    keep: Annotated[int | None, typer.Option(help="How many of them are kept.")] = None,
    max_age: Annotated[str | None, typer.Option(help="How long they are kept, such as 7d.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The memory too.")] = False,
    as_json: Json = False,
) -> None:
    """Take a snapshot of an instance every so often, the first one that long from now.

    Only snapshots that the schedule made are removed by it.
    """

    async def work(client: Client) -> None:
        from polyvisor.wire.native import SetSchedule

        kind = "full" if full else "disk"
        wanted = SetSchedule.model_validate({"interval": every, "kind": kind, "max_age": max_age, "max_count": keep})
        _show(await client.schedules.set(instance, wanted), as_json)

    talk(work, as_json=as_json)


@app.command("show")
def show_(instance: Name, as_json: Json = False) -> None:
    """When the next snapshot is taken, and what became of the last run."""

    async def work(client: Client) -> None:
        _show(await client.schedules.get(instance), as_json)

    talk(work, as_json=as_json)


@app.command()
def rm(instance: Name, as_json: Json = False) -> None:
    """Take no more snapshots by the clock. Those that were taken stay."""

    async def work(client: Client) -> None:
        was = await client.schedules.get(instance)
        await client.schedules.delete(instance)
        if as_json:
            show.document(was)
        else:
            show.say(instance)

    talk(work, as_json=as_json)


def _show(schedule: Schedule, as_json: bool) -> None:
    if as_json:
        show.document(schedule)
        return
    facts = schedule.model_dump(mode="json")
    for field in ("interval", "max_age"):
        facts[field] = None if facts[field] is None else f"{facts[field]:g} s"
    show.table(("FIELD", "VALUE"), [(field, "" if value is None else str(value)) for field, value in facts.items()])
