"""Queries: what a GET asks of a table, what that has to be read for it, and the answer (vergeos.md §1.6 to §1.8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.errors import invalid
from polyvisor.dialects.vergeos.language.fields import Item, parse_fields
from polyvisor.dialects.vergeos.language.filters import Condition, Filter, parse_filter
from polyvisor.dialects.vergeos.language.numbers import as_number
from polyvisor.dialects.vergeos.language.operators import test_of
from polyvisor.dialects.vergeos.language.paths import MISSING, Getter, leaf, reach
from polyvisor.dialects.vergeos.language.projection import row_of
from polyvisor.dialects.vergeos.language.rows import Rows, rank
from polyvisor.dialects.vergeos.language.sorts import Order, parse_sort
from polyvisor.dialects.vergeos.language.tables import Table

_COUNT = re.compile(r"[0-9]{1,18}")
_ORDERED = frozenset(("gt", "ge", "lt", "le"))
_CONDITION = 2  # values, that one costs as much as
_Keeps = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked. `fields`: None when nobody said, `()` when only their number is wanted. `limit`: 0 is all."""

    fields: tuple[Item, ...] | None = None
    filter: Filter = Filter()
    sort: tuple[Order, ...] = ()
    limit: int = 0
    offset: int = 0


def parse_query(params: Mapping[str, str]) -> Query:
    """The query of a request's parameters; those of other names are nothing to it. :raise Refusal: 422."""
    fields = params.get("fields", "")
    return Query(
        parse_fields(fields) if fields.strip() else None,
        parse_filter(params.get("filter", "")),
        parse_sort(params.get("sort", "")),
        _count(params.get("limit", "")),
        _count(params.get("offset", "")),
    )


def needs(catalog: Mapping[str, Table], table: str, query: Query) -> frozenset[str]:
    """Every table that has to be there for `run`. :raise Refusal: 422, as `run` would."""
    rows = Rows(catalog, {})
    rows.touched.add(table)
    _keeping(rows, catalog[table], query.filter)
    _sorting(rows, catalog[table], query.sort)
    row_of(rows, catalog[table], _wanted(catalog[table], query))
    return frozenset(rows.touched)


def run(
    catalog: Mapping[str, Table], table: str, query: Query, sources: Mapping[str, Sequence[Any]], now: int
) -> list[dict[str, object]]:
    """The rows that are asked for, of the source objects of each table. `now` is in Unix seconds.

    :raise Refusal: 422, of a filter by what there is not, or of more work than one query may be.
    """
    rows = Rows(catalog, sources)
    what = catalog[table]
    key = what.columns[0].get
    keeps = _keeping(rows, what, query.filter, now)
    found = rows.all(table)
    if query.filter.terms:
        rows.spend(_CONDITION * len(found) * query.filter.size)
        found = [source for source in found if keeps(source)]
    if query.fields == ():
        return [{"$count": len(found)}]
    found = sorted(found, key=_ranking(key), reverse=what.newest)
    for get, descending in reversed(_sorting(rows, what, query.sort)):
        found.sort(key=_ranking(get), reverse=descending)
    end = query.offset + query.limit if query.limit else None
    row = row_of(rows, what, _wanted(what, query))
    return [row(source) for source in found[query.offset : end]]


def one(
    catalog: Mapping[str, Table], table: str, query: Query, source: Any, sources: Mapping[str, Sequence[Any]], now: int
) -> dict[str, object]:
    """One row, of its source object: only the query's fields count."""
    if query.fields == ():
        return {"$count": 1}
    return row_of(Rows(catalog, sources), catalog[table], _wanted(catalog[table], query))(source)


def _ranking(get: Getter) -> Callable[[Any], tuple[int, Any]]:
    return lambda source: rank(get(source))


def _count(text: str) -> int:
    word = text.strip()
    if word and not _COUNT.fullmatch(word):
        raise invalid()
    return int(word or 0)


def _wanted(table: Table, query: Query) -> tuple[Item, ...]:
    return parse_fields(",".join(table.short or ("$key",))) if query.fields is None else query.fields


def _keeping(rows: Rows, table: Table, asked: Filter, now: int = 0) -> _Keeps:
    """Whether an object is one of those."""
    tests = [
        _keeping(rows, table, term, now) if isinstance(term, Filter) else _condition(rows, table, term, now)
        for term in asked.terms
    ]
    if len(tests) == 1:
        return tests[0]
    steps = tuple(zip((True, *asked.ands), tests, strict=False))

    def keeps(source: Any) -> bool:
        kept = True
        for needed, test in steps:
            if kept is needed:  # of `true or` and `false and`, the rest is known
                kept = test(source)
        return kept

    return keeps


def _condition(rows: Rows, table: Table, asked: Condition, now: int) -> _Keeps:
    get = _compared(rows, table, asked.path, asked.operator in _ORDERED)
    if get is None:
        raise invalid()
    test = test_of(asked.operator, asked.literal, now)
    return lambda source: test(get(source))


def _compared(rows: Rows, table: Table, path: tuple[str, ...], ordered: bool) -> Getter | None:
    """The value that a path leads to; a tier as a number where it has an order."""

    def end(last: Table) -> Getter | None:
        column = last.column(path[-1])
        if column is not None and column.kind is Kind.TIER and ordered:
            return lambda source: as_number(column.get(source))
        return leaf(rows, last, path[-1], written=False)

    get = reach(rows, table, path[:-1], end)
    return _null_where_missing(get) if get and len(path) > 1 else get


def _null_where_missing(get: Getter) -> Getter:
    def present(source: Any) -> object:
        value = get(source)
        return None if value is MISSING else value

    return present


def _sorting(rows: Rows, table: Table, orders: tuple[Order, ...]) -> list[tuple[Getter, bool]]:
    """By what to sort. Columns that there are not give no order, as they give no value."""
    found = [(_compared(rows, table, order.path, True), order.descending) for order in orders]
    return [(get, descending) for get, descending in found if get is not None]
