"""Snapshots and schedules in a store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from contract.store.things import (
    IMAGE,
    NOBODY,
    NOW,
    SOURCE,
    P,
    Q,
    a_mount,
    a_snapshot,
    a_spec,
    a_volume,
    an_instance,
    an_operation,
    projects,
    put,
)
from polyvisor.model.compression import Algorithm, Compression, Packed, PackState
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.ids import Digest, InstanceId, OperationId, ProjectId, SnapshotId, mint
from polyvisor.model.operation import Verb
from polyvisor.model.snapshot import Schedule, Snapshot, SnapshotKind, SnapshotState
from polyvisor.model.units import GIB, MIB, Bytes, Seconds
from polyvisor.store import SqlStore

NOTHING = SnapshotId("nothing")


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


async def keep(store: SqlStore, *some: Snapshot) -> None:
    """In one unit."""
    async with store.write() as unit:
        for one in some:
            await unit.snapshots.add(one)


async def test_what_became_of_compression_is_kept(store: SqlStore) -> None:
    wanted = Compression(Algorithm.ZSTD, 19)
    one = a_snapshot(compression=wanted, packed=Packed(PackState.COMPRESSING))
    await keep(store, one, a_snapshot(after=1), two := a_snapshot(after=2, packed=one.packed, compression=wanted))
    async with store.write() as unit:
        assert await unit.snapshots.packing() == [one, two]
        done = Packed(PackState.COMPRESSED, "", Bytes(MIB), Bytes(GIB))
        await unit.snapshots.packed(one.id, done, Bytes(2 * MIB))
        await unit.snapshots.packed(two.id, Packed(PackState.ERROR, "no room"), two.size)
        assert await unit.snapshots.get(one.id) == replace(one, packed=done, size=Bytes(2 * MIB))
        assert (await unit.snapshots.get(two.id)).packed == Packed(PackState.ERROR, "no room")
        assert await unit.snapshots.packing() == []
        with pytest.raises(NotFound):
            await unit.snapshots.packed(NOTHING, done, Bytes(0))


async def test_snapshots_come_back_the_same(store: SqlStore) -> None:
    mounts = (a_mount(a_volume("data"), path="/data", read_only=True), a_mount(a_volume("more"), read_only=True))
    some = [a_snapshot(after=n, mounts=mounts[: n % 3]) for n in range(5)]
    await keep(store, *some, a_snapshot(some[0].name, Q))
    changed = replace(some[0], size=Bytes(GIB), state=SnapshotState.DELETING)
    async with store.write() as unit:
        await unit.snapshots.save(changed.id, changed.state, changed.size)
        with pytest.raises(Exists) as caught:
            await unit.snapshots.add(a_snapshot(some[0].name))
        assert caught.value.field == "name"
        assert await unit.snapshots.get(changed.id) == await unit.snapshots.named(P, changed.name) == changed
        first = await unit.snapshots.page([P], None, 3)
        second = await unit.snapshots.page([P], first.next, 3)
        assert [*first.items, *second.items] == [changed, *some[1:]]
        assert second.next is None
        assert len(await unit.snapshots.all()) == 6
        await unit.snapshots.forget(changed.id)
        for call in (
            unit.snapshots.get(NOTHING),
            unit.snapshots.named(Q, "nothing"),
            unit.snapshots.save(NOTHING, SnapshotState.READY, Bytes(1)),
            unit.snapshots.forget(NOTHING),
            unit.snapshots.add(a_snapshot(project=ProjectId("nothing"))),
        ):
            with pytest.raises(NotFound) as missing:
                await call
            assert missing.value.subject == "nothing"


async def test_snapshots_are_found_by_their_source_and_by_their_image(store: SqlStore) -> None:
    other = Digest("sha256:" + "b" * 64)
    one, two = a_snapshot(), a_snapshot(after=1, source=InstanceId("else"))
    three = a_snapshot(project=Q, after=2, spec=a_spec(image=other))
    await keep(store, one, two, three)
    async with store.read() as unit:
        assert (await unit.snapshots.page(None, None, 9, SOURCE)).items == (one, three)
        assert (await unit.snapshots.page([P], None, 9, SOURCE)).items == (one,)
        assert (await unit.snapshots.page([Q], None, 9, InstanceId("else"))).items == ()
        assert list(await unit.snapshots.of(SOURCE)) == [one, three]
        assert list(await unit.snapshots.using(IMAGE)) == [one.id, two.id]
        assert list(await unit.snapshots.using(other)) == [three.id]


async def test_what_is_made_for_a_moment_only_is_not_listed_and_what_all_hold_is_summed(store: SqlStore) -> None:
    seen, hidden = a_snapshot("it", scheduled=True), a_snapshot("hidden", after=1, transient=True)
    await keep(store, seen, hidden, a_snapshot(project=Q))
    async with store.read() as unit:
        assert (await unit.snapshots.page([P], None, 9)).items == (seen,)
        assert await unit.snapshots.get(hidden.id) == hidden
        with pytest.raises(NotFound):
            await unit.snapshots.named(P, "hidden")
        assert [await unit.snapshots.held(p) for p in ([P], [Q], None)] == [10 * MIB, 5 * MIB, 15 * MIB]
        assert await unit.snapshots.held([ProjectId("nobody")]) == 0


async def test_a_snapshot_outlives_its_source_and_a_schedule_does_not(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    snapshot = a_snapshot(source=one.id)
    schedule = Schedule(one.id, Seconds(60.0), SnapshotKind.DISK, NOW)
    await keep(store, snapshot)
    async with store.write() as unit:
        await unit.schedules.put(schedule)
        await unit.instances.forget(one.id)
    async with store.write() as unit:
        assert list(await unit.snapshots.of(one.id)) == [snapshot]
        assert list(await unit.schedules.all()) == []
        for call in (unit.schedules.get(one.id), unit.schedules.remove(one.id), unit.schedules.put(schedule)):
            with pytest.raises(NotFound) as missing:
                await call
            assert missing.value.subject == one.id


async def test_a_schedule_comes_back_the_same_and_is_replaced(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    bare = Schedule(one.id, Seconds(60.5), SnapshotKind.DISK, NOW)
    whole = Schedule(
        one.id, Seconds(3600.0), SnapshotKind.FULL, NOW + timedelta(hours=1), Seconds(7.5), 3, NOW, "the disk is full",
        SnapshotId(mint()), OperationId(mint()),
    )  # fmt: skip
    async with store.write() as unit:
        for schedule in (bare, whole, bare):
            await unit.schedules.put(schedule)
            assert await unit.schedules.get(one.id) == schedule
            assert list(await unit.schedules.all()) == [schedule]
        await unit.schedules.remove(one.id)
        assert list(await unit.schedules.all()) == []
        with pytest.raises(NotFound):
            await unit.schedules.put(replace(bare, instance=NOBODY))


async def test_what_is_due_is_found_the_longest_due_first(store: SqlStore) -> None:
    late, soon, now, waits = (an_instance(after=n) for n in range(4))
    await put(store, late, soon, now, waits)

    def at(instance: InstanceId, seconds: int) -> Schedule:
        return Schedule(instance, Seconds(60.0), SnapshotKind.DISK, NOW + timedelta(seconds=seconds))

    waiting = replace(at(waits.id, 90), operation=OperationId("o"))
    some = [at(late.id, -60), at(soon.id, 1), at(now.id, 0), waiting]
    async with store.write() as unit:
        for schedule in some:
            await unit.schedules.put(schedule)
        assert list(await unit.schedules.due(NOW)) == [some[0], some[2], waiting]
        await unit.schedules.put(replace(waiting, operation=None))
        assert list(await unit.schedules.due(NOW)) == [some[0], some[2]]


async def test_the_open_operations_about_a_thing_are_found(store: SqlStore) -> None:
    one, two = an_instance(), an_instance()
    await put(store, one, two)
    create, revert = an_operation(one, Verb.CREATE, subject="x"), an_operation(two, Verb.REVERT, subject="y")
    async with store.write() as unit:
        await unit.operations.open(create)
        await unit.operations.open(revert)
        assert list(await unit.operations.about("x")) == [create]
        await unit.operations.open(an_operation(one, Verb.STOP, after=1))
        assert list(await unit.operations.about("x")) == []
