"""`task_schedules` and `task_schedule_triggers`: times, and the tasks that they are for (vergeos.md §2.15).

A schedule is a row of this dialect. Whatever is done to it or to a trigger, the tasks that it is for get their
timetables anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field, read_only
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Kept, data_of
from polyvisor.dialects.vergeos.tables import tasks
from polyvisor.dialects.vergeos.tables.declare import constant, data, key, told
from polyvisor.dialects.vergeos.tables.tasks import Listed
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists, Invalid
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action
from polyvisor.model.timetable import DAY, Every, MonthDay, Timetable, check_timetable, following

KIND, TRIGGERS = "task_schedules", "task_schedule_triggers"
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_EVERY = {
    "minute": "Minute(s)", "hour": "Hour(s)", "day": "Day(s)", "week": "Week(s)", "month": "Month(s)",
    "year": "Year(s)", "never": "Does Not Repeat",
}  # fmt: skip
_MONTH_DAYS = {"first": "First", "last": "Last", "15th": "15th", "start_date": "Start Date"}
_MOST_TIMES = 1440
_TAKEN = "This name is already in use"


def timetable_of(kept: Mapping[str, Any]) -> Timetable:
    """When a schedule is: all in UTC. :raise Refusal: 422."""
    begin = kept["start_time_of_day"] % DAY
    try:
        start = date.fromisoformat(kept["start_date"])
    except ValueError as error:
        raise invalid_field("start_date", "is not a date") from error
    month_day = MonthDay.START if kept["day_of_month"] == "start_date" else MonthDay(kept["day_of_month"])
    table = Timetable(
        Every(kept["repeat_every"]), start, kept["repeat_iteration"], begin,
        kept["end_time_of_day"] if kept["end_time_of_day"] > begin else DAY, _end(kept["end_date"]),
        frozenset(number for number, day in enumerate(_DAYS) if kept[day]), month_day,
    )  # fmt: skip
    try:
        return check_timetable(table)
    except Invalid as error:
        raise Refusal(422, f"Validation error on field: {error.public}") from error


def _end(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise invalid_field("end_date", "is not a time") from error


def _epoch(kept: Kept) -> int:
    try:
        return int(datetime.fromisoformat(kept.data["start_date"]).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return 0


TABLE = Table(
    KIND,
    (
        key(),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("description", Kind.TEXT, longest=2048),
        data("enabled", Kind.BOOL, True, summary=True),
        Column("task", Kind.FK, lambda kept: kept.data.get("task"), refers="tasks"),
        data("repeat_every", Kind.CHOICE, "hour", choices=_EVERY, summary=True),
        data("repeat_iteration", Kind.INT, 1, low=1, high=1000),
        data("start_date", Kind.STRING, longest=10),
        told("start_date_epoch", Kind.TIME, _epoch),
        data("end_date", Kind.STRING, longest=19),
        data("start_time_of_day", Kind.INT, 0, low=0, high=DAY),
        data("end_time_of_day", Kind.INT, DAY, low=0, high=DAY),
        told("all_day", Kind.BOOL, lambda kept: kept.data["start_time_of_day"] == 0
             and kept.data["end_time_of_day"] == DAY),
        data("day_of_month", Kind.CHOICE, "start_date", choices=_MONTH_DAYS),
        *(data(day, Kind.BOOL, True) for day in _DAYS),
        constant("system_created", Kind.BOOL, False),
        constant("creator", Kind.REF, None, refers="users"),
    ),
    short=("$key", "name", "enabled", "repeat_every"),
    children={"triggers": Children(TRIGGERS, "schedule")},
)  # fmt: skip


@dataclass(frozen=True)
class Trigger:
    """A task, and a schedule that it is run by."""

    row: Row
    task: int

    @property
    def key(self) -> int:
        """Its key."""
        return self.row.key

    @cached_property
    def schedule(self) -> int:
        """The schedule's key."""
        return int(data_of(self.row)["schedule"])


TRIGGER_TABLE = Table(
    TRIGGERS,
    (
        key(),
        Column("task", Kind.FK, lambda trigger: trigger.task, refers="tasks", required=True),
        Column("schedule", Kind.FK, lambda trigger: trigger.schedule, refers=KIND, required=True),
        constant("trigger", Kind.INT, 0),
    ),
    display="task#$display",
    short=("$key", "task", "schedule"),
)


async def _schedules(world: World) -> Sequence[Kept]:
    return [Kept(row) for row in await world.rows(KIND) if world.principal.may(Action.INSTANCE_VIEW, row.project)]


async def _triggers(world: World) -> Sequence[Trigger]:
    known = {one.task.id: one.key for one in await tasks.listed(world)}
    rows = [(row, known.get(data_of(row)["task"])) for row in await world.rows(TRIGGERS)]
    return [Trigger(row, task) for row, task in rows if task is not None]


async def _arrange(call: Call, only: Collection[int], schedules: Mapping[int, Mapping[str, Any]],
                   without: int = 0) -> None:  # fmt: skip
    """Give tasks the times of their triggers' schedules, of which `schedules` holds those that are enabled; `without`
    is the key of a trigger that does not count any more."""
    triggers = await _triggers(call.world)
    for one in await tasks.listed(call.world):
        if one.key in only:
            here = [t.schedule for t in triggers if t.task == one.key and t.key != without]
            tables = [timetable_of(schedules[key]) for key in here if key in schedules]
            await call.core.tasks.update(call.principal, one.task.id, timetables=tables)


