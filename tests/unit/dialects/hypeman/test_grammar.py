"""Texts as Go's libraries read and write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.dialects.hypeman.grammar import (
    Malformed,
    parse_duration,
    parse_io_rate,
    parse_rate,
    parse_size,
    show_duration,
    show_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("17", 17), ("17B", 17), ("2 bytes", 2), ("1KB", 1024), ("1k", 1024), ("3 kilobytes", 3072),
        ("512MB", 512 * 1024**2), ("2G", 2 * 1024**3), ("1gb", 1024**3), ("1 TB", 1024**4), ("1PB", 1024**5),
        ("1EB", 1024**6),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "1.5GB", "-1", "1Gb", "1XB", "GB", "1 G B", "20EB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match=r"strconv\.UnmarshalText: parsing"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1024, "1024 B"), (1025, "1.0 KB"), (1024**2, "1024.0 KB"), (1024**3, "1024.0 MB"),
        (2 * 1024**3, "2.0 GB"), (10 * 1024**3, "10.0 GB"), (3 * 1024**3 // 2, "1.5 GB"),
    ],
)  # fmt: skip
def test_sizes_are_said_as_upstream_does(size: int, text: str) -> None:
    assert show_size(size) == text


@pytest.mark.parametrize(
    ("text", "rate"), [("8Mbps", 10**6), ("1Gbps", 125_000_000), ("125MB/s", 125 * 1024**2), ("1KBps", 125), ("0", 0)]
)
def test_rates_are_bits_or_bytes(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_a_disk_is_never_measured_in_bits() -> None:
    assert parse_io_rate("100MB/s") == 100 * 1024**2
    with pytest.raises(Malformed):
        parse_io_rate("x")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("0s", 0), ("300ms", 0.3), ("1h30m", 5400), ("1.5s", 1.5), ("-2m", -120), ("2us", 2e-6), ("1h", 3600)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", 'invalid duration ""'), ("abc", 'invalid duration "abc"'), ("5", 'missing unit in duration "5"'),
        ("5d", 'unknown unit "d" in duration "5d"'), ("1h5", 'missing unit in duration "1h5"'),
        ("9999999999h", 'invalid duration "9999999999h"'),
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused_in_gos_words(text: str, why: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse_duration(text)
    assert str(refused.value) == f"time: {why}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.3, "300ms"), (1.5, "1.5s"), (60, "1m0s"), (300, "5m0s"), (3600, "1h0m0s"),
        (90061.25, "25h1m1.25s"), (2e-6, "2µs"), (-60, "-1m0s"),
    ],
)  # fmt: skip
def test_durations_are_said_as_go_does(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text


@given(st.integers(0, 2**60), st.sampled_from(["", "B", "K", "KB", "mb", "G", "GB", "T"]))
def test_a_size_that_is_said_is_near_the_one_that_was_read(number: int, unit: str) -> None:
    """Upstream says one decimal, so what it says cannot be read again where there is one; whole ones can."""
    try:
        size = parse_size(f"{number}{unit}")
    except Malformed as error:
        assert "out of range" in str(error)
        return
    value, name = show_size(size).split(" ")
    near = 0.05 * 1.000001 * 1024 ** "BKMGTPE".index(name[0]) + size * 1e-9
    assert abs(float(value) * 1024 ** "BKMGTPE".index(name[0]) - size) <= near
    rounded_out = float(value) * 1024 ** "BKMGTPE".index(name[0]) >= 2**64  # "16.0 EB" is more than can be read
    if (value.endswith(".0") or name == "B") and not rounded_out:
        assert abs(parse_size(f"{int(float(value))}{name}") - size) <= near


@given(st.integers(-(2**62), 2**62))
def test_durations_come_back_as_they_were_said(nanos: int) -> None:
    seconds = nanos / 10**9
    assert parse_duration(show_duration(seconds)) == pytest.approx(seconds, abs=1e-9, rel=1e-12)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_io_rate, parse_duration):
        try:
            parse(text)
        except Malformed as error:
            assert str(error)
