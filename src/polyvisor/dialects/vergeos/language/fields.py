"""The text of `fields`: which columns of which rows are wanted, and what they are to be called (vergeos.md §1.6).

    fields := item (',' item)*        an item of nothing is skipped
    item   := expr [' as ' alias]
    expr   := path | path '[' fields ']' | [path '#'] function '(' expr ')'
    path   := name ('#' name)*

A view is a path of one name: only a table knows its views.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyvisor.dialects.vergeos.language.errors import invalid

LONGEST = 32 * 1024
MOST_ITEMS = 500
DEEPEST = 8
LONGEST_PATH = 8
FUNCTIONS = frozenset(
    (
        "collapse",
        "datetime",
        "upper",
        "lower",
        "count",
        "diskspace",
        "display",
        "flatten",
        "hex",
        "sha1",
        "sum",
        "avg",
        "min",
        "max",
    )
)
_TOKEN = re.compile(r"[ \t\r\n]*(?:([A-Za-z0-9_$.*:/-]+|[,#()\[\]])|$)")
_SIGNS = frozenset(",#()[]")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is wanted, and the `key` that it is given under.

    `path` leads to it, by way of other rows. With `select`, it is a row, or rows, of these items. With `function`, it
    is that function of `argument`, which is looked at from where the path has led to.
    """

    key: str
    path: tuple[str, ...]
    select: tuple[Item, ...] | None = None
    function: str = ""
    argument: Item | None = None

    @property
    def word(self) -> str:
        """The name of the column, or of the view, that this is when it is one word and nothing else."""
        plain = self.select is None and not self.function and len(self.path) == 1 and self.key == self.path[0]
        return self.key if plain else ""


def parse_fields(text: str) -> tuple[Item, ...]:
    """What is wanted, in order; nothing of a text without names. :raise Refusal: 422."""
    if len(text) > LONGEST:
        raise invalid()
    parser = _Parser(text)
    items = parser.items(0)
    if parser.ahead:
        raise invalid()
    return items


class _Parser:
    """Looks one token ahead; there is an empty one at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._made = 0

    @property
    def ahead(self) -> str:
        """The next one."""
        return self._tokens[self._at][0]

    def items(self, depth: int) -> tuple[Item, ...]:
        """Items up to what cannot follow one."""
        if depth > DEEPEST:
            raise invalid()
        found = []
        while True:
            if self.ahead and self.ahead not in _SIGNS:
                found.append(self._item(depth))
            if self.ahead != ",":
                return tuple(found)
            self._at += 1

    def _item(self, depth: int) -> Item:
        self._made += 1
        if self._made > MOST_ITEMS:
            raise invalid()
        item = self._expression(depth)
        if self.ahead != "as":
            return item
        self._at += 1
        return Item(self._name(), item.path, item.select, item.function, item.argument)

    def _expression(self, depth: int) -> Item:
        if depth > DEEPEST:
            raise invalid()
        begin = self._tokens[self._at][1]
        path = [self._name()]
        while self.ahead == "#":
            self._at += 1
            path.append(self._name())
        if len(path) > LONGEST_PATH:
            raise invalid()
        if self.ahead == "(":
            return self._call(tuple(path), begin, depth)
        if self.ahead == "[":
            self._at += 1
            select = self.items(depth + 1)
            self._close("]")
            if not select:
                raise invalid()
            return Item("#".join(path), tuple(path), select)
        return Item("#".join(path), tuple(path))

    def _call(self, path: tuple[str, ...], begin: int, depth: int) -> Item:
        if path[-1] not in FUNCTIONS:
            raise invalid()
        self._at += 1
        argument = self._expression(depth + 1)
        end = self._close(")")
        return Item(self._text[begin:end], path[:-1], None, path[-1], argument)

    def _name(self) -> str:
        name = self.ahead
        if not name or name in _SIGNS:
            raise invalid()
        self._at += 1
        return name

    def _close(self, sign: str) -> int:
        token, _, end = self._tokens[self._at]
        if token != sign:
            raise invalid()
        self._at += 1
        return end


def _tokens(text: str) -> list[tuple[str, int, int]]:
    found: list[tuple[str, int, int]] = []
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            raise invalid()
        if match[1] is None:
            return [*found, ("", position, position)]
        found.append((match[1], match.start(1), match.end(1)))
        position = match.end()
