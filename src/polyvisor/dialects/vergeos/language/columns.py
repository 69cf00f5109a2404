"""Columns: where a value comes from, what of it may be written, and how what clients send becomes it.

Clients send texts for everything (vergeos.md §0, fact 11): `coerce` makes of them what the column is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from polyvisor.dialects.vergeos.language.errors import invalid_field, not_in_list

_LARGEST = 2**63 - 1
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}(\.0{0,9})?")
_TOKEN = re.compile(r"[0-9a-f]{40}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REFERENCE = re.compile(r"[a-z0-9_]{1,64}/[A-Za-z0-9-]{1,64}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_WORDS = {"true": True, "1": True, "false": False, "0": False}


class Kind(StrEnum):
    """What a column holds. Names of types in a schema follow from it."""

    BOOL = "bool"
    TEXT = "text"
    STRING = "string"
    INT = "num"
    JSON = "json"
    FK = "fk"  # the key of another row, or null
    REF = "ref"  # "table/key" of a row of one of several tables, or null
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - no secret: a key of 40 hexadecimal digits or a UUID
    TIME = "time"  # Unix seconds
    CHOICE = "choice"
    TIER = "tier"  # a number, as text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, by what it holds and who may write what.

    `get` takes it from a source object. `refers` is the table that a FK points at, or those of a REF, by commas.
    `arg`: written here but kept elsewhere: in no view, and a number asked by name is a text (vergeos.md §2.1).
    `choices` are words and their display texts, `aliases` other words that mean one of them.
    `low` and `high` bound numbers; `shortest`, `longest` and the characters `forbidden` bound texts.
    `summary`: in the view of that name. `hidden`: in no view. `as_written`: a REF that keeps the `/v4/` it came with.
    """

    name: str
    kind: Kind
    get: Callable[[Any], object]
    refers: str = ""
    read_only: bool = False
    arg: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    default: object = None
    required: bool = False
    low: int | None = None
    high: int | None = None
    longest: int | None = None
    shortest: int = 0
    forbidden: str = ""
    summary: bool = False
    hidden: bool = False
    as_written: bool = False

    @property
    def targets(self) -> tuple[str, ...]:
        """The tables that this refers to."""
        return tuple(name.strip() for name in self.refers.split(",") if name.strip())


def coerce(column: Column, value: object) -> object:
    """What a column holds after `value` was written to it.

    Null, or an empty text for anything but a text, is nothing: the column's default, or what is empty of its kind.
    :raise Refusal: 422, in the words of vergeos.md §1.5.
    """
    if isinstance(value, str):
        value = column.aliases.get(value, value)
    if column.kind is Kind.JSON:
        return value
    if value is None or (value == "" and column.kind not in _TEXTS):
        return _nothing(column)
    if isinstance(value, dict | list):
        raise invalid_field(column.name, "is not a single value")
    return _COERCERS[column.kind](column, value)


def _nothing(column: Column) -> object:
    if column.required:
        raise invalid_field(column.name, "is required")
    if column.kind in (Kind.FK, Kind.REF):
        return None
    if column.default is not None:
        return column.default
    return {Kind.BOOL: False, Kind.TEXT: "", Kind.STRING: ""}.get(column.kind)


def _bool(column: Column, value: object) -> bool:
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    word = _WORDS.get(value.lower()) if isinstance(value, str) else None
    if word is None:
        raise invalid_field(column.name, "is not a boolean")
    return word


def _whole(column: Column, value: object) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        number = int(value.strip().partition(".")[0])
    elif isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value == int(value)):
        number = int(value)
    else:
        raise invalid_field(column.name, "is not a whole number")
    low = -_LARGEST if column.low is None else column.low
    high = _LARGEST if column.high is None else column.high
    if not low <= number <= high:
        raise invalid_field(column.name, f"must be from {low} to {high}")
    return number


def _time(column: Column, value: object) -> int:
    number = _whole(column, value)
    if number < 0:
        raise invalid_field(column.name, "is not a time")
    return number


def _tier(column: Column, value: object) -> str:
    word = str(_whole(column, value))
    if column.choices and word not in column.choices:
        raise not_in_list(column.name, word)
    return word


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(column: Column, value: object) -> str:
    text = _written(value)
    if len(text) < column.shortest:
        raise invalid_field(column.name, f"is shorter than {column.shortest}")
    if column.longest is not None and len(text) > column.longest:
        raise invalid_field(column.name, f"is longer than {column.longest}")
    if _UNSTORABLE.search(text) or any(character in text for character in column.forbidden):
        raise invalid_field(column.name, "has characters that are not allowed")
    return text


def _choice(column: Column, value: object) -> str:
    word = _written(value)
    word = column.aliases.get(word, word)
    if word not in column.choices:
        raise not_in_list(column.name, word)
    return word


def _token(column: Column, value: object) -> str:
    if isinstance(value, str) and _TOKEN.fullmatch(value):
        return value
    raise invalid_field(column.name, "is not a key")


def _foreign(column: Column, value: object) -> int | str:
    if isinstance(value, str) and _TOKEN.fullmatch(value):
        return value
    return _whole(column, value)


def _reference(column: Column, value: object) -> str:
    tables = column.targets
    if isinstance(value, str):
        plain = value.removeprefix("/v4/")
        if _REFERENCE.fullmatch(plain) and (not tables or plain.partition("/")[0] in tables):
            return value if column.as_written else plain
    raise invalid_field(column.name, "is not a row")


_TEXTS = (Kind.TEXT, Kind.STRING)
_COERCERS: Mapping[Kind, Callable[[Column, object], object]] = {
    Kind.BOOL: _bool,
    Kind.TEXT: _text,
    Kind.STRING: _text,
    Kind.INT: _whole,
    Kind.FK: _foreign,
    Kind.REF: _reference,
    Kind.KEY: _whole,
    Kind.TOKEN: _token,
    Kind.TIME: _time,
    Kind.CHOICE: _choice,
    Kind.TIER: _tier,
}
