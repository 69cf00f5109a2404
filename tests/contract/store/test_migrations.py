"""The schema that the migrations make is the one that the tables say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from contract.store.things import a_snapshot, projects
from polyvisor.model.faults import Unsupported
from polyvisor.store import migrations, open_store
from polyvisor.store.database import parse
from polyvisor.store.migrations import scripts
from polyvisor.store.tables import metadata


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


async def test_metadata_and_migrations_agree(empty_url: str) -> None:
    await (await open_store(empty_url)).close()
    assert await asyncio.to_thread(migrations.within, parse(empty_url), _differences) == []


async def test_a_database_is_made_from_nothing_and_only_once(empty_url: str) -> None:
    first, second = await asyncio.gather(open_store(empty_url), open_store(empty_url))
    await projects(first)
    assert await first.host_id() == await second.host_id()
    async with second.read() as unit:
        assert len(await unit.identities.projects()) == 2
    await first.close()
    await second.close()


async def test_an_older_database_is_brought_up_to_date(empty_url: str) -> None:
    def begin(connection: Connection) -> None:
        here = scripts.config()
        here.attributes["connection"] = connection
        command.upgrade(here, "0001")

    await asyncio.to_thread(migrations.within, parse(empty_url), begin)
    store = await open_store(empty_url)
    await projects(store)
    async with store.write() as unit:
        await unit.snapshots.add(a_snapshot())
    await store.close()


async def test_a_newer_database_is_left_alone(empty_url: str) -> None:
    await (await open_store(empty_url)).close()
    new = text("UPDATE alembic_version SET version_num = '9999'")
    await asyncio.to_thread(migrations.within, parse(empty_url), lambda connection: connection.execute(new))
    with pytest.raises(Unsupported):
        await open_store(empty_url)


def test_files_are_named_after_their_revisions() -> None:
    directory = ScriptDirectory.from_config(scripts.config())
    assert migrations.head() == directory.get_current_head()
    for revision in directory.walk_revisions():
        assert Path(revision.path).name.startswith(f"{revision.revision}_")


def test_alembic_is_not_loaded_with_the_store() -> None:
    code = "import sys, polyvisor.server.serve; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