async def _times(call: Call) -> dict[int, Mapping[str, Any]]:
    """What the schedules that are enabled say, by key; those too that the caller does not see."""
    told = {row.key: data_of(row) for row in await call.world.rows(KIND)}
    return {key: kept for key, kept in told.items() if kept["enabled"]}


# -- schedules ---------------------------------------------------------------------------------------------------------


def _name(call: Call, name: str) -> str:
    return f"{call.principal.project}/{name}"


async def _create(call: Call, values: dict[str, Any]) -> Made:
    today = datetime.fromtimestamp(call.now, UTC).date().isoformat()
    kept = {"description": "", "end_date": "", **values, "start_date": values.get("start_date") or today}
    timetable_of(kept)
    if kept.get("task") is not None and _of(await tasks.listed(call.world), kept["task"]) is None:
        raise errors.unset("task")
    row = Row(DIALECT, KIND, _name(call, kept["name"]), call.principal.project, data=json.dumps(kept))
    try:
        key = (await call.core.rows.add(call.principal, [row], Action.INSTANCE_OPERATE))[0].key
    except Exists as error:
        raise Refusal(422, _TAKEN) from error
    if kept.get("task") is not None:
        call.world.forget()
        await _link(call, kept["task"], key)
    return Made(key)


async def _change(call: Call, kept: Kept, values: dict[str, Any]) -> None:
    told = {**kept.data, **values}
    timetable_of(told)
    if told.get("task") != kept.data.get("task"):
        raise read_only("task")
    name = f"{kept.row.project}/{told['name']}"
    if any(row.name == name and row.key != kept.key for row in await call.world.rows(KIND)):
        raise Refusal(422, _TAKEN)
    times = {**await _times(call), kept.key: told}
    if not told["enabled"]:
        del times[kept.key]
    await _arrange(call, {t.task for t in await _triggers(call.world) if t.schedule == kept.key}, times)
    row = replace(kept.row, name=name, data=json.dumps(told))
    await call.core.rows.save(call.principal, [row], Action.INSTANCE_OPERATE)


async def _remove(call: Call, kept: Kept) -> None:
    """With its triggers."""
    triggers = [one for one in await _triggers(call.world) if one.schedule == kept.key]
    times = await _times(call)
    times.pop(kept.key, None)
    await _arrange(call, {one.task for one in triggers}, times)
    await call.core.rows.remove(call.principal, [*(one.row for one in triggers), kept.row], Action.INSTANCE_OPERATE)


async def _upcoming(call: Call, kept: Kept, body: Mapping[str, Any]) -> object:
    """Its next times, in Unix seconds."""
    most = body.get("max")
    begin, end = (body.get(name) for name in ("start_time", "end_time"))
    for name, value in (("max", most), ("start_time", begin), ("end_time", end)):
        if value is not None and (not isinstance(value, int) or not 0 <= value < 2**37):
            raise invalid_field(name, "is not a number")
    here: datetime | None = datetime.fromtimestamp(call.now if begin is None else begin, UTC)
    table, times = timetable_of(kept.data), []
    for _ in range(min(100 if most is None else most, _MOST_TIMES)):
        here = following(table, here) if here is not None else None
        if here is None or (end is not None and here.timestamp() > end):
            break
        times.append({"time": int(here.timestamp())})
    return {"times": times}


# -- triggers ----------------------------------------------------------------------------------------------------------


async def _trigger(call: Call, values: dict[str, Any]) -> Made:
    return Made(await _link(call, values["task"], values["schedule"]))


async def _link(call: Call, task: object, schedule: object) -> int:
    """That schedule's times are times of the task. :raise Refusal: one is not there, or they are linked already."""
    one = _of(await tasks.listed(call.world), task)
    if one is None:
        raise errors.unset("task")
    if not any(kept.key == schedule for kept in await _schedules(call.world)):
        raise errors.unset("schedule")
    told = json.dumps({"task": one.task.id, "schedule": schedule})
    row = Row(DIALECT, TRIGGERS, f"{one.task.id}/{schedule}", one.task.project, one.task.instance, told)
    try:
        key = (await call.core.rows.add(call.principal, [row], Action.INSTANCE_OPERATE))[0].key
    except Exists as error:
        raise errors.conflict("Row exists: the task has this schedule already") from error
    call.world.forget()
    await _arrange(call, {one.key}, await _times(call))
    return key


async def _unlink(call: Call, trigger: Trigger) -> None:
    await _arrange(call, {trigger.task}, await _times(call), trigger.key)
    await call.core.rows.remove(call.principal, [trigger.row], Action.INSTANCE_OPERATE)


async def _fire(call: Call, trigger: Trigger, body: Mapping[str, Any]) -> None:
    """As if its time had come."""
    one = _of(await tasks.listed(call.world), trigger.task)
    assert one is not None
    await tasks.execute(call, one, body)


def _of(found: Sequence[Listed], key: object) -> Listed | None:
    return next((one for one in found if one.key == key), None)


RESOURCES = (
    Resource(TABLE, _schedules, _create, _change, _remove, {"get_schedule": _upcoming}),
    Resource(TRIGGER_TABLE, _triggers, _trigger, None, _unlink, {"trigger": _fire}),
)
