"""Timetables: the next time, whatever the calendar is like."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from polyvisor.model.faults import Invalid
from polyvisor.model.timetable import Every, MonthDay, Timetable, check_timetable, first_of, following, once

START = date(2026, 1, 31)  # a Saturday


def times(count: int, after: str, every: Every, **more: Any) -> list[str]:
    """So many times after that moment."""
    timetable = check_timetable(Timetable(every, **{"start": START, **more}))
    here: datetime | None = datetime.fromisoformat(after).replace(tzinfo=UTC)
    found = []
    for _ in range(count):
        assert here is not None
        here = following(timetable, here)
        if here is None:
            break
        found.append(f"{here:%Y-%m-%d %H:%M}")
    return found


def test_one_moment_comes_once() -> None:
    moment = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert following(once(moment), moment - timedelta(seconds=1)) == moment
    assert following(once(moment), moment) is None


@pytest.mark.parametrize(
    ("every", "more", "after", "expected"),
    [
        (Every.MINUTE, {"interval": 20}, "2026-02-01 00:50", ["2026-02-01 01:00", "2026-02-01 01:20"]),
        (Every.HOUR, {"interval": 7, "at": 3600}, "2026-01-01", ["2026-01-31 01:00", "2026-01-31 08:00"]),
        (Every.HOUR, {"at": 8 * 3600, "last": 9 * 3600}, "2026-02-01 08:30", ["2026-02-01 09:00", "2026-02-02 08:00"]),
        (Every.HOUR, {"days": frozenset({2})}, "2026-02-04 22:30", ["2026-02-04 23:00", "2026-02-11 00:00"]),
        (Every.DAY, {"interval": 2, "at": 60}, "2026-02-02 00:01", ["2026-02-04 00:01", "2026-02-06 00:01"]),
        (Every.DAY, {"days": frozenset({0, 4})}, "2026-02-01", ["2026-02-02 00:00", "2026-02-06 00:00"]),
        (Every.WEEK, {"days": frozenset({4}), "at": 64800}, "2026-01-01", ["2026-02-06 18:00", "2026-02-13 18:00"]),
        (Every.WEEK, {"interval": 2, "days": frozenset({5})}, "2026-02-01", ["2026-02-14 00:00", "2026-02-28 00:00"]),
        (Every.MONTH, {}, "2026-01-31 12:00", ["2026-02-28 00:00", "2026-03-31 00:00", "2026-04-30 00:00"]),
        (Every.MONTH, {"month_day": MonthDay.FIRST}, "2026-01-01", ["2026-02-01 00:00", "2026-03-01 00:00"]),
        (Every.MONTH, {"interval": 3, "month_day": MonthDay.MIDDLE}, "2026-01-01", ["2026-04-15 00:00"]),
        (Every.MONTH, {"month_day": MonthDay.LAST}, "2028-02-10", ["2028-02-29 00:00"]),
        (Every.YEAR, {"start": date(2024, 2, 29)}, "2025-01-01", ["2025-02-28 00:00", "2026-02-28 00:00"]),
    ],
)  # fmt: skip
def test_it_comes_again(every: Every, more: dict[str, Any], after: str, expected: list[str]) -> None:
    assert times(len(expected), after, every, **more) == expected


def test_it_ends() -> None:
    end = datetime(2026, 2, 2, tzinfo=UTC)
    assert times(9, "2026-02-01", Every.DAY, end=end) == ["2026-02-02 00:00"]
    assert times(9, "9999-12-30", Every.YEAR) == []
    assert times(9, "9999-12-31 12:00", Every.DAY) == []


def test_hours_that_are_never_met_have_no_time() -> None:
    assert times(1, "2026-02-01", Every.HOUR, interval=24, days=frozenset({0}), at=3600, last=3599 + 1) != []
    table = Timetable(Every.HOUR, START, interval=24 * 7, days=frozenset({0}))  # a Saturday for ever
    assert following(table, datetime(2026, 2, 1, tzinfo=UTC)) is None


def test_the_first_of_several() -> None:
    now = datetime(2026, 2, 1, tzinfo=UTC)
    tables = (Timetable(Every.DAY, START, at=7200), Timetable(Every.DAY, START, at=3600))
    assert first_of(tables, now) == now + timedelta(hours=1)
    assert first_of((), now) is None


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("interval", {"interval": 0}),
        ("at", {"at": 86400}),
        ("last", {"at": 60, "last": 59}),
        ("days", {"days": frozenset()}),
        ("days", {"days": frozenset({7})}),
        ("start", {"start": date(9999, 1, 1)}),
    ],
)
def test_what_makes_no_sense_is_refused(field: str, more: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        check_timetable(Timetable(Every.DAY, **{"start": START, **more}))
    assert caught.value.field == field
