"""Paths through the rows of a catalog as functions of a source object (vergeos.md §1.6).

All is made out once for a query: which columns, which other rows, which views. What it takes a row to answer is a
dictionary's look-up for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import invalid
from polyvisor.dialects.vergeos.language.rows import Rows
from polyvisor.dialects.vergeos.language.tables import Table

Getter = Callable[[Any], object]
End = Callable[[Table], Getter | None]
"""What is wanted of the rows that a path has led to; None where their table knows nothing of it."""

STEP = 20  # values, that finding out about one step of a path costs as much as
_DEEPEST_DISPLAY = 8
_CHARACTERS = 64  # of a text that cost as much as a value
_JSON = 16


class _Missing:
    """What is not there, not even as null."""


MISSING = _Missing()


def reach(rows: Rows, table: Table, path: tuple[str, ...], end: End) -> Getter | None:
    """What `end` gets of the row that `path` leads to, or a list of it where that goes through a collection.

    Null where a step is null, MISSING where a reference leads nowhere, None where no such step is known.
    """
    rows.spend(STEP)
    if not path:
        return end(table)
    name, rest = path[0], path[1:]
    column = table.column(name)
    if column is not None and column.kind is Kind.REF:
        return _through_reference(rows, column, rest, end)
    if column is not None and column.kind is Kind.FK:
        target = rows.catalog.get(column.targets[0]) if column.targets else None
        inner = reach(rows, target, rest, end) if target else None
        return _through_key(column.get, rows.by_key(target.name), inner) if target and inner else None
    single, children = table.singles.get(name), table.children.get(name)
    belonging = single or children
    if belonging is None or belonging.table not in rows.catalog:
        return None
    inner = reach(rows, rows.catalog[belonging.table], rest, end)
    if inner is None:
        return None
    key = table.columns[0].get
    if single is not None:
        return _through_key(key, rows.by_only_owner(table.name, single), inner)
    return _each(rows, key, rows.by_owner(table.name, belonging), inner)


def _through_key(get: Getter, by_key: Any, inner: Getter) -> Getter:
    find = by_key.get

    def through(source: Any) -> object:
        found = find(get(source))
        return None if found is None else inner(found)

    return through


def _each(rows: Rows, key: Getter, owned: Any, inner: Getter) -> Getter:
    find = owned.get

    def each(source: Any) -> object:
        found = find(key(source), ())
        rows.spend(len(found))
        values = [inner(one) for one in found]
        return [value for value in values if value is not MISSING]

    return each


def _through_reference(rows: Rows, column: Column, rest: tuple[str, ...], end: End) -> Getter | None:
    ways: dict[str, Getter] = {}
    for name in column.targets:
        target = rows.catalog.get(name)
        inner = reach(rows, target, rest, end) if target else None
        if inner is not None:
            rows.by_key(name)
            ways[name] = inner
    get, referred = column.get, rows.referred

    def through(source: Any) -> object:
        name, found = referred(get(source))
        return ways[name](found) if found is not None and name in ways else MISSING

    return through if ways else None


def leaf(rows: Rows, table: Table, name: str, *, written: bool) -> Getter | None:
    """A value of a row itself: a column, its `$key`, `$display` or `$row`, the keys of those that belong to it."""
    column = table.column(name)
    if name == "$key":
        return table.columns[0].get
    if column is not None:
        return _as_text(column.get) if written and column.arg else weighed(rows, column)
    if name == "$display":
        return displayed(rows, table, 0)
    if name == "$row":
        return _row_number(table.columns[0].get)
    if name in table.singles or name in table.children:
        return reach(rows, table, (name,), lambda last: last.columns[0].get)
    return None


def weighed(rows: Rows, column: Column) -> Getter:
    """The value of a column, which counts by its length where that may be great."""
    get = column.get
    if column.kind not in (Kind.TEXT, Kind.JSON):
        return get

    def weigh(source: Any) -> object:
        value = get(source)
        rows.spend(len(value) // _CHARACTERS if isinstance(value, str) else _JSON)
        return value

    return weigh


def displayed(rows: Rows, table: Table, depth: int) -> Getter | None:
    """What a row is called: the value that its table's `display` leads to, or else its key."""
    if depth > _DEEPEST_DISPLAY:
        raise invalid()
    *way, name = table.display.split("#")
    if name == "$display":
        return reach(rows, table, tuple(way), lambda last: displayed(rows, last, depth + 1))
    known = reach(rows, table, tuple(way), lambda last: leaf(rows, last, name, written=True))
    key = table.columns[0].get
    return known or (lambda source: str(key(source)))


def _as_text(get: Getter) -> Getter:
    """Numbers as texts: clients are not of one mind about what these columns are (vergeos.md §2.1)."""

    def written(source: Any) -> object:
        value = get(source)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return written


def _row_number(key: Getter) -> Getter:
    def number(source: Any) -> object:
        value = key(source)
        return value if isinstance(value, int) else 1

    return number
