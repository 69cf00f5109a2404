"""SQLite in a thread, with one way there and back for a statement.

The driver goes to its thread for a cursor, again for the statement, again for its rows and again to close it. Our
statements are short and their rows always all read, so each is done in one go: the way costs more than the work.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiosqlite


class OneHopConnection(aiosqlite.Connection):
    """A connection whose cursors are ours."""

    def cursor(self) -> OneHopCursor:  # type: ignore[override]  # what the driver awaits is here already
        """A cursor; nothing happens until it executes."""
        return OneHopCursor(self)

    async def rollback(self) -> None:
        """As the driver's, spared when there is nothing to take back."""
        if self.in_transaction:
            await super().rollback()

    async def run(self, work: Callable[[sqlite3.Cursor], Ran]) -> Ran:
        """Do `work` in the connection's thread, with a cursor for it alone."""

        def go() -> Ran:
            cursor = self._conn.cursor()
            try:
                return work(cursor)
            finally:
                cursor.close()

        ran: Ran = await self._execute(go)  # type: ignore[no-untyped-call]  # the driver's one way to its thread
        return ran


class Ran:
    """What a statement left behind, read from its cursor before that was closed."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self.rows: list[Any] = cursor.fetchall() if cursor.description else []
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid


class OneHopCursor:
    """What SQLAlchemy asks of an asynchronous cursor."""

    arraysize = 1

    def __init__(self, connection: OneHopConnection) -> None:
        self._connection = connection
        self._ran: Ran | None = None

    async def __aenter__(self) -> OneHopCursor:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> OneHopCursor:
        """Run it and read all of its rows."""
        self._ran = await self._connection.run(lambda cursor: Ran(cursor.execute(statement, parameters)))
        return self

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> OneHopCursor:
        """Run it once for each."""
        self._ran = await self._connection.run(lambda cursor: Ran(cursor.executemany(statement, parameters)))
        return self

    async def fetchall(self) -> list[Any]:
        """The rows, which are here."""
        return self._ran.rows if self._ran else []

    async def close(self) -> None:
        """It was closed when it had run."""

    @property
    def description(self) -> Any:
        """See PEP 249."""
        return self._ran.description if self._ran else None

    @property
    def rowcount(self) -> int:
        """See PEP 249."""
        return self._ran.rowcount if self._ran else -1

    @property
    def lastrowid(self) -> int | None:
        """See PEP 249."""
        return self._ran.lastrowid if self._ran else None


def connect(database: str, **options: Any) -> OneHopConnection:
    """For SQLAlchemy's `async_creator_fn`. The thread must not keep a process that is told to end."""
    connection = OneHopConnection(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True
    return connection
