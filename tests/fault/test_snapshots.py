"""Snapshots: ready or not there at all, whoever comes in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fault.world import LIMIT, ROOT, Trap, World
from polyvisor.engine.instances import Asked, Until
from polyvisor.model.faults import (
    Busy,
    Exists,
    Invalid,
    NoCapacity,
    NotFound,
    Stale,
    Unavailable,
    Unsupported,
    WrongState,
)
from polyvisor.model.ids import InstanceId, SnapshotId
from polyvisor.model.instance import Power
from polyvisor.model.operation import Operation, Outcome
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind, SnapshotState
from polyvisor.model.spec import Port, RestartMode, RestartPolicy
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.store import Unit
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName


def disk(world: World, id: InstanceId) -> list[str]:
    """The snapshots that an instance's disk went through."""
    return world.paths.disk(id).read_text().split()


class Slow:
    """The host's snapshots take until they are let go."""

    def __init__(self, world: World) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self._real = world.host.snapshot
        world.host.snapshot = self  # type: ignore[method-assign]  # a slow one

    async def __call__(self, *args: object, **more: object) -> Bytes:
        self.begun.set()
        await self.go.wait()
        return await self._real(*args, **more)  # type: ignore[arg-type]  # as they came


async def fork(world: World, name: str, **more: object) -> InstanceId:
    """An instance made from a snapshot."""
    wanted = Create(name=name, snapshot="snap", **more)  # type: ignore[arg-type]  # a test knows what it asks for
    asked = await world.engine.instances.create(ROOT, wanted)
    assert (await done(world, asked)).outcome is Outcome.DONE
    return asked.instance.id


async def done(world: World, asked: Asked) -> Operation:
    """What came of it."""
    assert asked.operation is not None
    return await world.waits.finished(asked.instance.id, asked.operation, LIMIT)


# -- taken, gone back to, made into others ---------------------------------------------------------------------------


async def test_a_stopped_instance_goes_back_to_what_it_was(world: World) -> None:
    id = await world.create()
    one, two = await world.snapshot(id, "one"), await world.snapshot(id, "two")
    assert disk(world, id) == [one.id, two.id]
    revert = world.engine.snapshots.revert
    with pytest.raises(WrongState):
        await revert(ROOT, id, "one")
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    assert (await world.ask(revert(ROOT, id, "one"))).outcome is Outcome.DONE
    assert disk(world, id) == [one.id]
    await world.ask(world.engine.power.start(ROOT, id))
    await world.check(id)
    other = await world.create(power=Power.OFF)
    with pytest.raises(Invalid) as refused:
        await revert(ROOT, other, "one")
    assert refused.value.field == "snapshot"


async def test_an_instance_is_made_from_a_snapshot_whose_source_is_gone(world: World) -> None:
    policy = RestartPolicy(RestartMode.ALWAYS)
    id = await world.create(
        env=(("A", "1"), ("B", "2")), hostname="box", restart=policy, labels=(("a", "b"),), ports=(Port(80, 8080),)
    )
    snapshot = await world.snapshot(id)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    same = await world.get(await fork(world, "same"))
    assert disk(world, same.id) == [snapshot.id]
    spec = same.spec
    assert (spec.origin, spec.env, spec.hostname, spec.labels) == (
        snapshot.id, (("A", "1"), ("B", "2")), "box", (("a", "b"),),
    )  # fmt: skip
    assert (spec.restart, spec.ports) == (policy, (Port(80),))
    changed = await fork(
        world, "changed", env=(("B", "3"),), hostname="other", restart=RestartPolicy(), labels=(), ports=(), vcpus=2,
        memory=Bytes(512 * MIB),
    )  # fmt: skip
    spec = (await world.get(changed)).spec
    assert (spec.env, spec.hostname, spec.labels, spec.ports) == ((("A", "1"), ("B", "3")), "other", (), ())
    assert (spec.vcpus, spec.memory, spec.restart) == (2, 512 * MIB, RestartPolicy())
    again = await world.snapshot(changed, "again")
    assert again.spec.origin == ""
    await world.check(changed)


@pytest.mark.parametrize(
    "wanted", [{"disk": Bytes(64 * MIB)}, {"command": ("ls",)}, {"user": "bob"}, {"network": True}, {"cwd": "/"}]
)
async def test_what_a_snapshot_has_decided_is_refused_by_name(wanted: dict[str, object], world: World) -> None:
    await world.snapshot(await world.create())
    with pytest.raises(Invalid) as refused:
        await fork(world, "it", **wanted)
    assert refused.value.field in wanted


