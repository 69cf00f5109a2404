"""Functions of `fields`, of values and of collections of them (vergeos.md §1.6)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from polyvisor.dialects.vergeos.language.numbers import as_number
from polyvisor.dialects.vergeos.language.operators import text_of

Function = Callable[[object], object]
_UNITS = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


def flat(value: object) -> Iterator[object]:
    """The single values of a collection, of rows of one value each, or of neither."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(reversed(one))
        elif isinstance(one, dict):
            waiting.extend(reversed(one.values()))
        elif one is not None:
            yield one


def _numbers(value: object) -> list[int | float]:
    found = (as_number(one) for one in flat(value))
    return [number for number in found if number is not None]


def _count(value: object) -> int:
    if isinstance(value, list):
        return len(value)
    return 0 if value is None else 1


def _sum(value: object) -> int | float:
    return sum(_numbers(value))


def _average(value: object) -> float | None:
    numbers = _numbers(value)
    return sum(numbers) / len(numbers) if numbers else None


def _least(value: object) -> int | float | None:
    return min(_numbers(value), default=None)


def _most(value: object) -> int | float | None:
    return max(_numbers(value), default=None)


def _collapse(value: object) -> object:
    """The first of a collection."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _datetime(value: object) -> str | None:
    number = as_number(value)
    try:
        return None if number is None else datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return None


def _diskspace(value: object) -> str | None:
    """A size in bytes for people: `1.5 GB`, of 1024 each."""
    number = as_number(value)
    if number is None:
        return None
    power = 0
    while abs(number) >= 1024 and power < len(_UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f} {_UNITS[power]}" if power else f"{number:.0f} {_UNITS[power]}"


def _hex(value: object) -> str | None:
    if isinstance(value, int):
        return f"{value:x}"
    return None if value is None else text_of(value).encode(errors="replace").hex()


def _sha1(value: object) -> str | None:
    if value is None:
        return None
    return hashlib.sha1(text_of(value).encode(errors="replace"), usedforsecurity=False).hexdigest()


def _upper(value: object) -> str | None:
    return None if value is None else text_of(value).upper()


def _lower(value: object) -> str | None:
    return None if value is None else text_of(value).lower()


FUNCTIONS: Mapping[str, Function] = {
    "count": _count,
    "sum": _sum,
    "avg": _average,
    "min": _least,
    "max": _most,
    "collapse": _collapse,
    "datetime": _datetime,
    "diskspace": _diskspace,
    "hex": _hex,
    "sha1": _sha1,
    "upper": _upper,
    "lower": _lower,
}
"""All but `display`, which is of a column."""
