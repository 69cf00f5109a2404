"""Source objects by their keys and by whom they belong to, and the work that one query may cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.errors import Refusal
from polyvisor.dialects.vergeos.language.tables import Children, Table

MOST_WORK = 1_000_000
"""Values in one answer; long texts, JSON, steps of paths and conditions count for more than one."""


class Rows:
    """The tables of a query, each indexed once, when it is first asked for. `touched` says which were."""

    def __init__(self, catalog: Mapping[str, Table], sources: Mapping[str, Sequence[Any]]) -> None:
        self.catalog = catalog
        self.touched: set[str] = set()
        self._sources = sources
        self._keyed: dict[str, dict[object, Any]] = {}
        self._owned: dict[tuple[str, Children], dict[object, list[Any]]] = {}
        self._single: dict[tuple[str, Children], dict[object, Any]] = {}
        self._referred: dict[object, tuple[str, Any]] = {}
        self._work = MOST_WORK

    def all(self, table: str) -> Sequence[Any]:
        """The source objects of a table, as they were given."""
        self.touched.add(table)
        return self._sources.get(table, ())

    def by_key(self, table: str) -> Mapping[object, Any]:
        """The objects of a table by their keys."""
        found = self._keyed.get(table)
        if found is None:
            key = self.catalog[table].columns[0].get
            found = self._keyed[table] = {key(source): source for source in self.all(table)}
            self._referred.clear()  # what led into this table led nowhere before
        return found

    def by_owner(self, owner: str, children: Children) -> Mapping[object, list[Any]]:
        """The objects that point at rows of the table `owner`, by the keys of those, each list in the order of keys."""
        found = self._owned.get((owner, children))
        if found is None:
            found = self._owned[owner, children] = {}
            for value, source in self._pointing(owner, children):
                found.setdefault(value, []).append(source)
        return found

    def by_only_owner(self, owner: str, children: Children) -> Mapping[object, Any]:
        """As `by_owner`, where each row has one; the first counts."""
        found = self._single.get((owner, children))
        if found is None:
            owned = self.by_owner(owner, children)
            found = self._single[owner, children] = {of: some[0] for of, some in owned.items()}
        return found

    def referred(self, reference: object) -> tuple[str, Any]:
        """The table and the object that a REF leads to; None where there is none, or its table is unknown."""
        found = self._referred.get(reference)
        if found is None:
            table, key = split(reference)
            found = self._referred[reference] = (table, self._keyed.get(table, {}).get(key))
        return found

    def _pointing(self, owner: str, children: Children) -> list[tuple[object, Any]]:
        table = self.catalog[children.table]
        column, key = table.column(children.column), table.columns[0].get
        sources = sorted(self.all(children.table), key=lambda source: rank(key(source)))
        if column is None:
            return []
        if column.kind is not Kind.REF:
            return [(column.get(source), source) for source in sources]
        pairs = [(split(column.get(source)), source) for source in sources]
        return [(place[1], source) for place, source in pairs if place[0] == owner]

    def spend(self, work: int) -> None:
        """Note that as many values are made or looked at. :raise Refusal: 422, of a query that asks for too much."""
        self._work -= work
        if self._work < 0:
            raise Refusal(422, "Too many values were asked for at once")


def split(reference: object) -> tuple[str, object]:
    """Table and key of a REF; a table of no name where it is none."""
    if not isinstance(reference, str):
        return "", None
    table, _, key = reference.removeprefix("/v4/").partition("/")
    return table, int(key) if key.isascii() and key.isdecimal() and len(key) < 20 else key


def rank(value: object) -> tuple[int, Any]:
    """By what values of whatever kinds are put in order: null, numbers, texts, all else."""
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    return (2, value) if isinstance(value, str) else (3, str(value))
