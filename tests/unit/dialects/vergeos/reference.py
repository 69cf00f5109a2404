"""The language once more, for tests: trees of plain tuples, written as text, and answered by looking through all rows.

Nothing here is quick, nothing is made out beforehand, and nothing is shared with what is tested but the declarations of
the catalog. A condition is `("is", path, operator, literal)`, a chain `("chain", first, ("and" or "or", next), ...)`.
A thing that is wanted is `(alias or "", path, function or "", things or None)`: of what the path leads to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from polyvisor.dialects.vergeos.language.columns import Kind
from unit.dialects.vergeos.catalog import CATALOG, Source

Sources = dict[str, list[Source]]
Tree = tuple[Any, ...]
Path = tuple[str, ...]
GONE: object = object()
"""Of what is left out of an answer."""


def escaped(text: str) -> str:
    """A text as a literal."""
    return "'" + "".join(f"\\{letter}" if letter in "\\'{" else letter for letter in text) + "'"


def filter_text(tree: Tree) -> str:
    """A condition or a chain as text, with brackets around chains in chains."""
    if tree[0] == "is":
        _, path, operator, literal = tree
        words = {"None": "null", "True": "true", "False": "false"}
        told = escaped(literal) if isinstance(literal, str) else words.get(str(literal), str(literal))
        return f"{'#'.join(path)} {operator} {told}"
    inner = [
        filter_text(term) if term[0] == "is" else f"({filter_text(term)})"
        for term in (tree[1], *(t for _, t in tree[2:]))
    ]
    joints = ["", *(f" {joint} " for joint, _ in tree[2:])]
    return "".join(joint + text for joint, text in zip(joints, inner, strict=True))


def fields_text(things: tuple[Tree, ...]) -> str:
    """What is wanted, as text."""
    return ",".join(_thing_text(thing) for thing in things)


def _thing_text(thing: Tree) -> str:
    alias, path, function, inner = thing
    text = "#".join(path) + (f"[{fields_text(inner)}]" if inner else "")
    text = f"{function}({text})" if function else text
    return f"{text} as {alias}" if alias else text


def matches(sources: Sources, table: str, source: Source, tree: Tree) -> bool:
    """Whether a row is one of those."""
    if tree[0] == "chain":
        so_far = matches(sources, table, source, tree[1])
        for joint, term in tree[2:]:
            this = matches(sources, table, source, term)
            so_far = (so_far and this) if joint == "and" else (so_far or this)
        return so_far
    _, path, operator, literal = tree
    value = lead(sources, table, source, path[:-1], lambda where, row: row[path[-1]])
    return _stands(_kind(table, path), None if value is GONE else value, operator, literal)


def _kind(table: str, path: Path) -> Kind:
    column = CATALOG[table].column(path[0])
    assert column is not None
    return column.kind if len(path) == 1 else _kind(column.refers.split(",")[0], path[1:])


def _stands(kind: Kind, value: Any, operator: str, literal: Any) -> bool:
    if literal is None:
        return {"eq": value is None, "ne": value is not None}.get(operator, False)
    text = str(literal).lower() if isinstance(literal, bool) else str(literal)
    told = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if operator in ("bw", "ew", "cs", "ct", "rx", "re"):
        return {
            "bw": told[: len(text)] == text,
            "ew": told[max(0, len(told) - len(text)) :] == text,
            "cs": told.find(text) >= 0,
            "ct": told.casefold().find(text.casefold()) >= 0,
            "rx": re.search(re.escape(text), told) is not None,
            "re": False,
        }[operator]
    if value is None:
        return operator == "ne"
    one, two = _comparable(kind, value, operator, text)
    if two is None:
        return operator == "ne"
    return bool(
        {"eq": one == two, "ne": one != two, "gt": one > two, "ge": one >= two, "lt": one < two, "le": one <= two}[
            operator
        ]
    )


def _comparable(kind: Kind, value: Any, operator: str, text: str) -> tuple[Any, Any]:
    """A value and a literal as the kind has them; None of a literal that is none of that kind."""
    if kind is Kind.BOOL:
        return value, {"true": True, "1": True, "false": False, "0": False}.get(text)
    if kind in (Kind.INT, Kind.FK, Kind.KEY, Kind.TIME) or (kind is Kind.TIER and operator not in ("eq", "ne")):
        number = Fraction(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else None
        return Fraction(value), number
    return value, text


def lead(sources: Sources, table: str, source: Source, path: Path, end: Callable[[str, Source], Any]) -> Any:
    """What `end` says of what a path leads to; KeyError when there is no such way."""
    if not path:
        return end(table, source)
    name, rest = path[0], path[1:]
    what = CATALOG[table]
    for belonging in (what.singles.get(name), what.children.get(name)):
        if belonging is None:
            continue
        wanted = (source["$key"], f"{table}/{source['$key']}")
        found = [row for row in sources.get(belonging.table, []) if row[belonging.column] in wanted]
        found.sort(key=lambda row: row["$key"])
        if name in what.singles:
            return lead(sources, belonging.table, found[0], rest, end) if found else None
        values = [lead(sources, belonging.table, row, rest, end) for row in found]
        return [value for value in values if value is not GONE]
    column = what.column(name)
    if column is None or column.kind not in (Kind.FK, Kind.REF):
        raise KeyError(name)
    target, key = (column.refers, source[name]) if column.kind is Kind.FK else _referred(source[name])
    found = [row for row in sources.get(target, []) if row["$key"] == key]
    if not found:
        return None if column.kind is Kind.FK else GONE
    try:
        return lead(sources, target, found[0], rest, end)
    except KeyError:
        if column.kind is Kind.FK:
            raise
        return GONE  # that row is of a table without such a way


def known(table: str, path: Path) -> bool:
    """Whether there may be something at the end of a path."""
    what, name = CATALOG[table], path[0]
    column, belonging = what.column(name), what.singles.get(name) or what.children.get(name)
    if len(path) == 1:
        return bool(column or belonging)
    if belonging:
        return known(belonging.table, path[1:])
    return column is not None and any(known(target, path[1:]) for target in column.refers.split(",") if target)


def _referred(reference: Any) -> tuple[str, Any]:
    table, key = str(reference).split("/") if reference else ("", "0")
    return table, int(key)


def answer(sources: Sources, table: str, source: Source, things: tuple[Tree, ...]) -> dict[str, Any]:
    """The row that is given."""
    made: dict[str, Any] = {}
    for thing in things:
        alias, path, _, _ = thing
        if path == ("all",):
            made |= {c.name: source[c.name] for c in CATALOG[table].columns if not c.arg and not c.hidden}
            made |= {name: _value(sources, table, source, ("", (name,), "", None)) for name in CATALOG[table].singles}
            if not CATALOG[table].key_in_all:
                del made["$key"]
            continue
        text = _thing_text(thing)
        key = alias or ("#".join(path) if text.endswith("]") else text)
        value = _value(sources, table, source, thing)
        if value is not GONE:
            made[key] = value
    return made


def _value(sources: Sources, table: str, source: Source, thing: Tree) -> Any:
    _, path, function, inner = thing
    if not known(table, path):
        return GONE
    value: Any
    if inner:
        value = lead(sources, table, source, path, lambda where, row: answer(sources, where, row, inner))
    else:
        value = lead(sources, table, source, path[:-1], lambda where, row: _own(sources, where, row, path[-1]))
    return value if value is GONE or not function else _applied(function, value, inner)


def _own(sources: Sources, table: str, source: Source, name: str) -> Any:
    what = CATALOG[table]
    if name in what.singles or name in what.children:
        return lead(sources, table, source, (name,), lambda where, row: row["$key"])
    column = what.column(name)
    if column is None:
        return GONE
    value = source[name]
    return str(value) if column.arg and value is not None else value


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, list | dict):
        return [number for one in (value if isinstance(value, list) else value.values()) for number in _numbers(one)]
    if isinstance(value, str):
        return [float(value) if "." in value else int(value)] if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) else []
    return [value] if isinstance(value, int) else []


def _applied(function: str, value: Any, inner: Any) -> Any:
    if function == "count":
        return len(value) if isinstance(value, list) else int(value is not None)
    if function == "collapse":
        first = (value[0] if value else None) if isinstance(value, list) else value
        if inner and len(inner) == 1 and inner[0][1] != ("all",) and isinstance(first, dict) and len(first) == 1:
            return next(iter(first.values()))
        return first
    numbers = _numbers(value)
    if function == "sum":
        return sum(numbers)
    if not numbers:
        return None
    return {"min": min(numbers), "max": max(numbers), "avg": sum(numbers) / len(numbers)}[function]
