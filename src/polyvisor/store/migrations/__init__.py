"""Alembic's scripts, and `upgrade`, which runs them at start-up on either database.

They are found beside this file, so they also run from an installed wheel. All of an upgrade is one
transaction under the write lock: two servers that start together do not both migrate, and a crash leaves the
old schema.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from polyvisor.model.faults import Unsupported
from polyvisor.store import engines


def upgrade(url: URL) -> None:
    """Bring the schema up to date; blocks, and runs a loop of its own: call it in a thread.

    :raise Unsupported: the database was written by a newer version of ours.
    """
    asyncio.run(_upgrade(url))


async def _upgrade(url: URL) -> None:
    engine = engines.writer(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


def run(connection: Connection) -> None:
    """Upgrade over an open transaction."""
    script = ScriptDirectory.from_config(config())
    present = _present(connection)
    if present == script.get_current_head():
        return
    if present is not None and present not in {revision.revision for revision in script.walk_revisions()}:
        raise Unsupported("the records were written by a newer version of polyvisor")
    here = config()
    here.attributes["connection"] = connection
    command.upgrade(here, "head")


def config() -> Config:
    """Alembic's settings, without a file of its own."""
    here = Config()
    here.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    here.set_main_option("path_separator", "os")
    return here


def _present(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