async def test_a_create_names_an_image_or_a_snapshot(world: World) -> None:
    await world.snapshot(await world.create())
    for wanted, field in ((Create(), "image"), (Create("busybox", snapshot="snap"), "snapshot")):
        with pytest.raises(Invalid) as refused:
            await world.engine.instances.create(ROOT, wanted)
        assert refused.value.field == field
    with pytest.raises(NotFound) as missing:
        await world.engine.instances.create(ROOT, Create(snapshot="nope"))
    assert missing.value.field == "snapshot"


async def test_an_image_that_snapshots_need_stays(world: World) -> None:
    id = await world.create()
    await world.snapshot(id)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    with pytest.raises(Busy):
        await world.engine.images.delete(ROOT, "busybox")
    await world.engine.snapshots.delete(ROOT, "snap")
    await world.engine.images.delete(ROOT, "busybox")


async def test_memory_is_kept_only_where_there_is_some(world: World) -> None:
    id = await world.create()
    world.memory(id).unlink()  # as of a machine that there was no room for
    operation = await world.ask(world.snapshot_of(id, kind=SnapshotKind.FULL))
    assert (operation.outcome, operation.fault_kind) == (Outcome.FAILED, Unsupported.__name__)
    await world.volume()
    await world.ask(world.engine.volumes.attach(ROOT, id, "data"))
    with pytest.raises(WrongState):
        await world.snapshot_of(id, kind=SnapshotKind.FULL)
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    with pytest.raises(WrongState) as refused:
        await world.snapshot_of(id, kind=SnapshotKind.FULL)
    assert refused.value.field == "kind"
    assert await world.snapshots() == []
    await world.check(id)


async def test_a_name_is_taken_once_and_a_repeat_makes_no_second(world: World) -> None:
    id = await world.create()
    engine = world.engine.snapshots
    first, again = [await engine.create(ROOT, id, "one", receipt="key") for _ in range(2)]
    assert again.snapshot == first.snapshot
    assert again.asked is not None
    assert again.asked.operation == (await world.operations(id))[0].id
    one = await engine.settle(first, Until.READY, LIMIT)
    assert one.state is SnapshotState.READY
    later = await engine.create(ROOT, id, "one", receipt="key")
    assert (later.snapshot, later.asked) == (one, None)
    assert await engine.settle(later, Until.READY, LIMIT) == one
    with pytest.raises(Invalid):
        await engine.create(ROOT, id, "two", receipt="key")
    with pytest.raises(Exists):
        await engine.create(ROOT, id, "one")
    await engine.delete(ROOT, one.id)
    with pytest.raises(NotFound):
        await engine.create(ROOT, id, "one", receipt="key")
    assert [e.kind for e in await world.events(InstanceId(one.id))] == ["snapshot.created", "snapshot.deleted"]
    assert (await world.snapshots(), list(world.paths.snapshots.iterdir())) == ([], [])


# -- who comes in between --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["stop", "delete"])
async def test_a_snapshot_that_is_cut_short_leaves_nothing(ending: str, world: World) -> None:
    id = await world.create()
    slow = Slow(world)
    taken = await world.engine.snapshots.create(ROOT, id, "snap")
    await slow.begun.wait()
    with pytest.raises(Busy):
        await world.engine.snapshots.delete(ROOT, "snap")
    with pytest.raises(Busy):
        await world.engine.power.pause(ROOT, id)
    waiting = asyncio.create_task(world.engine.snapshots.settle(taken, Until.LAUNCHED, LIMIT))
    if ending == "stop":
        asked = await world.engine.power.stop(ROOT, id, force=True)
    else:
        asked = await world.engine.power.delete(ROOT, id)
    slow.go.set()
    await done(world, asked)
    with pytest.raises(Stale):
        await waiting
    await world.check(id)
    assert await world.snapshots() == []
    assert not [e for e in await world.events(InstanceId(taken.snapshot.id)) if e.kind.startswith("snapshot.")]


@pytest.mark.parametrize("ending", ["stop", "delete"])
async def test_a_snapshot_that_is_cut_short_by_a_manager_that_dies_as_well(ending: str, world: World) -> None:
    id = await world.create()
    slow = Slow(world)
    await world.engine.snapshots.create(ROOT, id, "snap")
    await slow.begun.wait()
    world.traps.append(Trap("before", StepName.KILL, Crash()))
    await getattr(world.engine.power, ending)(ROOT, id, force=True)
    slow.go.set()
    await world.reborn()
    await world.engine.snapshots.recover()
    await world.settled(id)
    await world.check(id)
    assert await world.snapshots() == []


