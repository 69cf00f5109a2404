"""`snapshot_profiles`, with periods: when snapshots of VMs are taken, how long they are kept (vergeos.md §2.15).

All are rows of this dialect. A period keeps when it is due next; `chores` does what is due.
"""

from __future__ import annotations

import calendar
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, not_in_list
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource, nothing
from polyvisor.dialects.vergeos.sources import DIALECT, Kept
from polyvisor.dialects.vergeos.tables.declare import data, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action
from polyvisor.model.timetable import Every, Timetable, following

KIND, PERIODS = "snapshot_profiles", "snapshot_profile_periods"
_TAKEN = "This name is already in use"
_FREQUENCIES = words("custom", "hourly", "daily", "weekly", "monthly", "yearly")
_DAYS = {"mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6}
_SHOWN = {
    "sun": "Sunday", "mon": "Monday", "tue": "Tuesday", "wed": "Wednesday", "thu": "Thursday", "fri": "Friday",
    "sat": "Saturday", "any": "Any Day",
}  # fmt: skip
_LENGTHS = {"hourly": 3600, "daily": 86400, "weekly": 7 * 86400, "monthly": 30 * 86400, "yearly": 365 * 86400}
_FIRST = date(2001, 1, 1)  # a Monday
_LONGEST = 10 * 366 * 86400


def frequency_of(kept: Mapping[str, Any]) -> str:
    """The frequency; of a custom one, that of the greatest thing that it is particular about."""
    if kept["frequency"] != "custom":
        return str(kept["frequency"])
    if kept["month"]:
        return "yearly"
    if kept["day_of_month"]:
        return "monthly"
    return "weekly" if kept["day_of_week"] != "any" else "daily"


def timetable_of(kept: Mapping[str, Any]) -> Timetable:
    """When a period is due, in UTC. A day that a month has not is its last one."""
    at = kept["hour"] * 3600 + kept["minute"] * 60
    how = frequency_of(kept)
    if how == "hourly":
        return Timetable(Every.HOUR, _FIRST, at=kept["minute"] * 60)
    if how == "daily":
        return Timetable(Every.DAY, _FIRST, at=at)
    if how == "weekly":
        days = frozenset([_DAYS[kept["day_of_week"]]] if kept["day_of_week"] in _DAYS else _DAYS.values())
        return Timetable(Every.WEEK, _FIRST, at=at, days=days)
    day = kept["day_of_month"] or 1
    if how == "monthly":
        return Timetable(Every.MONTH, date(2001, 1, day), at=at)
    month = kept["month"] or 1
    return Timetable(Every.YEAR, date(2000, month, min(day, calendar.monthrange(2000, month)[1])), at=at)


def next_of(kept: Mapping[str, Any], now: int) -> int:
    """The first time later than now that it is due, in Unix seconds."""
    found = following(timetable_of(kept), datetime.fromtimestamp(now, UTC))
    return 0 if found is None else int(found.timestamp())


def _count(kept: Kept) -> int:
    return int(kept.data["retention"]) // _LENGTHS[frequency_of(kept.data)]


TABLE = Table(
    KIND,
    (
        key(),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("description", Kind.TEXT, longest=2048),
        data("ignore_warnings", Kind.BOOL, False),
    ),
    short=("$key", "name"),
    children={"periods": Children(PERIODS, "profile")},
)
PERIOD_TABLE = Table(
    PERIODS,
    (
        key(),
        Column("profile", Kind.FK, lambda kept: kept.data["profile"], refers=KIND, required=True, summary=True),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("frequency", Kind.CHOICE, choices=_FREQUENCIES, required=True, summary=True),
        data("minute", Kind.INT, 0, low=0, high=59),
        data("hour", Kind.INT, 0, low=0, high=23),
        data("day_of_week", Kind.CHOICE, "any", choices=_SHOWN),
        data("day_of_month", Kind.INT, 0, low=0, high=31),
        data("month", Kind.INT, 0, low=0, high=12),
        data("retention", Kind.INT, 259200, low=0, high=_LONGEST, summary=True),
        data("max_tier", Kind.TIER, "1", choices=dict.fromkeys("12345", "Tier")),
        data("quiesce", Kind.BOOL, False),
        data("min_snapshots", Kind.INT, 1, low=0, high=1000),
        data("immutable", Kind.BOOL, False),
        told("estimated_snapshot_count", Kind.INT, _count),
        told("next_run", Kind.TIME, lambda kept: kept.data.get("next", 0)),
    ),
    short=("$key", "profile", "name", "frequency", "retention"),
)


async def seen(world: World) -> Sequence[Kept]:
    """Those of projects that the caller sees into."""
    return [Kept(row) for row in await world.rows(KIND) if world.principal.may(Action.INSTANCE_VIEW, row.project)]


async def periods(world: World) -> Sequence[Kept]:
    """Those of profiles that the caller sees."""
    known = {one.key for one in await seen(world)}
    found = [Kept(row) for row in await world.rows(PERIODS)]
    return [one for one in found if one.data["profile"] in known]


async def _add(call: Call, row: Row) -> Made:
    try:
        return Made((await call.core.rows.add(call.principal, [row], Action.INSTANCE_OPERATE))[0].key)
    except Exists as error:
        raise Refusal(422, _TAKEN) from error


async def _save(call: Call, kept: Kept, told: dict[str, Any], name: str) -> None:
    row = replace(kept.row, name=name, data=json.dumps(told))
    try:
        await call.core.rows.save(call.principal, [row], Action.INSTANCE_OPERATE)
    except Exists as error:
        raise Refusal(422, _TAKEN) from error


async def _create(call: Call, values: dict[str, Any]) -> Made:
    project = call.principal.project
    return await _add(call, Row(DIALECT, KIND, f"{project}/{values['name']}", project, data=json.dumps(values)))


async def _change(call: Call, kept: Kept, values: dict[str, Any]) -> None:
    told = {**kept.data, **values}
    await _save(call, kept, told, f"{kept.row.project}/{told['name']}")


async def _remove(call: Call, kept: Kept) -> None:
    """With its periods. Snapshots that were taken by it stay until they expire. :raise Refusal: VMs have it."""
    if any(vm.kept.get("snapshot_profile") == kept.key for vm in await call.world.live()):
        raise errors.conflict("The snapshot profile is in use")
    gone = [one.row for one in await periods(call.world) if one.data["profile"] == kept.key]
    await call.core.rows.remove(call.principal, [*gone, kept.row], Action.INSTANCE_OPERATE)


async def _act(call: Call, values: dict[str, Any]) -> Made:
    """By which clients delete one."""
    if values["action"] != "delete":
        raise not_in_list("action", values["action"])
    found = next((one for one in await seen(call.world) if one.key == values["snapshot_profile"]), None)
    if found is None:
        raise errors.missing(f"{KIND}/{values['snapshot_profile']}", "post")
    await _remove(call, found)
    return Made(None)


async def _create_period(call: Call, values: dict[str, Any]) -> Made:
    profile = next((one for one in await seen(call.world) if one.key == values["profile"]), None)
    if profile is None:
        raise errors.unset("profile")
    told = {**values, "next": next_of(values, call.now)}
    name = f"{profile.key}/{values['name']}"
    return await _add(call, Row(DIALECT, PERIODS, name, profile.row.project, data=json.dumps(told)))


async def _change_period(call: Call, kept: Kept, values: dict[str, Any]) -> None:
    if values.get("profile", kept.data["profile"]) != kept.data["profile"]:
        raise Refusal(422, "field 'profile' is readonly")
    told = {**kept.data, **values}
    if timetable_of(told) != timetable_of(kept.data):
        told["next"] = next_of(told, call.now)
    await _save(call, kept, told, f"{kept.data['profile']}/{told['name']}")


async def _remove_period(call: Call, kept: Kept) -> None:
    await call.core.rows.remove(call.principal, [kept.row], Action.INSTANCE_OPERATE)


ACTIONS = Table(
    "snapshot_profile_actions",
    (
        key(lambda source: 0),
        Column("snapshot_profile", Kind.FK, lambda source: None, refers=KIND, required=True),
        Column("action", Kind.STRING, lambda source: None, required=True, longest=64),
    ),
)
RESOURCES = (
    Resource(ACTIONS, nothing, _act),
    Resource(TABLE, seen, _create, _change, _remove),
    Resource(PERIOD_TABLE, periods, _create_period, _change_period, _remove_period),
)
