"""Cursors: where a page ended, as (created, id): rows that come or go neither shift nor repeat it."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, and_, literal, tuple_

from polyvisor.model.faults import Invalid

_PLACE = re.compile(r"(-?\d{1,18})\.([0-9a-zA-Z_-]{1,64})")


def encode(created: int, id: str) -> str:
    """An opaque text for a place in the order."""
    return base64.urlsafe_b64encode(f"{created}.{id}".encode()).decode().rstrip("=")


def decode(cursor: str) -> tuple[int, str]:
    """The place again.

    :raise Invalid: a cursor that is not ours.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = _PLACE.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (ValueError, binascii.Error):
        place = None
    if place is None:
        raise Invalid("cursor: is not one that we gave out", field="cursor")
    return int(place[1]), place[2]


def after(query: Select[Any], table: FromClause, cursor: str | None, limit: int) -> Select[Any]:
    """The rows past a cursor, oldest first, and one more, which tells whether there is a next page."""
    if cursor is not None:
        query = query.where(_place(table) > _at(*decode(cursor)))
    return query.order_by(table.c.created, table.c.id).limit(max(1, limit) + 1)


def between(table: FromClause, first: Any, last: Any) -> ColumnElement[bool]:
    """The rows from one to another, both included."""
    return and_(_place(table) >= _at(first.created, first.id), _place(table) <= _at(last.created, last.id))


def _place(table: FromClause) -> ColumnElement[Any]:
    return tuple_(table.c.created, table.c.id)


def _at(created: int, id: str) -> ColumnElement[Any]:
    return tuple_(literal(created), literal(id))
