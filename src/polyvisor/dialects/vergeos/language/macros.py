"""Macros of a filter's literals: `{$now}` and `{$add(a,b)}`, which go into each other (vergeos.md §1.7)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyvisor.dialects.vergeos.language.errors import invalid

_LONGEST = 256
_DEEPEST = 8
_STEP = re.compile(r"[^{}\\']*")
_TOKEN = re.compile(r"\s*(\{|\}|\(|\)|,|\$[a-z]+|-?[0-9]{1,18}(?![0-9]))\s*")


@dataclass(frozen=True, slots=True)
class Macro:
    """A whole number: `base`, and `times` the Unix seconds of now."""

    base: int
    times: int = 0

    def value(self, now: int) -> int:
        """What it is at a time."""
        return self.base + self.times * now


def parse_macro(text: str, begin: int) -> tuple[Macro | None, int]:
    """The macro whose brace was opened just before `begin`, or None of an unknown one, and where it ends.

    :raise Refusal: 422, when it is not closed before the text or its quotes are.
    """
    depth, position = 1, begin
    while depth:
        step = _STEP.match(text, position)
        position = step.end() if step else position
        sign = text[position : position + 1]
        position += 1
        if sign == "{":
            depth += 1
        elif sign == "}":
            depth -= 1
        elif sign == "\\":
            position += 1
        else:
            raise invalid()
    return _known(text[begin : position - 1]) if position - begin <= _LONGEST else None, position


def _known(body: str) -> Macro | None:
    tokens = _TOKEN.findall(body)
    if "".join(tokens) != "".join(body.split()):
        return None
    macro, rest = _call(tokens, 0)
    return None if rest else macro


def _call(tokens: list[str], depth: int) -> tuple[Macro | None, list[str]]:
    """`$now` or `$add(a,b)`, and the tokens behind it."""
    match tokens:
        case ["$now", *rest]:
            return Macro(0, 1), rest
        case ["$add", "(", *rest] if depth < _DEEPEST:
            one, rest = _argument(rest, depth)
            if one is None or rest[:1] != [","]:
                return None, rest
            two, rest = _argument(rest[1:], depth)
            if two is None or rest[:1] != [")"]:
                return None, rest
            return Macro(one.base + two.base, one.times + two.times), rest[1:]
    return None, tokens


def _argument(tokens: list[str], depth: int) -> tuple[Macro | None, list[str]]:
    match tokens:
        case ["{", *rest]:
            macro, rest = _call(rest, depth + 1)
            return (macro, rest[1:]) if rest[:1] == ["}"] else (None, rest)
        case [number, *rest] if number.lstrip("-").isdecimal():
            return Macro(int(number)), rest
    return None, tokens
