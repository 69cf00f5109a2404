"""Answers made of source objects: `fields` as one function from an object to its row (vergeos.md §1.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import invalid
from polyvisor.dialects.vergeos.language.fields import Item, parse_fields
from polyvisor.dialects.vergeos.language.functions import FUNCTIONS
from polyvisor.dialects.vergeos.language.paths import MISSING, STEP, Getter, displayed, leaf, reach, weighed
from polyvisor.dialects.vergeos.language.rows import Rows
from polyvisor.dialects.vergeos.language.tables import Table

Row = Callable[[Any], dict[str, object]]
_DEEPEST = 16
_HOP = 3  # values, that a step from row to row costs as much as
_VIEWS = {"all": "all", "*": "all", "most": "most", "basic": "most", "summary": "summary"}
_view = lru_cache(maxsize=256)(parse_fields)


def row_of(rows: Rows, table: Table, items: tuple[Item, ...], depth: int = 0) -> Row:
    """What is made of an object of that table. What nobody knows of is left out; of two of one key, the later counts.

    :raise Refusal: 422, of views that go into each other without end.
    """
    found = _getters(rows, table, items, depth)
    pairs = tuple((key, getter) for key, getter in found if getter is not None)
    width = len(pairs) + _HOP * sum(len(item.path) - 1 for item in items if item.path)
    rows.spend(STEP * len(pairs))

    def row(source: Any) -> dict[str, object]:
        rows.spend(width)
        made = {}
        for key, get in pairs:
            value = get(source)
            if value is not MISSING:
                made[key] = value
        return made

    return row


def _getters(rows: Rows, table: Table, items: tuple[Item, ...], depth: int) -> Iterator[tuple[str, Getter | None]]:
    if depth > _DEEPEST:
        raise invalid()
    for item in items:
        word, argument = item.word, item.argument
        if item.function == "flatten" and argument is not None and argument.select is not None and not item.path:
            for inner in argument.select:
                yield inner.key, _inner(rows, table, argument.path, inner, depth)
        elif not word or table.column(word) is not None or (word not in _VIEWS and word not in table.views):
            yield item.key, _getter(rows, table, item, depth)
        elif word in table.views:
            yield from _getters(rows, table, _view(table.views[word]), depth + 1)
        else:
            yield from _own(rows, table, _VIEWS[word])


def _inner(rows: Rows, table: Table, path: tuple[str, ...], item: Item, depth: int) -> Getter | None:
    """A value of a row that `flatten` puts into this one."""
    return reach(rows, table, path, lambda last: _getter(rows, last, item, depth + 1))


def _own(rows: Rows, table: Table, view: str) -> Iterator[tuple[str, Getter | None]]:
    """The columns of a view that every table has, with the keys of those rows that each row has one of."""
    for place, column in enumerate(table.columns):
        if place == 0:
            wanted = table.key_in_all or view != "all"
        else:
            wanted = not column.hidden and not column.arg and (view != "summary" or column.summary)
        if wanted:
            yield column.name, weighed(rows, column)
    for name in table.singles if view != "summary" else ():
        yield name, leaf(rows, table, name, written=True)


def _getter(rows: Rows, table: Table, item: Item, depth: int) -> Getter | None:
    select, argument = item.select, item.argument
    if select is not None:
        return reach(rows, table, item.path, lambda last: row_of(rows, last, select, depth + 1))
    if argument is not None:
        return reach(rows, table, item.path, lambda last: _call(rows, last, item.function, argument, depth))
    return reach(rows, table, item.path[:-1], lambda last: leaf(rows, last, item.path[-1], written=True))


def _call(rows: Rows, table: Table, function: str, argument: Item, depth: int) -> Getter | None:
    if function == "display":
        return _display(rows, table, argument, depth)
    inner = _getter(rows, table, argument, depth + 1)
    if inner is None or function == "flatten":  # that is of the rows of a query, not of what is in them
        return None
    apply = FUNCTIONS[function]
    alone = function == "collapse" and argument.select is not None and len(argument.select) == 1

    def called(source: Any) -> object:
        value = inner(source)
        if value is MISSING:
            return MISSING
        made = apply(value)
        return next(iter(made.values())) if alone and isinstance(made, dict) and len(made) == 1 else made

    return called


def _display(rows: Rows, table: Table, argument: Item, depth: int) -> Getter | None:
    """What people read in place of a value: a choice's text, what a row is called that is pointed at."""
    path = argument.path
    if argument.select is not None or argument.argument is not None or not path:
        return _getter(rows, table, argument, depth + 1)
    return reach(rows, table, path[:-1], lambda last: _shown(rows, last, path[-1]))


def _shown(rows: Rows, table: Table, name: str) -> Getter | None:
    column = table.column(name)
    if column is None and (name in table.singles or name in table.children):
        return reach(rows, table, (name,), lambda last: displayed(rows, last, 0))
    if column is not None and column.kind in (Kind.FK, Kind.REF):
        return reach(rows, table, (name,), lambda last: displayed(rows, last, 0)) or column.get
    if column is not None and column.choices:
        return _choice(column)
    return leaf(rows, table, name, written=True)


def _choice(column: Column) -> Getter:
    get, texts = column.get, column.choices

    def text(source: Any) -> object:
        value = get(source)
        return texts.get(value, value) if isinstance(value, str) else value

    return text
