"""Alembic's scripts, and `upgrade`, which runs them at start-up on either database.

They are found beside this file, so they also run from an installed wheel. All of an upgrade is one
transaction under the write lock: two servers that start together do not both migrate, and a crash leaves the
old schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL

from polyvisor.model.faults import Internal
from polyvisor.store import postgres, sqlite

T = TypeVar("T")
_VERSIONS = Path(__file__).parent / "versions"


def upgrade(url: URL) -> None:
    """Bring the schema up to date; see `within`.

    :raise Unsupported: the database was written by a newer version of ours.
    """
    within(url, _run)


def within(url: URL, work: Callable[[Connection], T]) -> T:
    """What `work` gives in a transaction that is the only one to write; no reference is followed in SQLite, where to
    replace a table would be to delete all rows that refer to it.

    It blocks, and may run a loop of its own: call it in a thread.
    """
    if url.get_backend_name() != "sqlite":
        return asyncio.run(_within(url, work))
    engine = sqlite.engine(url, "BEGIN IMMEDIATE", "PRAGMA foreign_keys = OFF")
    try:
        with engine.begin() as connection:
            return work(connection)
    finally:
        engine.dispose()


async def _within(url: URL, work: Callable[[Connection], T]) -> T:
    engine = postgres.engine(url, "READ COMMITTED")
    try:
        async with engine.begin() as connection:
            await postgres.lock(connection)
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


def _run(connection: Connection) -> None:
    if _present(connection) == head():
        return
    from polyvisor.store.migrations import scripts  # most starts have nothing to upgrade

    scripts.run(connection)
    if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
        raise Internal(private="the upgrade of the records left references to nothing")


def head() -> str:
    """The latest revision: files are named after theirs."""
    return max(path.name for path in _VERSIONS.glob("[0-9]*_*.py")).partition("_")[0]


def _present(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found
