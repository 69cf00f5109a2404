"""What is promised of SQLite alone: the file's mode, a full disk, `kill -9`."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from contract.store.things import P, an_instance, get, projects, put
from polyvisor.model.faults import NoCapacity
from polyvisor.model.instance import Intent
from polyvisor.store import SqlStore, open_store, sqlite
from polyvisor.store.sql import SqlUnit
from polyvisor.store.sqlite import Sqlite

# Every unit adds a pair, wish and event, with room to be killed between the statements.
_WRITER = """
import asyncio, sys
from contract.store.things import NOW, P, an_instance
from polyvisor.model.event import Event
from polyvisor.store import open_store

async def main():
    store = await open_store(sys.argv[1])
    n = 0
    while True:
        n += 1
        async with store.write(lasting=sys.argv[2] == "lasting") as unit:
            await unit.instances.add(an_instance(f"a{n}"))
            await unit.instances.add(an_instance(f"b{n}"))
            await unit.events.append(Event("pair", P, str(n), NOW))
        print(n, flush=True)

asyncio.run(main())
"""


async def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.touch(0o644)
    store = await open_store(f"sqlite:///{file}")
    await store.host_id()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    await store.close()
    assert set(modes) == {"store.db", "store.db-wal", "store.db-shm"}
    assert set(modes.values()) == {0o600}


async def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'store.db'}")
    await projects(store)
    await put(store, one := an_instance("one"))
    await _limit(store, 1)  # SQLite never goes below what is used
    with pytest.raises(NoCapacity):
        async with store.write() as unit:
            await unit.instances.want(one.id, Intent(generation=2))
            for _ in range(500):
                await unit.instances.add(an_instance())
    with pytest.raises(NoCapacity):  # even when the caller goes on after the refusal
        async with store.write() as unit:
            for _ in range(500):
                try:
                    await unit.instances.add(an_instance())
                except NoCapacity:
                    continue
    async with store.read() as reading:
        assert len(await reading.instances.all()) == 1
    assert (await get(store, one)).intent.generation == 1
    await _limit(store, 2**30)
    await put(store, *(an_instance() for _ in range(50)))
    await store.close()


async def test_only_what_has_to_last_waits_for_the_disk(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'store.db'}")
    await projects(store)

    full, normal = 2, 1
    for lasting in (True, False, False, True):
        async with store.write(lasting=lasting) as unit:
            await unit.instances.add(an_instance())
            assert (await _synchronous(unit)) == (full if lasting else normal)
    await store.close()


async def test_what_was_committed_in_haste_is_on_disk_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 'store.db'}")
    await projects(store)
    put_there: list[str] = []
    monkeypatch.setattr(sqlite, "_put_on_disk", lambda log: put_there.append(log.name))
    assert isinstance(store._database, Sqlite)
    for _ in range(3):
        for _ in range(5):
            async with store.write(lasting=False) as unit:
                await unit.instances.add(an_instance())
        async with asyncio.timeout(30):
            while store._database._sinking:
                await asyncio.sleep(0.01)
    await store.close()
    assert 3 <= len(put_there) <= 15
    assert set(put_there) == {"store.db-wal"}


async def _synchronous(unit: object) -> int:
    assert isinstance(unit, SqlUnit)
    return int(await unit._work.value(text("PRAGMA synchronous")))


async def _limit(store: SqlStore, pages: int) -> None:
    assert isinstance(store._database, Sqlite)
    with store._database.writer.connect() as connection:
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))


@pytest.mark.parametrize("how", ["lasting", "hasty"])
async def test_a_killed_writer_leaves_whole_transactions_only(tmp_path: Path, how: str) -> None:
    file = tmp_path / "store.db"
    store = await open_store(f"sqlite:///{file}")
    await projects(store)
    await store.close()
    for wait in (0.05, 0.063, 0.081):
        told = await asyncio.to_thread(_write_and_kill, file, wait, how)
        names, events = await _found(file)
        assert {name[1:] for name in names if name[0] == "a"} == {name[1:] for name in names if name[0] == "b"}
        assert len(names) == 2 * len(events)
        assert len(events) - told in (0, 1)  # at most the one that was committed and not yet told of
        await _clear(file)


def _write_and_kill(file: Path, wait: float, how: str) -> int:
    child = subprocess.Popen(
        [sys.executable, "-c", _WRITER, f"sqlite:///{file}", how],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert child.stdout is not None
    with child, child.stdout:
        told = [child.stdout.readline()]
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(wait)
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
    return len(told)


async def _found(file: Path) -> tuple[list[str], list[str]]:
    store = await open_store(f"sqlite:///{file}")
    async with store.read() as unit:
        names = [instance.name for instance in await unit.instances.all()]
        events = [event.subject for event in await unit.events.after(0, [P], 100_000)]
    await store.close()
    with sqlite3.connect(file) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert plain.execute("PRAGMA foreign_key_check").fetchall() == []
    plain.close()
    return names, events


async def _clear(file: Path) -> None:
    with sqlite3.connect(file) as plain:
        plain.execute("DELETE FROM instances")
        plain.execute("DELETE FROM events")
    plain.close()


async def test_a_store_without_a_file_is_gone_when_closed() -> None:
    store = await open_store("sqlite://")
    await projects(store)
    scratch = store._scratch
    assert scratch is not None and scratch.exists()
    await store.close()
    assert not scratch.exists()
