"""What `SqlStore` asks of a database: transactions that read, and such that write, one after the other.

`sqlite` and `postgres` are the two there are. What they have in common is SQLAlchemy's statements and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from sqlalchemy import CursorResult, Executable
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from polyvisor.model.faults import Invalid

Rows = Sequence[Mapping[str, Any]]
READERS = 4
WAIT = 10  # seconds a writer waits for one of another process before it gives up


class Link(Protocol):
    """A connection in a transaction, which is rolled back at its end unless it was committed.

    A cancellation waits for the statement, the begin or the commit that is under way (see `patience`).
    """

    async def execute(self, statement: Executable, rows: Rows | None = None) -> CursorResult[Any]:
        """Run one statement; its rows are here when this returns."""

    def attempt(self) -> AbstractAsyncContextManager[object]:
        """A statement in this block that a constraint refuses leaves the transaction as it was before."""

    async def commit(self) -> None:
        """Make it so."""


class Database(Protocol):
    """One that is open."""

    def reading(self) -> AbstractAsyncContextManager[Link]:
        """A consistent view, which cannot write. At most `READERS` at once."""

    def writing(self, *, lasting: bool) -> AbstractAsyncContextManager[Link]:
        """The only writer of all processes. Without `lasting` the commit outlives the host only a moment later."""

    async def close(self) -> None:
        """Release connections."""


def parse(text: str) -> URL:
    """The database's URL with the driver that we use.

    :raise Invalid: not a URL, or of another database.
    """
    try:
        url = make_url(text)
    except ArgumentError as exc:
        raise Invalid("database: not a URL such as sqlite:///polyvisor.db", field="database") from exc
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+asyncpg"}
    backend = url.get_backend_name()
    if backend not in drivers:
        raise Invalid("database: must be sqlite:///FILE or postgresql://…", field="database")
    return url.set(drivername=drivers[backend])
