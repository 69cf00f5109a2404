"""Rows of tables that only a dialect has: keys are given once, and rows go with what they are about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contract.store.things import P, Q, a_volume, projects
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.store import SqlStore


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_a_row_is_kept_changed_and_removed(store: SqlStore) -> None:
    async with store.write() as unit:
        made = await unit.rows.add(Row("a", "tag", "blue", P, "thing", '{"x":"ü"}'))
        await unit.rows.save(replace(made, name="red", data="{}"))
        assert await unit.rows.get("a", made.key) == replace(made, name="red", data="{}")
        with pytest.raises(NotFound):
            await unit.rows.get("b", made.key)
        await unit.rows.remove(made.key)
        with pytest.raises(NotFound):
            await unit.rows.remove(made.key)
        with pytest.raises(NotFound):
            await unit.rows.save(made)


async def test_a_key_is_one_over_all_tables_and_never_given_again(store: SqlStore) -> None:
    async with store.write() as unit:
        keys = [(await unit.rows.add(Row(dialect, "tag", "x", P))).key for dialect in "abc"]
        await unit.rows.remove(keys[2])
    async with store.write() as unit:
        keys.append((await unit.rows.add(Row("a", "category", "x", P))).key)
    assert len(set(keys)) == 4


async def test_a_name_is_one_rows_in_its_table(store: SqlStore) -> None:
    async with store.write() as unit:
        first = await unit.rows.add(Row("a", "tag", "x", P))
        other = await unit.rows.add(Row("a", "tag", "y", P))
        with pytest.raises(Exists):
            await unit.rows.add(Row("a", "tag", "x", Q))
        with pytest.raises(Exists):
            await unit.rows.save(replace(other, name="x"))
        with pytest.raises(NotFound):
            await unit.rows.add(Row("a", "tag", "z", ProjectId("nowhere")))
    async with store.read() as unit:
        assert await unit.rows.of("a", ["tag", "none"]) == [first, other]


async def test_what_has_no_key_is_given_one_once(store: SqlStore) -> None:
    wanted = [Row("a", "vm", f"id-{n}", P, f"id-{n}") for n in range(5)]
    async with store.write() as unit:
        await unit.rows.ensure(wanted[:3])
        await unit.rows.ensure([])
    async with store.write() as unit:
        before = {row.name: row.key for row in await unit.rows.of("a", ["vm"])}
        await unit.rows.ensure(wanted)
        after = {row.name: row.key for row in await unit.rows.of("a", ["vm"])}
    assert len(after) == 5
    assert before.items() <= after.items()


async def test_rows_go_with_what_they_are_about_and_with_their_project(store: SqlStore) -> None:
    volume = a_volume()
    async with store.write() as unit:
        await unit.volumes.add(volume)
        await unit.rows.add(Row("a", "drive", "one", P, volume.id))
        await unit.rows.add(Row("a", "drive", "two", Q))
        await unit.volumes.forget(volume.id)
        assert [row.name for row in await unit.rows.of("a", ["drive"])] == ["two"]
        await unit.identities.remove_project(Q)
        assert await unit.rows.of("a", ["drive"]) == []
