"""What a database says when it will not, in our words.

Text from outside may hold what a database cannot (a NUL character, half a surrogate pair, a number of 70
bits): that is the caller's fault, not ours, and becomes `Invalid`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from polyvisor.model.faults import Exists, Fault, Internal, Invalid, NoCapacity, NotFound, Unavailable

_SQLITE_UNIQUE = re.compile(r"UNIQUE constraint failed: (?:index '(?P<index>\w+)'|.*\b(?P<column>\w+)$)")
_POSTGRES_UNIQUE = re.compile(r'unique constraint "(?P<kind>uq|pk)_(?P<rest>\w+)"')
_FULL = "the disk that holds the records is full"

# PostgreSQL's states by their first characters, the longest first.
_STATES: tuple[tuple[str, type[Fault], str], ...] = (
    ("53100", NoCapacity, _FULL),
    ("55P03", Unavailable, "another process holds the records; try again"),
    ("25006", Internal, "a reader tried to write"),
    ("22", Invalid, "a value cannot be stored"),
    ("54", Invalid, "a value is too long to be stored"),
    ("08", Unavailable, "the database cannot be reached"),
    ("28", Unavailable, "the database refuses our credentials"),
    ("3D", Unavailable, "the database does not exist"),
    ("53", Unavailable, "the database is short of resources"),
    ("57P", Unavailable, "the database is shutting down"),
)
_SQLITE: tuple[tuple[str, type[Fault], str], ...] = (
    ("disk is full", NoCapacity, _FULL),
    ("is locked", Unavailable, "another process holds the records; try again"),
    ("disk I/O error", Unavailable, "the disk that holds the records answered with an error"),
    ("unable to open", Unavailable, "the database cannot be opened"),
    ("readonly database", Internal, "a reader tried to write"),
    ("too big", Invalid, "a value is too long to be stored"),
)


def field_of(exc: IntegrityError) -> str | None:
    """The field whose uniqueness was violated; None when it was something else."""
    text = str(exc.orig)
    if match := _SQLITE_UNIQUE.search(text):
        return match["column"] or match["index"].rsplit("_", 1)[-1]
    if match := _POSTGRES_UNIQUE.search(text):
        return match["rest"].rsplit("_", 1)[-1] if match["kind"] == "uq" else "id"
    return None


def refused(exc: IntegrityError, subject: str, missing: str) -> Fault:
    """`Exists` of `subject` when a unique field was taken, else `NotFound` of what was referred to."""
    field = field_of(exc)
    if field:
        return Exists(f"{field}: is taken already", field=field, subject=subject)
    return NotFound("what this refers to does not exist", subject=missing, private=str(exc.orig))


def fault_of(exc: BaseException) -> Fault | None:
    """Our word for it; None when it is not the database's doing."""
    if isinstance(exc, PoolTimeout):
        return Unavailable("too many readers", private=str(exc), retry_after=1.0)
    if isinstance(exc, UnicodeEncodeError | OverflowError):
        return Invalid("a value cannot be stored", private=str(exc))
    if isinstance(exc, DBAPIError):
        return _of_driver(exc)
    if isinstance(exc, OSError):
        return Unavailable("the database cannot be reached", private=str(exc), retry_after=1.0)
    return None


@contextmanager
def in_our_words() -> Iterator[None]:
    """Let what the database refuses in the block come out as a fault."""
    try:
        yield
    except Exception as exc:
        fault = fault_of(exc)
        if fault is None:
            raise
        raise fault from exc


def _of_driver(exc: DBAPIError) -> Fault:
    text = str(exc.orig)
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    for sign, kind, public in _STATES:
        if state.startswith(sign):
            return kind(public, private=text)
    for sign, kind, public in _SQLITE:
        if not state and sign in text:
            return kind(public, private=text)
    if exc.connection_invalidated:
        return Unavailable("the database cannot be reached", private=text, retry_after=1.0)
    return Internal(private=text)
