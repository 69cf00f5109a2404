"""Tables: columns, rows that belong to a row, views, and what a body may say (vergeos.md §1.4, §1.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from polyvisor.dialects.vergeos.language.columns import Column, Kind, coerce
from polyvisor.dialects.vergeos.language.errors import invalid_field, read_only

_TYPES: Mapping[Kind, str] = {
    Kind.BOOL: "bool",
    Kind.TEXT: "text",
    Kind.STRING: "string",
    Kind.INT: "num",
    Kind.JSON: "json",
    Kind.FK: "row",
    Kind.REF: "row",
    Kind.KEY: "num",
    Kind.TOKEN: "string",
    Kind.TIME: "num",
    Kind.CHOICE: "string",
    Kind.TIER: "string",
}


@dataclass(frozen=True, slots=True)
class Children:
    """Rows of `table` whose `column` points at a row: as its key, or as `table/key` where that column is a REF."""

    table: str
    column: str


@dataclass(frozen=True)
class Table:
    """A table. The first of its columns is `$key`.

    `display` is the path whose value a row is called by. `children` are collections of a row, `singles` one row each.
    `short` is what is given when no fields are asked for. `views` are names for texts of fields. `newest`: the greatest
    key comes first where no order is asked for.
    """

    name: str
    columns: tuple[Column, ...]
    display: str = "name"
    children: Mapping[str, Children] = field(default_factory=dict)
    singles: Mapping[str, Children] = field(default_factory=dict)
    short: tuple[str, ...] = ()
    views: Mapping[str, str] = field(default_factory=dict)
    key_in_all: bool = True
    newest: bool = False

    @cached_property
    def _by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return self._by_name.get(name)

    def body(self, values: Mapping[str, object], *, new: bool) -> dict[str, object]:
        """What a POST (`new`) or a PUT writes: names of columns with values of their kinds, and defaults of a new row.

        What no column is called is dropped, and of a POST also what only the server writes (vergeos.md §0, fact 10).
        :raise Refusal: 422.
        """
        written: dict[str, object] = {}
        for name, value in values.items():
            column = self._by_name.get(name)
            if column is not None and not self._kept_from(column):
                written[name] = coerce(column, value)
            elif not new and (column is not None or name == "key"):
                raise read_only(name)
        return self._filled(written) if new else written

    def _kept_from(self, column: Column) -> bool:
        return column.read_only or column is self.columns[0]

    def _filled(self, written: dict[str, object]) -> dict[str, object]:
        for column in self.columns:
            if self._kept_from(column) or column.name in written:
                continue
            if column.required:
                raise invalid_field(column.name, "is required")
            if column.default is not None:
                written[column.name] = column.default
        return written

    def schema(self) -> dict[str, object]:
        """What `GET /{table}/$table` says: `fields`, and of each its type and what it takes."""
        fields: dict[str, object] = {column.name: _described(column) for column in self.columns if not column.hidden}
        for name, rows in self.singles.items():
            fields.setdefault(name, {"type": "row", "table": rows.table, "readonly": True})
        for name, rows in self.children.items():
            fields.setdefault(name, {"type": "rows", "table": rows.table, "readonly": True})
        return {"name": self.name, "fields": fields}


def _described(column: Column) -> dict[str, object]:
    told: dict[str, object] = {"type": _TYPES[column.kind]}
    low, high = (column.shortest or None, column.longest) if column.longest else (column.low, column.high)
    facts = {"table": column.refers or None, "default": column.default, "min": low, "max": high}
    told |= {name: value for name, value in facts.items() if value is not None}
    if column.choices:
        told["list"] = dict(column.choices)
    if column.read_only:
        told["readonly"] = True
    if column.required:
        told["required"] = True
    return told
