"""Tasks: between the wire and the model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from polyvisor.model.faults import Invalid
from polyvisor.model.task import Run, Task
from polyvisor.model.timetable import Every, MonthDay, Timetable, once
from polyvisor.wire import native as wire

_NAMES: Mapping[int, wire.Day] = {0: "mon", 1: "tue", 2: "wed", 3: "thu", 4: "fri", 5: "sat", 6: "sun"}
_DAYS = {day: number for number, day in _NAMES.items()}


def timetables_of(body: wire.CreateTask, now: datetime) -> list[Timetable]:
    """When it is done: at one moment, by a timetable, or only by hand.

    :raise Invalid: both are said, or parts of a timetable without `every`, or a moment without its zone.
    """
    if body.at is not None:
        if body.every is not None:
            raise Invalid("at: says one moment, every says many", field="at")
        if body.at.tzinfo is None:
            raise Invalid("at: must say its time zone", field="at")
        return [once(body.at)]
    if body.every is None:
        for field in ("days", "time", "start", "end"):
            if getattr(body, field) is not None:
                raise Invalid(f"{field}: there is no timetable without every", field=field)
        return []
    start = body.start or now.date()
    at = body.time.hour * 3600 + body.time.minute * 60 + body.time.second if body.time else 0
    days = frozenset(_DAYS[day] for day in body.days) if body.days is not None else frozenset(_NAMES)
    if body.every == "week" and body.days is None:
        days = frozenset({start.weekday()})
    if body.end is not None and body.end.tzinfo is None:
        raise Invalid("end: must say its time zone", field="end")
    end = body.end.astimezone(UTC) if body.end is not None else None
    return [Timetable(Every(body.every), start, body.interval, at, end=end, days=days,
                      month_day=MonthDay(body.month_day))]  # fmt: skip


def task_to(task: Task) -> wire.Task:
    """A task for its reader."""
    return wire.Task(
        id=task.id, name=task.name, description=task.description, project=task.project, instance=task.instance,
        action=task.deed.value, owner=task.owner.name, enabled=task.enabled, once=task.once, created=task.created,
        timetables=[_table(one) for one in task.timetables], next_run=task.next_run,
        last_run=None if task.last is None else _run(task.last),
    )  # fmt: skip


def _table(table: Timetable) -> wire.Timetable:
    hour, rest = divmod(table.at, 3600)
    time = f"{hour:02}:{rest // 60:02}:{rest % 60:02}"
    return wire.Timetable(
        every=table.every.value, interval=table.interval, start=table.start, time=time, end=table.end,
        days=[_NAMES[day] for day in sorted(table.days)], month_day=table.month_day.value,
    )  # fmt: skip


def _run(run: Run) -> wire.TaskRun:
    return wire.TaskRun(
        due=run.due, began=run.began, ended=run.ended, outcome=run.outcome.value, error=run.detail or None,
        operation=run.operation,
    )  # fmt: skip
