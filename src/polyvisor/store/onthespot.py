"""SQLite on the spot: a statement runs in the event loop's own thread, unless it may have to wait.

The driver has a thread for each connection and goes there for everything. To read or change some rows by their key
takes SQLite a twentieth of a millisecond, the way to a thread and back ten times that, and longer when Python is busy.
So only those go there who may be gone for long: a transaction that begins to write while another process does, its end
where it waits for the disk, and a DELETE, which may be of many rows. Whoever goes there is waited for, also by one who
is cancelled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiosqlite

from polyvisor.store.patience import to_the_end

_SHORT = ("SELECT", "INSERT", "UPDATE")
_BEGIN = "BEGIN"  # of a reader: it waits for nobody
_CLAIM = "BEGIN IMMEDIATE"
_LASTING = ("PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 1000")
_HASTY = ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 0")  # a checkpoint would wait for the disk, too


class OnTheSpot(aiosqlite.Connection):
    """A connection whose cursors are ours."""

    _lasts: bool | None = None

    def last(self, lasting: bool) -> None:
        """Whether what is committed from now on is on disk then. Outside of a transaction only."""
        if lasting is not self._lasts:
            for statement in _LASTING if lasting else _HASTY:
                self._conn.execute(statement).close()
            self._lasts = lasting

    async def commit(self) -> None:
        """To the log, and to the disk where that is wanted."""
        if self._lasts:
            await to_the_end(self._execute(self._conn.commit))  # type: ignore[no-untyped-call]  # its one way there
        else:
            self._conn.commit()

    def cursor(self) -> SpotCursor:  # type: ignore[override]  # what the driver awaits is here already
        """A cursor; nothing happens until it executes."""
        return SpotCursor(self)

    async def rollback(self) -> None:
        """What is not in the database yet is forgotten, which takes no time."""
        if self.in_transaction:
            self._conn.rollback()

    async def run(self, statement: str, work: Callable[[sqlite3.Cursor], Ran]) -> Ran:
        """Do `work`, which is about that statement, with a cursor for it alone."""

        def go() -> Ran:
            cursor = self._conn.cursor()
            try:
                return work(cursor)
            finally:
                cursor.close()

        if statement == _BEGIN or statement.startswith(_SHORT):
            return go()
        if statement == _CLAIM and (ran := self._at_once(go)) is not None:
            return ran
        done: Ran = await to_the_end(self._execute(go))  # type: ignore[no-untyped-call]  # its one way to its thread
        return done

    def _at_once(self, go: Callable[[], Ran]) -> Ran | None:
        """What `go` gives, unless it would have to wait for another process."""
        patience = self._conn.execute("PRAGMA busy_timeout").fetchone()[0]
        self._conn.execute("PRAGMA busy_timeout = 0").close()
        try:
            return go()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            return None
        finally:
            self._conn.execute(f"PRAGMA busy_timeout = {patience}").close()


class Ran:
    """What a statement left behind, read from its cursor before that was closed."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self.rows: list[Any] = cursor.fetchall() if cursor.description else []
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid


class SpotCursor:
    """What SQLAlchemy asks of an asynchronous cursor."""

    arraysize = 1

    def __init__(self, connection: OnTheSpot) -> None:
        self._connection = connection
        self._ran: Ran | None = None

    async def __aenter__(self) -> SpotCursor:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> SpotCursor:
        """Run it and read all of its rows."""
        self._ran = await self._connection.run(statement, lambda cursor: Ran(cursor.execute(statement, parameters)))
        return self

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> SpotCursor:
        """Run it once for each."""
        self._ran = await self._connection.run(statement, lambda cursor: Ran(cursor.executemany(statement, parameters)))
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


def connect(database: str, **options: Any) -> OnTheSpot:
    """For SQLAlchemy's `async_creator_fn`. The thread must not keep a process that is told to end.

    Two threads have the connection, one after the other; SQLite itself would let them at once.
    """
    options["check_same_thread"] = False
    connection = OnTheSpot(lambda: sqlite3.connect(database, **options), iter_chunk_size=64)
    connection._thread.daemon = True
    return connection
