"""Alembic's scripts, and `upgrade`, which runs them at start-up on either database.

They are found beside this file, so they also run from an installed wheel. All of an upgrade is one
transaction under the write lock: two servers that start together do not both migrate, and a crash leaves the
old schema.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL

from polyvisor.model.faults import Internal
from polyvisor.store import engines

_VERSIONS = Path(__file__).parent / "versions"


def upgrade(url: URL) -> None:
    """Bring the schema up to date; blocks, and runs a loop of its own: call it in a thread.

    :raise Unsupported: the database was written by a newer version of ours.
    """
    asyncio.run(_upgrade(url))


async def _upgrade(url: URL) -> None:
    engine = engines.writer(url, rebuilds=True)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_run)
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
