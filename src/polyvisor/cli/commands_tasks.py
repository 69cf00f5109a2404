"""task: create, ls, inspect, run, enable, disable, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyvisor.cli import show
from polyvisor.cli.options import Json
from polyvisor.cli.session import talk

if TYPE_CHECKING:
    from polyvisor.client import Client
    from polyvisor.wire.native import Task

app = typer.Typer(help="Power by the clock: what is done to VMs when its time has come.", no_args_is_help=True)
TaskName = Annotated[str, typer.Argument(metavar="T", help="A task's id or name.")]
TaskNames = Annotated[list[str], typer.Argument(metavar="T...", help="Ids or names of tasks.")]


@app.command()
def create(  # noqa: PLR0913 - typer's way to declare options
    instance: Annotated[str, typer.Argument(metavar="N", help="An instance's id or name.")],
    action: Annotated[
        str, typer.Argument(help="start, stop (the power button), force-stop, reset, restart, suspend or snapshot.")
    ],
    name: Annotated[str | None, typer.Option(help="What the task is called.")] = None,
    at: Annotated[str | None, typer.Option(help="One moment, such as 2027-03-04T18:00:00Z.")] = None,
    every: Annotated[str | None, typer.Option(help="minute, hour, day, week, month or year.")] = None,
    interval: Annotated[int | None, typer.Option(help="Every so many of these.")] = None,
    on: Annotated[str | None, typer.Option(help="Days of the week, such as mon,fri.")] = None,
    time: Annotated[str | None, typer.Option(help="The time of day in UTC, such as 18:00.")] = None,
    start: Annotated[str | None, typer.Option(help="The day from which it counts, such as 2027-03-04.")] = None,
    until: Annotated[str | None, typer.Option(help="The moment after which it is not done any more.")] = None,
    month_day: Annotated[str | None, typer.Option(help="Of a month: start, first, 15th or last.")] = None,
    once: Annotated[bool, typer.Option("--once", help="The task goes when it has run.")] = False,
    disabled: Annotated[bool, typer.Option("--disabled", help="Not before it is enabled.")] = False,
    as_json: Json = False,
) -> None:
    """Have something done to an instance at a moment, or again and again.

    It is done in your name, with what you may do then. All times are UTC.
    """
    told: dict[str, Any] = {"instance": instance, "action": action, "once": once, "enabled": not disabled}
    given: dict[str, Any] = {
        "name": name,
        "at": at,
        "every": every,
        "interval": interval,
        "time": time,
        "start": start,
        "end": until,
    }
    given |= {"month_day": month_day, "days": None if on is None else [day.strip() for day in on.split(",")]}
    told |= {field: value for field, value in given.items() if value is not None}

    async def work(client: Client) -> None:
        from polyvisor.wire.native import CreateTask

        _say(await client.tasks.create(CreateTask.model_validate(told)), as_json)

    talk(work, as_json=as_json)


@app.command()
def ls(as_json: Json = False) -> None:
    """All tasks, oldest first."""

    async def work(client: Client) -> None:
        found = await client.tasks.list()
        if as_json:
            show.documents(found)
            return
        rows = [
            (task.name, task.instance, task.action, _when(task), _moment(task.next_run), _outcome(task))
            for task in found
        ]
        show.table(("NAME", "VM", "ACTION", "WHEN", "NEXT", "LAST"), rows)

    talk(work, as_json=as_json)


@app.command()
def inspect(task: TaskName, as_json: Json = False) -> None:
    """When it runs next, and what became of its last run."""

    async def work(client: Client) -> None:
        found = await client.tasks.get(task)
        if as_json:
            show.document(found)
            return
        facts = found.model_dump(mode="json")
        facts["timetables"] = _when(found)
        facts["last_run"] = _outcome(found)
        show.table(("FIELD", "VALUE"), [(field, "" if value is None else str(value)) for field, value in facts.items()])

    talk(work, as_json=as_json)


@app.command()
def run(task: TaskName, as_json: Json = False) -> None:
    """Do it now. Its times stay as they are."""

    async def work(client: Client) -> None:
        _say(await client.tasks.run(task), as_json)

    talk(work, as_json=as_json)


@app.command()
def enable(tasks: TaskNames, as_json: Json = False) -> None:
    """Let them run at their next times."""
    _switch(tasks, as_json, enabled=True)


@app.command()
def disable(tasks: TaskNames, as_json: Json = False) -> None:
    """They do not run by the clock until they are enabled."""
    _switch(tasks, as_json, enabled=False)


@app.command()
def rm(tasks: TaskNames, as_json: Json = False) -> None:
    """What they say is not done any more."""

    async def work(client: Client) -> None:
        for key in tasks:
            was = await client.tasks.get(key)
            await client.tasks.delete(was.id)
            _say(was, as_json)

    talk(work, as_json=as_json)


def _switch(tasks: list[str], as_json: bool, *, enabled: bool) -> None:
    async def work(client: Client) -> None:
        from polyvisor.wire.native import UpdateTask

        for key in tasks:
            _say(await client.tasks.update(key, UpdateTask(enabled=enabled)), as_json)

    talk(work, as_json=as_json)


def _say(task: Task, as_json: bool) -> None:
    if as_json:
        show.document(task)
    else:
        show.say(task.name)


def _moment(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"


def _when(task: Task) -> str:
    told = []
    for one in task.timetables:
        if one.every == "never":
            told.append(f"{one.start} {one.time}")
            continue
        unit = one.every if one.interval == 1 else f"{one.interval} {one.every}s"
        days = f" on {','.join(one.days)}" if len(one.days) < 7 else ""
        told.append(f"every {unit}{days} at {one.time}")
    return "; ".join(told) or "by hand"


def _outcome(task: Task) -> str:
    if task.last_run is None:
        return "-"
    return f"{task.last_run.outcome}: {task.last_run.error}" if task.last_run.error else task.last_run.outcome
