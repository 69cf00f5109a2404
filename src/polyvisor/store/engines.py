"""Connections: two engines for each database, one that reads and one that writes.

SQLite: WAL lets readers go on while somebody writes. The writing engine has one connection and begins with
BEGIN IMMEDIATE: a transaction that starts by reading and then turns to writing can fail with "database is
locked" whatever the busy time-out is, since its snapshot may be old. The driver's own implicit BEGIN is
switched off (`isolation_level = None`) and ours sent by SQLAlchemy's `begin` event. `synchronous=FULL`: what
was answered "done" survives a power cut, for one fsync a commit. What need not (`hasty`) is committed with
NORMAL, which leaves the log to the kernel; `SqlStore` puts it on disk a moment later.

PostgreSQL: a writer takes one advisory lock for its transaction, in READ COMMITTED so that what it reads
after getting the lock is the latest. SERIALIZABLE would let writers overlap and then fail some of them at
their commit, when the caller's block has run and cannot be run again; our writes are short, a queue costs
less than that. The advisory lock, unlike a table lock, leaves readers alone. Readers have REPEATABLE READ:
one snapshot for the unit. A hasty commit is PostgreSQL's asynchronous one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from polyvisor.model.faults import Invalid
from polyvisor.store import onthespot

READERS = 4
WAIT = 10  # seconds a writer waits for one of another process before it gives up

_LOCK = 0x706F6C79  # "poly": the one key of our advisory locks
_WAL_LIMIT = 64 * 1024**2  # bytes the log may keep on disk once it has been moved to the database

_SWITCHES, _SWITCH_PAUSE = 100, 0.05  # seconds between tries
_HASTY = "polyvisor_hasty"

_SQLITE = {"timeout": WAIT, "async_creator_fn": onthespot.connect}
_POSTGRES = {
    "timeout": WAIT,
    "command_timeout": 60,
}  # seconds; a network that is silent must not hold us for ever


def parse(text: str) -> URL:
    """The database's URL with the driver that we use.

    :raise Invalid: not a URL, or of another database.
    """
    try:
        url = make_url(text)
    except ArgumentError as exc:
        raise Invalid("database: not a URL such as sqlite:///polyvisor.db", field="database") from exc
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    backend = url.get_backend_name()
    if backend not in drivers:
        raise Invalid("database: must be sqlite:///FILE or postgresql://…", field="database")
    return url.set(drivername=drivers[backend])


def own_file(url: URL) -> None:
    """Make SQLite's file ours alone, before SQLite makes it readable to all; its log files copy the mode."""
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)


def reader(url: URL) -> AsyncEngine:
    """An engine whose transactions are consistent views and cannot write."""
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, pool_size=READERS, max_overflow=0, connect_args=_SQLITE)
        _tune_sqlite(engine, "BEGIN", "PRAGMA query_only = ON")
        return engine
    return create_async_engine(
        url,
        pool_size=READERS,
        max_overflow=0,
        connect_args=_POSTGRES,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
    )


def writer(url: URL, *, rebuilds: bool = False) -> AsyncEngine:
    """An engine whose transactions hold the write lock from their beginning.

    `rebuilds`: it replaces tables that others refer to, which SQLite takes for a deletion of all their rows; who does
    that has to check the references at the end.
    """
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(url, pool_size=1, max_overflow=0, connect_args=_SQLITE)
        _tune_sqlite(engine, "BEGIN IMMEDIATE", *(["PRAGMA foreign_keys = OFF"] if rebuilds else []))
        return engine
    engine = create_async_engine(
        url,
        pool_size=1,
        max_overflow=0,
        connect_args=_POSTGRES,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
    )

    @event.listens_for(engine.sync_engine, "begin")
    def lock(connection: Connection) -> None:
        lasting = "off" if _is_hasty(connection) else "on"
        connection.exec_driver_sql(
            f"SELECT set_config('lock_timeout', '{WAIT}s', true), set_config('synchronous_commit', '{lasting}', true), "
            f"pg_advisory_xact_lock({_LOCK})"
        )

    return engine


def hasty(writer: AsyncEngine) -> AsyncEngine:
    """The same connections; what is committed by this one outlives this process, but perhaps not the host."""
    return writer.execution_options(**{_HASTY: True})


def _is_hasty(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_HASTY))


def _write_ahead(cursor: Any) -> None:
    """Switch to WAL, once in a database's life. SQLite does not wait for others then, so we do."""
    for patience in range(_SWITCHES, -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if not patience:
                raise
            time.sleep(_SWITCH_PAUSE)


def _tune_sqlite(engine: AsyncEngine, begin: str, *more: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        _write_ahead(cursor)
        for pragma in (
            "PRAGMA foreign_keys = ON",
            f"PRAGMA journal_size_limit = {_WAL_LIMIT}",
            *more,
        ):
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, onthespot.OnTheSpot)
        driver.last(not _is_hasty(connection))
        connection.exec_driver_sql(begin)