async def test_what_cannot_be_removed_now_is_removed_later(world: World) -> None:
    id = await world.create()
    await world.snapshot(id)
    real, left = world.host.remove_snapshot, [Unavailable("not now")] * 2

    async def shaky(snapshot: SnapshotId) -> None:
        if left:
            raise left.pop()
        await real(snapshot)

    world.host.remove_snapshot = shaky  # type: ignore[method-assign]  # one that fails twice
    with pytest.raises(Unavailable):
        await world.engine.snapshots.delete(ROOT, "snap")
    assert (await world.engine.snapshots.get(ROOT, "snap")).state is SnapshotState.DELETING
    with pytest.raises(Busy):
        await fork(world, "it")
    assert [await world.engine.snapshots.collect() for _ in range(3)] == [0, 1, 0]
    assert await world.snapshots() == []
    await world.check(id)


async def test_a_snapshot_stays_while_an_instance_is_being_made_from_it(world: World) -> None:
    await world.snapshot(await world.create())
    world.knob.delay["launch"] = 0.1
    asked = await world.engine.instances.create(ROOT, Create(name="it", snapshot="snap"))
    with pytest.raises(Busy) as refused:
        await world.engine.snapshots.delete(ROOT, "snap")
    assert refused.value.retry_after
    assert (await done(world, asked)).outcome is Outcome.DONE
    await world.engine.snapshots.delete(ROOT, "snap")
    await world.check(asked.instance.id)
    await world.again()
    await world.check(asked.instance.id)


async def test_what_was_made_for_one_instance_only_goes_when_nobody_comes_back_for_it(world: World) -> None:
    id = await world.create()
    engine = world.engine.snapshots
    taken = await engine.create(ROOT, id, transient=True)
    made = await engine.settle(taken, Until.LAUNCHED, LIMIT)
    assert (await engine.list(ROOT, None, 9)).items == ()
    assert await engine.get(ROOT, made.id) == made
    assert await engine.collect() == 0
    await world.again()
    await world.engine.snapshots.recover()
    assert await world.snapshots() == []
    assert not [e for e in await world.events(InstanceId(made.id)) if e.kind.startswith("snapshot.")]
    await world.check(id)


async def test_at_the_start_what_no_record_knows_is_removed_and_the_rest_stays(world: World) -> None:
    kept = await world.snapshot(await world.create())
    (world.paths.snapshots / "stray").mkdir()
    await world.again()
    await world.engine.snapshots.recover()
    assert [file.name for file in world.paths.snapshots.iterdir()] == [kept.id]


async def test_what_a_snapshot_holds_is_known_though_it_could_not_be_written_down_at_first(world: World) -> None:
    id = await world.create()
    real, refused = world.store.write, asyncio.Event()

    @asynccontextmanager
    async def full(*, lasting: bool = True) -> AsyncIterator[Unit]:
        async with real(lasting=lasting) as unit:
            yield unit
            refused.set()
            raise NoCapacity("the disk is full")

    def fill(when: str, step: StepName) -> None:
        if (when, step) == ("after", StepName.SNAPSHOT) and not refused.is_set():
            world.reconciler.runner._store.write = full  # type: ignore[method-assign]  # no room any more

    world.reconciler.runner.hook = fill
    asked = await world.snapshot_of(id)
    async with asyncio.timeout(LIMIT):
        await refused.wait()
    world.reconciler.runner._store.write = real  # type: ignore[method-assign]  # there is again
    assert (await done(world, asked)).outcome is Outcome.DONE
    assert (await world.snapshots())[0].size > 0
    await world.check(id)


async def wish(world: World, chance: random.Random, some: list[InstanceId]) -> None:
    """Ask something of somebody."""
    engine, id = world.engine, chance.choice(some)
    snapshot = chance.choice([s.id for s in await world.snapshots()] or [SnapshotId("none")])
    match chance.randrange(7):
        case 0 | 1:
            await engine.snapshots.create(ROOT, id)
        case 2:
            await engine.snapshots.delete(ROOT, snapshot)
        case 3:
            await engine.snapshots.revert(ROOT, id, snapshot)
        case 4:
            some.append((await engine.instances.create(ROOT, Create(snapshot=snapshot))).instance.id)
        case 5:
            some.remove(id)
            await engine.power.delete(ROOT, id)
            some.append(await world.create())
        case _:
            verbs: list[Callable[..., Awaitable[object]]] = [engine.power.start, engine.power.stop]
            await chance.choice(verbs)(ROOT, id)


async def test_random_wishes_with_snapshots_all_settle(world: World) -> None:
    chance = random.Random(7)
    some = [await world.create() for _ in range(4)]
    for _ in range(150):
        try:
            await wish(world, chance, some)
        except (WrongState, Busy, NotFound, Invalid):
            await asyncio.sleep(0)
        if chance.random() < 0.05:
            await world.again()
            await world.engine.snapshots.recover()
    for id in some:
        await world.check(id)
    async with world.store.read() as unit:
        gone = [i.id for i in await unit.instances.all() if i.id not in some]
    for id in gone:
        assert await world.until(id, lambda i: False) is None
    await world.check_snapshots()
