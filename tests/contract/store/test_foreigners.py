"""What dialects keep with things: found, replaced, and gone with them."""

from __future__ import annotations

import pytest

from contract.store.things import P, Q, a_snapshot, a_volume, an_instance, projects
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Foreign
from polyvisor.store import SqlStore


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def test_remainders_are_kept_by_dialect_and_replaced_as_a_whole(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.foreigners.put(P, "one", Foreign("a", '{"x":1}'))
        await unit.foreigners.put(P, "one", Foreign("b", "other"))
        await unit.foreigners.put(P, "two", Foreign("a", "2ü"))
        assert await unit.foreigners.remainders("a", ["one", "two", "three"]) == {"one": '{"x":1}', "two": "2ü"}
        await unit.foreigners.put(P, "one", Foreign("a", "new"))
        await unit.foreigners.put(P, "two", Foreign("a"))
    async with store.read() as unit:
        assert await unit.foreigners.remainders("a", ["one", "two"]) == {"one": "new"}
        assert await unit.foreigners.remainders("b", ["one"]) == {"one": "other"}
        assert await unit.foreigners.remainders("a", []) == {}


async def test_many_are_asked_for_at_once(store: SqlStore) -> None:
    names = [f"thing-{n}" for n in range(1200)]
    async with store.write() as unit:
        for name in names:
            await unit.foreigners.put(P, name, Foreign("a", name, ("id", f"alias of {name}")))
    async with store.read() as unit:
        assert await unit.foreigners.remainders("a", names) == {name: name for name in names}
        assert (await unit.foreigners.aliases("a", "id", names))["thing-7"] == "alias of thing-7"


async def test_an_alias_has_one_meaning_in_a_project_a_dialect_and_a_kind(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.foreigners.put(P, "one", Foreign("a", alias=("id", "x")))
        for project, subject, dialect, kind in (
            (Q, "two", "a", "id"),
            (P, "three", "b", "id"),
            (P, "four", "a", "name"),
        ):
            await unit.foreigners.put(project, subject, Foreign(dialect, alias=(kind, "x")))
        with pytest.raises(Exists) as refused:
            await unit.foreigners.put(P, "five", Foreign("a", alias=("id", "x")))
        assert refused.value.field == "alias"
        assert await unit.foreigners.find([P], "a", "id", "x") == ["one"]
        assert await unit.foreigners.find(None, "a", "id", "x") == ["one", "two"]
        assert await unit.foreigners.find([P], "a", "id", "y") == []


async def test_a_thing_has_one_alias_of_a_kind_and_gives_it_up(store: SqlStore) -> None:
    async with store.write() as unit:
        await unit.foreigners.put(P, "one", Foreign("a", alias=("name", "x")))
        await unit.foreigners.put(P, "one", Foreign("a", alias=("other", "o")))
        await unit.foreigners.put(P, "one", Foreign("a", alias=("name", "y")))
        await unit.foreigners.put(P, "two", Foreign("a", alias=("name", "x")))
        assert await unit.foreigners.aliases("a", "name", ["one", "two"]) == {"one": "y", "two": "x"}
        await unit.foreigners.put(P, "one", Foreign("a", alias=("name", "")))
        assert await unit.foreigners.aliases("a", "name", ["one"]) == {}
        assert await unit.foreigners.aliases("a", "other", ["one"]) == {"one": "o"}


async def test_they_are_gone_with_what_they_belong_to(store: SqlStore) -> None:
    instance, snapshot, volume = an_instance(), a_snapshot(), a_volume()
    things = [instance.id, snapshot.id, volume.id]
    async with store.write() as unit:
        await unit.instances.add(instance)
        await unit.snapshots.add(snapshot)
        await unit.volumes.add(volume)
        for id in things:
            await unit.foreigners.put(P, id, Foreign("a", "kept", ("id", f"alias of {id}")))
    async with store.write() as unit:
        await unit.instances.forget(instance.id)
        await unit.snapshots.forget(snapshot.id)
        await unit.volumes.forget(volume.id)
        assert await unit.foreigners.remainders("a", things) == {}
        assert await unit.foreigners.aliases("a", "id", things) == {}


async def test_a_page_can_be_asked_for_by_the_beginning_of_an_id(store: SqlStore) -> None:
    mine, other = an_instance(after=1), an_instance(project=Q, after=2)
    async with store.write() as unit:
        for one in (mine, other):
            await unit.instances.add(one)
        assert [i.id for i in (await unit.instances.page(None, None, 9, prefix=mine.id[:12])).items] == [mine.id]
        assert (await unit.instances.page([Q], None, 9, prefix=mine.id)).items == ()
        assert (await unit.instances.page([P], None, 9, prefix="_")).items == ()
        assert (await unit.instances.page([P], None, 9, prefix="%")).items == ()
