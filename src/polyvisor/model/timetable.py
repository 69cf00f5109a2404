"""Timetables: when something is to be done, once or again and again. Pure; all times are UTC."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum

from polyvisor.model.faults import Invalid

DAY = 86400  # seconds
MAX_INTERVAL = 1000
_ALL_DAYS = frozenset(range(7))
_MOST_LOOKS = 2000  # candidates that are looked at before it is said that there is none


class Every(StrEnum):
    """The unit that a timetable repeats by."""

    NEVER = "never"  # it is for one moment
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


class MonthDay(StrEnum):
    """The day of a month that a monthly or yearly timetable means."""

    START = "start"  # that of its start, or the month's last where it has no such day
    FIRST = "first"
    MIDDLE = "15th"
    LAST = "last"


_SECONDS = {Every.MINUTE: 60, Every.HOUR: 3600}


@dataclass(frozen=True, slots=True)
class Timetable:
    """From the day `start` on, every `interval` units, until `end`.

    `at` is the time of day in seconds. What repeats by minutes or hours counts from `start` at that time, and happens
    between `at` and `last` of each day only. `days` are weekdays, Monday is 0; a monthly or yearly one is not bound by
    them, one of a single moment neither.
    """

    every: Every
    start: date
    interval: int = 1
    at: int = 0
    last: int = DAY
    end: datetime | None = None
    days: frozenset[int] = _ALL_DAYS
    month_day: MonthDay = MonthDay.START


def once(moment: datetime) -> Timetable:
    """One moment, to the second."""
    moment = moment.astimezone(UTC)
    return Timetable(Every.NEVER, moment.date(), at=moment.hour * 3600 + moment.minute * 60 + moment.second)


def check_timetable(timetable: Timetable) -> Timetable:
    """`timetable`, if it makes sense. :raise Invalid: naming the first field that is wrong."""
    if not 1 <= timetable.interval <= MAX_INTERVAL:
        raise Invalid(f"interval: must be between 1 and {MAX_INTERVAL}", field="interval")
    if not 0 <= timetable.at < DAY:
        raise Invalid("at: must be a time of day", field="at")
    if not timetable.at <= timetable.last <= DAY:
        raise Invalid("last: must be a time of day that is not before the first", field="last")
    if not timetable.days or not timetable.days <= _ALL_DAYS:
        raise Invalid("days: must be one day of the week at least", field="days")
    if not 1970 <= timetable.start.year <= 9000:
        raise Invalid("start: must be in the years 1970 to 9000", field="start")
    return timetable


def following(timetable: Timetable, moment: datetime) -> datetime | None:
    """Its first time that is later than `moment`; None: there is none any more."""
    try:
        for found in _candidates(timetable, moment):
            if timetable.end is not None and found > timetable.end:
                return None
            if found > moment:
                return found
    except OverflowError:  # the end of all dates
        return None
    return None


def first_of(timetables: tuple[Timetable, ...], moment: datetime) -> datetime | None:
    """The first time of any of them that is later than `moment`."""
    return min(filter(None, (following(one, moment) for one in timetables)), default=None)


def _candidates(timetable: Timetable, moment: datetime) -> Iterator[datetime]:
    """Its times in order, from one that is not much later than the first after `moment`."""
    if timetable.every is Every.NEVER:
        yield _at(timetable.start, timetable.at)
    elif timetable.every in _SECONDS:
        yield from _by_the_clock(timetable, moment)
    else:
        for _, day in zip(range(_MOST_LOOKS), _days(timetable, moment.date()), strict=False):
            yield _at(day, timetable.at)


def _at(day: date, seconds: int) -> datetime:
    return datetime.combine(day, time(), UTC) + timedelta(seconds=seconds)


def _by_the_clock(timetable: Timetable, moment: datetime) -> Iterator[datetime]:
    """Whole steps from the start, outside of whose hours and days it leaps to where these begin again."""
    step = timedelta(seconds=_SECONDS[timetable.every] * timetable.interval)
    begin = _at(timetable.start, timetable.at)

    def step_from(when: datetime) -> datetime:
        return begin if when <= begin else begin + -((begin - when) // step) * step

    here = step_from(moment)
    for _ in range(_MOST_LOOKS):
        midnight = _at(here.date(), 0)
        seconds = (here - midnight).total_seconds()
        if here.weekday() not in timetable.days or seconds > timetable.last:
            here = step_from(midnight + timedelta(days=1, seconds=timetable.at))
        elif seconds < timetable.at:
            here = step_from(midnight + timedelta(seconds=timetable.at))
        else:
            yield here
            here += step


def _days(timetable: Timetable, day: date) -> Iterator[date]:
    """Its days in order, from the last one that is not later than `day` or so."""
    start, interval = timetable.start, timetable.interval
    if timetable.every is Every.DAY:
        here = start + timedelta(days=max(0, (day - start).days // interval) * interval)
        while True:
            if here.weekday() in timetable.days:
                yield here
            here += timedelta(days=interval)
    elif timetable.every is Every.WEEK:
        monday = start - timedelta(days=start.weekday())
        monday += timedelta(weeks=max(0, (day - monday).days // 7 // interval) * interval)
        while True:
            yield from (one for one in (monday + timedelta(days=d) for d in sorted(timetable.days)) if one >= start)
            monday += timedelta(weeks=interval)
    else:
        months = interval * (12 if timetable.every is Every.YEAR else 1)
        passed = (day.year - start.year) * 12 + day.month - start.month
        number = max(0, passed // months - 1)
        while True:
            found = _of_month(timetable, number * months)
            if found >= start:
                yield found
            number += 1


def _of_month(timetable: Timetable, later: int) -> date:
    """Its day so many months after the start's. :raise OverflowError: there are no such months."""
    years, month = divmod(timetable.start.month - 1 + later, 12)
    year = timetable.start.year + years
    if year > 9999:
        raise OverflowError
    last = calendar.monthrange(year, month + 1)[1]
    wanted = {MonthDay.FIRST: 1, MonthDay.MIDDLE: 15, MonthDay.LAST: last}.get(timetable.month_day, timetable.start.day)
    return date(year, month + 1, min(wanted, last))
