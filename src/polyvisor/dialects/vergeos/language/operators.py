"""What an operator of a filter says of a value: the literal becomes what the value is (vergeos.md §1.7).

A text is compared as text, a number as number, whichever of the two the literal was written as. Null is only equal to
null, is in no order, and is an empty text to what looks into texts. `rx` is POSIX ERE, by a matcher of linear time;
what is none of that matches nothing.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

import re2

from polyvisor.dialects.vergeos.language.filters import Literal
from polyvisor.dialects.vergeos.language.numbers import number_of

Test = Callable[[object], bool]
_LONGEST_PATTERN = 1024
_PATTERN_MEMORY = 4 * 1024 * 1024
_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "ge": operator.ge,
    "lt": operator.lt,
    "le": operator.le,
}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def test_of(name: str, literal: Literal, now: int) -> Test:
    """Whether a value stands to the literal as the operator `name` says. `now` is what the macro of that name gives."""
    if literal is None:
        return {"eq": _is_null, "ne": _is_something}.get(name, _never)
    text = resolve(literal, now)
    if name == "eq":
        return _equal(text)
    if name == "ne":
        equal = _equal(text)
        return lambda value: not equal(value)
    if name in _ORDERS:
        return _ordered(_ORDERS[name], text)
    return _searching(name, text)


def resolve(literal: Literal, now: int) -> str:
    """A literal but null, as text."""
    if isinstance(literal, bool):
        return "true" if literal else "false"
    return "".join(part if isinstance(part, str) else str(part.value(now)) for part in literal or ())


def text_of(value: object) -> str:
    """A value as text: as it is written in a filter, nothing of null."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(value, default=str)


def _is_null(value: object) -> bool:
    return value is None


def _is_something(value: object) -> bool:
    return value is not None


def _never(_value: object) -> bool:
    return False


def _equal(text: str) -> Test:
    number, truth = number_of(text), _TRUTHS.get(text)

    def equal(value: object) -> bool:
        if isinstance(value, str):
            return value == text
        if value is None:
            return False
        if isinstance(value, bool):
            return value is truth
        if isinstance(value, int | float):
            return value == number
        return text_of(value) == text

    return equal


def _ordered(order: Callable[[Any, Any], bool], text: str) -> Test:
    number, truth = number_of(text), _TRUTHS.get(text)

    def ordered(value: object) -> bool:
        if isinstance(value, str):
            return order(value, text)
        if isinstance(value, bool):
            return truth is not None and order(value, truth)
        if isinstance(value, int | float):
            return number is not None and order(value, number)
        return value is not None and order(text_of(value), text)

    return ordered


def _searching(name: str, text: str) -> Test:
    folded = text.casefold()
    tests: Mapping[str, Callable[[], Test]] = {
        "bw": lambda: lambda value: text_of(value).startswith(text),
        "ew": lambda: lambda value: text_of(value).endswith(text),
        "cs": lambda: lambda value: text in text_of(value),
        "ct": lambda: lambda value: folded in text_of(value).casefold(),
        "rx": lambda: _matching(text),
    }
    return tests[name]() if name in tests else _never


def _matching(pattern: str) -> Test:
    options = re2.Options()
    options.posix_syntax = True
    options.one_line = True  # `^` and `$` are of the text, not of its lines
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    if len(pattern) > _LONGEST_PATTERN:
        return _never
    try:
        compiled = re2.compile(_encoded(pattern), options)
    except re2.error:
        return _never
    return lambda value: compiled.search(_encoded(text_of(value))) is not None


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")
