"""JSON as Go writes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from polyvisor.dialects.hypeman import wire
from polyvisor.dialects.hypeman.encode import moment_text, said, said_bare, text_of


def test_keys_are_sorted_and_there_are_no_spaces() -> None:
    assert text_of({"b": 1, "a": {"d": [1, 2], "c": None}}) == '{"a":{"c":null,"d":[1,2]},"b":1}'


def test_what_could_end_a_script_is_escaped() -> None:
    assert text_of({"a": "<b>&\u2028ü"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028ü"}'


def test_a_nullable_field_is_null_and_another_is_left_out() -> None:
    network = wire.InstanceNetwork(enabled=False)
    assert text_of(network) == '{"enabled":false,"ip":null,"mac":null}'


def test_whole_floats_have_no_fraction() -> None:
    assert text_of([1.0, 0.5, 0.0]) == "[1,0.5,0]"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC), "2026-01-02T03:04:05.12Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 1, tzinfo=timezone(timedelta(hours=1))), "2026-01-02T02:04:05.000001Z"),
    ],
)
def test_times_have_as_many_digits_as_they_need(moment: datetime, text: str) -> None:
    assert moment_text(moment) == text


def test_handlers_end_with_a_newline_and_what_stands_before_them_does_not() -> None:
    assert bytes(said([]).body) == b"[]\n"
    assert bytes(said_bare([], 400).body) == b"[]"
    assert said([]).headers["content-type"] == "application/json"
