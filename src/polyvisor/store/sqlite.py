"""SQLite on the spot: a statement runs in the event loop's own thread, unless it may have to wait.

To read or change some rows by their key takes SQLite a twentieth of a millisecond, the way to a thread and back ten
times that, and longer when Python is busy. So only those go to a thread who may be gone for long: a transaction that
begins to write while another process does, its end where it waits for the disk, and a DELETE, which may be of many
rows. Whoever goes there is waited for, also by one who is cancelled.

WAL lets readers go on while somebody writes. There is one connection that writes, and it begins with BEGIN IMMEDIATE:
a transaction that starts by reading and then turns to writing can fail with "database is locked" whatever the busy
time-out is, since its snapshot may be old. The driver's own implicit BEGIN is switched off (`isolation_level = None`)
and ours sent by SQLAlchemy's `begin` event. `synchronous=FULL`: what was answered "done" survives a power cut, for one
fsync a commit. What need not last is committed with NORMAL, which leaves the log to the kernel; a thread puts it on
disk a moment later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import CursorResult, Delete, Engine, Executable, create_engine, event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import OperationalError

from polyvisor.store.database import READERS, WAIT, Link, Rows
from polyvisor.store.patience import to_the_end
from polyvisor.store.refusals import in_our_words

T = TypeVar("T")
_WAL_LIMIT = 64 * 1024**2  # bytes the log may keep on disk once it has been moved to the database
_SWITCHES, _SWITCH_PAUSE = 100, 0.05  # seconds between tries
_SOON = 0.05  # seconds
_LASTING = ("PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 1000")
_HASTY = ("PRAGMA synchronous = NORMAL", "PRAGMA wal_autocheckpoint = 0")  # a checkpoint would wait for the disk, too
_LASTS = "lasts"  # in the connection's info: which of them it is set to


class Sqlite:
    """A Database in a file."""

    def __init__(self, url: URL) -> None:
        self.reader = engine(url, "BEGIN", "PRAGMA query_only = ON", connections=READERS)
        self.writer = engine(url, "BEGIN IMMEDIATE", "PRAGMA busy_timeout = 0")
        self._log = Path(f"{url.database}-wal")
        self._threads = ThreadPoolExecutor(READERS + 2, "store")
        self._readers = asyncio.Semaphore(READERS)
        self._sinking: set[asyncio.Task[None]] = set()
        self._sinks = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Link]:
        """See Database."""
        async with self._readers:
            with in_our_words():
                connection = self.reader.connect()
            try:
                with in_our_words():
                    connection.begin()
                yield _SqliteLink(connection, self._away, waits=False)
            finally:
                connection.close()

    @asynccontextmanager
    async def writing(self, *, lasting: bool) -> AsyncIterator[Link]:
        """See Database."""
        with in_our_words():
            connection = self.writer.connect()
        try:
            with in_our_words():
                _last(connection, lasting=lasting)
                await self._claim(connection)
            yield _SqliteLink(connection, self._away, waits=lasting)
        finally:
            connection.close()
        if not lasting:
            self._sink_soon()

    async def _claim(self, connection: Connection) -> None:
        """Begin, at once or when the other process that writes is done."""
        try:
            connection.begin()
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                raise
            _pragma(connection, f"busy_timeout = {WAIT * 1000}")
            try:
                await self._away(connection.begin)
            finally:
                _pragma(connection, "busy_timeout = 0")

    async def _away(self, work: Callable[[], T]) -> T:
        """In a thread, to its end."""

        async def done() -> T:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

        return await to_the_end(done())

    def _sink_soon(self) -> None:
        if not self._sinks:
            self._sinks = True
            task = asyncio.create_task(self._sink(), name="put the log on disk")
            self._sinking.add(task)
            task.add_done_callback(self._sinking.discard)

    async def _sink(self) -> None:
        """What was committed in haste lasts, too, a moment later: nobody waits for that."""
        await asyncio.sleep(_SOON)
        self._sinks = False  # what is committed from here on needs another one
        await asyncio.get_running_loop().run_in_executor(self._threads, _put_on_disk, self._log)

    async def close(self) -> None:
        """See Database."""
        for sinking in self._sinking:  # the last connection puts all on disk
            sinking.cancel()
        await asyncio.gather(*self._sinking, return_exceptions=True)
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._threads.shutdown()
        self.reader.dispose()
        self.writer.dispose()


class _SqliteLink:
    """A Link. `waits`: its commit is on disk when it is over."""

    def __init__(
        self, connection: Connection, away: Callable[[Callable[[], Any]], Awaitable[Any]], *, waits: bool
    ) -> None:
        self._connection = connection
        self._away = away
        self._waits = waits

    async def execute(self, statement: Executable, rows: Rows | None = None) -> CursorResult[Any]:
        """See Link."""
        if not isinstance(statement, Delete):
            return self._connection.execute(statement, rows)
        result: CursorResult[Any] = await self._away(lambda: self._connection.execute(statement, rows))
        return result

    def attempt(self) -> AbstractAsyncContextManager[object]:
        """See Link. SQLite itself undoes the one statement."""
        return contextlib.nullcontext()

    async def commit(self) -> None:
        """See Link."""
        if self._waits:
            await self._away(self._connection.commit)
        else:
            self._connection.commit()


def engine(url: URL, begin: str, *pragmas: str, connections: int = 1) -> Engine:
    """Connections whose transactions begin like that."""
    # Threads have a connection one after the other, which SQLite itself would let them at once.
    found = create_engine(
        url, pool_size=connections, max_overflow=0, connect_args={"timeout": WAIT, "check_same_thread": False}
    )

    @event.listens_for(found, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        _write_ahead(connection)
        for pragma in ("PRAGMA foreign_keys = ON", f"PRAGMA journal_size_limit = {_WAL_LIMIT}", *_LASTING, *pragmas):
            connection.execute(pragma).close()

    @event.listens_for(found, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return found


def own_file(url: URL) -> None:
    """Make the file ours alone, before SQLite makes it readable to all; its log files copy the mode."""
    if url.database:
        path = Path(url.database)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)


def _last(connection: Connection, *, lasting: bool) -> None:
    """Whether what is committed from now on is on disk then. Outside of a transaction only."""
    if connection.info.get(_LASTS, True) is not lasting:
        for pragma in _LASTING if lasting else _HASTY:
            _pragma(connection, pragma.removeprefix("PRAGMA "))
        connection.info[_LASTS] = lasting


def _pragma(connection: Connection, pragma: str) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute(f"PRAGMA {pragma}").close()


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL, once in a database's life. SQLite does not wait for others then, so we do."""
    for patience in range(_SWITCHES, -1, -1):
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError:
            if not patience:
                raise
            time.sleep(_SWITCH_PAUSE)


def _put_on_disk(file: Path) -> None:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
