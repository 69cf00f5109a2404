"""Numbers that are written as text."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?")


def number_of(text: str) -> int | float | None:
    """The number, or None of what is none."""
    if not _NUMBER.fullmatch(text):
        return None
    return float(text) if "." in text else int(text)


def as_number(value: object) -> int | float | None:
    """The number that a value is, or None."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value
    return number_of(value) if isinstance(value, str) else None
