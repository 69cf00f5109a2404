"""Units of work, topics, concurrency and refusals of a store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from contract.store.things import (
    NOW,
    P,
    a_mount,
    a_volume,
    an_instance,
    an_operation,
    get,
    hears,
    projects,
    put,
)
from polyvisor.model.event import Event
from polyvisor.model.faults import Busy, Exists, Invalid, NotFound, Unavailable
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Intent, MountState, Observed, Phase
from polyvisor.model.operation import Outcome
from polyvisor.ports.store import Store, Unit
from polyvisor.store import SqlStore, open_store


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


def test_it_is_a_store(store: SqlStore) -> None:
    kept: Store = store
    assert kept


async def test_a_unit_that_raises_leaves_nothing(store: SqlStore) -> None:
    one, two = an_instance("one"), an_instance("two")
    await put(store, one)
    async with hears(store) as heard:
        with pytest.raises(ZeroDivisionError):
            async with store.write() as unit:
                await unit.instances.add(two)
                await unit.instances.want(one.id, Intent(generation=9))
                await unit.events.append(Event("a", P, "", NOW))
                raise ZeroDivisionError
    async with store.read() as unit:
        assert [i.id for i in await unit.instances.all()] == [one.id]
        assert (await unit.instances.get(one.id)).intent.generation == 1
        assert await unit.events.last() == 0
    assert heard == []


async def test_a_refused_unit_leaves_nothing(store: SqlStore) -> None:
    one = an_instance("one")
    await put(store, one)
    with pytest.raises(Exists):
        await put(store, an_instance("two"), an_instance("one"))
    async with store.read() as unit:
        assert len(await unit.instances.all()) == 1


async def test_a_reader_cannot_write(store: SqlStore) -> None:
    async with store.read() as unit:
        with pytest.raises(RuntimeError):
            await unit.instances.add(an_instance())
        with pytest.raises(RuntimeError):
            await unit.receipts.prune(NOW)


async def test_a_write_inside_a_write_is_an_error_and_not_a_deadlock(store: SqlStore) -> None:
    async with store.write() as unit:
        with pytest.raises(RuntimeError):
            async with store.write():
                pass
        await unit.instances.add(an_instance())


async def test_readers_neither_wait_for_a_writer_nor_see_its_half(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    async with asyncio.timeout(5), store.write() as writing:
        await writing.instances.want(one.id, Intent(generation=2))
        async with store.read() as reading:
            assert (await reading.instances.get(one.id)).intent.generation == 1
    assert (await get(store, one)).intent.generation == 2


async def test_a_reader_sees_one_moment(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    async with store.read() as reading:
        assert (await reading.instances.get(one.id)).intent.generation == 1
        async with store.write() as writing:
            await writing.instances.want(one.id, Intent(generation=2))
        assert (await reading.instances.get(one.id)).intent.generation == 1


async def _count(store: SqlStore, which: InstanceId) -> None:
    async with store.write() as unit:
        now = await unit.instances.get(which)
        await asyncio.sleep(0)
        await unit.instances.want(now.id, replace(now.intent, generation=now.intent.generation + 1))


async def test_fifty_writers_lose_no_update(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    await asyncio.gather(*(_count(store, one.id) for _ in range(50)))
    assert (await get(store, one)).intent.generation == 51


async def test_writers_of_two_stores_on_one_database_lose_no_update(store: SqlStore, url: str) -> None:
    one = an_instance()
    await put(store, one)
    other = await open_store(url)
    try:
        assert await other.host_id() == await store.host_id()
        await asyncio.gather(*(_count((store, other)[n % 2], one.id) for n in range(40)))
    finally:
        await other.close()
    assert (await get(store, one)).intent.generation == 41


async def test_of_many_who_claim_a_volume_one_gets_it(store: SqlStore, url: str) -> None:
    some = [an_instance() for _ in range(12)]
    volume = a_volume()
    await put(store, volume, *some)
    other = await open_store(url)

    async def claim(n: int) -> bool:
        with suppress(Busy):
            async with (store, other)[n % 2].write() as unit:
                await unit.instances.mount(some[n].id, a_mount(volume))
                return True
        return False

    try:
        assert sum(await asyncio.gather(*map(claim, range(12)))) == 1
    finally:
        await other.close()
    async with store.read() as unit:
        assert len((await unit.volumes.get(volume.id)).attached) == 1


async def test_of_many_equal_requests_one_makes_the_thing(store: SqlStore) -> None:
    async def request() -> str:
        async with store.write() as unit:
            if found := await unit.receipts.find(P, "key"):
                return found[1]
            made = await unit.instances.add(an_instance())
            await unit.receipts.add(P, "key", "hash", made.id, NOW)
            return made.id

    assert len(set(await asyncio.gather(*(request() for _ in range(20))))) == 1


async def test_a_cancelled_writer_harms_nobody(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    chance = random.Random(7)
    done = 0
    async with asyncio.timeout(8):  # less than a writer waits for a transaction that somebody left open
        for _ in range(60):
            task = asyncio.create_task(_count(store, one.id))
            await asyncio.sleep(chance.random() * 0.006)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
                done += 1
        await _count(store, one.id)
    assert 1 + done < (await get(store, one)).intent.generation <= 62


async def test_a_commit_is_told_of_even_when_its_task_is_cancelled(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    chance = random.Random(11)
    async with store.follow(f"wish:{one.id}") as news:
        for _ in range(40):
            before = (await get(store, one)).intent.generation
            task = asyncio.create_task(_count(store, one.id))
            await asyncio.sleep(chance.random() * 0.006)
            task.cancel()
            await asyncio.wait({task})
            if (await get(store, one)).intent.generation != before:
                async with asyncio.timeout(1):
                    assert await anext(news) == f"wish:{one.id}"


async def test_topics_name_what_changed(store: SqlStore) -> None:
    one, volume = an_instance(), a_volume()
    operation = an_operation(one)
    wish, fact, over = f"wish:{one.id}", f"fact:{one.id}", f"over:{one.id}"
    await put(store, volume)
    changes: list[tuple[Callable[[Unit], Awaitable[object]], list[str]]] = [
        (lambda u: u.instances.add(one), [wish, fact]),
        (lambda u: u.instances.want(one.id, Intent(generation=2)), [wish]),
        (lambda u: u.instances.saw(one.id, Observed(Phase.RUNNING)), [fact]),
        (lambda u: u.operations.open(operation), [fact]),
        (lambda u: u.operations.save(operation), [fact]),
        (lambda u: u.operations.save(replace(operation, outcome=Outcome.DONE)), [over, fact]),
        (lambda u: u.operations.open(an_operation(one)), [fact]),
        (lambda u: u.operations.open(an_operation(one)), [fact, over]),
        (lambda u: u.instances.mount(one.id, a_mount(volume)), [fact]),
        (lambda u: u.instances.mounted(one.id, volume.id, MountState.DETACHING), [fact]),
        (lambda u: u.instances.unmount(one.id, volume.id), [fact]),
        (lambda u: u.instances.rename(one.id, "new", one.spec), [fact]),
        (lambda u: u.events.append(Event("a", P, "", NOW)), ["events"]),
        (lambda u: u.instances.forget(one.id), [fact]),
    ]
    for change, topics in changes:
        async with hears(store) as heard, store.write() as unit:
            await change(unit)
        assert heard == topics


async def test_a_topic_is_published_after_its_commit_and_to_those_who_follow_it(store: SqlStore) -> None:
    one, two = an_instance(), an_instance()
    await put(store, one, two)
    async with store.follow(f"wish:{one.id}") as mine, store.follow("wish:*", "events") as every:
        async with store.write() as unit:
            await unit.instances.want(two.id, Intent(generation=2))
            await unit.instances.want(one.id, Intent(generation=2))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(every)
        assert await anext(mine) == f"wish:{one.id}"
        assert [await anext(every), await anext(every)] == [f"wish:{two.id}", f"wish:{one.id}"]


async def test_closing_ends_those_who_follow(url: str) -> None:
    store = await open_store(url)
    async with store.follow("*") as news:
        await store.close()
        assert [topic async for topic in news] == []


async def test_a_statement_that_failed_spoils_the_unit(store: SqlStore) -> None:
    with pytest.raises(Invalid):
        async with store.write() as unit:
            await unit.instances.add(an_instance())
            with suppress(Invalid):
                await unit.events.after(2**70, None, 5)
    async with store.read() as unit:
        assert list(await unit.instances.all()) == []


async def test_the_host_is_the_same_after_a_restart(store: SqlStore, url: str) -> None:
    first = await store.host_id()
    await put(store, one := an_instance())
    await store.close()
    again = await open_store(url)
    try:
        assert await again.host_id() == first
        assert (await get(again, one)).name == one.name
    finally:
        await again.close()


async def test_a_database_that_cannot_be_reached_is_unavailable() -> None:
    for url in ("sqlite:////nowhere/at/all.db", "postgresql://x@/x?host=/nowhere"):
        with pytest.raises(Unavailable):
            await open_store(url)
    for url in ("", "mysql://x/y", "file"):
        with pytest.raises(Invalid):
            await open_store(url)


async def test_what_is_not_there_raises_out_of_the_unit(store: SqlStore) -> None:
    with pytest.raises(NotFound):
        await get(store, an_instance())
