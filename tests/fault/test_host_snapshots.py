"""What a host makes of snapshots, whatever state the machine is in; the disks themselves are tested elsewhere."""

from __future__ import annotations

import asyncio

import pytest

from fault.world import World
from polyvisor.host import upkeep
from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage
from polyvisor.host.upkeep import Upkeep
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.faults import Internal, NotFound, Unavailable, WrongState
from polyvisor.model.host import Blueprint, Sight
from polyvisor.model.ids import InstanceId, SnapshotId


async def plan(world: World, id: InstanceId) -> Blueprint:
    """What the host is told of an instance."""
    return blueprint_of(await world.get(id))


@pytest.mark.parametrize("state", [Sight.RUNNING, Sight.PAUSED])
async def test_a_machine_is_switched_by_each_snapshot_and_goes_on(state: Sight, world: World) -> None:
    id = await world.create()
    world.vm(id).set(state)
    for count in (1, 2):
        await world.host.snapshot(await plan(world, id), SnapshotId(f"s{count}"), memory=False)
        assert world.vm(id).written() == {"pvdisk": count}
    assert world.vm(id)._state() is state
    await world.host.snapshot(await plan(world, id), SnapshotId("s2"), memory=False)
    assert world.vm(id).written() == {"pvdisk": 2}


async def test_one_that_does_not_answer_has_no_snapshot_taken(world: World) -> None:
    id = await world.create()
    blueprint = await plan(world, id)
    world.knob.deaf.add(id)
    for asked in (
        world.host.snapshot(blueprint, SnapshotId("s"), memory=False),
        world.host.revert(blueprint, SnapshotId("s")),
    ):
        with pytest.raises(Unavailable):
            await asked
    with pytest.raises(NotFound):
        await world.host._storage.snapshot_size("s")
    world.knob.deaf.clear()
    await world.host.snapshot(blueprint, SnapshotId("s"), memory=False)
    assert await world.host._storage.snapshot_size("s") > 0


async def test_a_switch_that_fails_leaves_no_snapshot_and_may_be_asked_for_again(world: World) -> None:
    id = await world.create()
    blueprint = await plan(world, id)
    world.knob.fail["switch"] = [Internal("scripted")]
    with pytest.raises(Internal):
        await world.host.snapshot(blueprint, SnapshotId("s"), memory=False)
    with pytest.raises(NotFound):
        await world.host._storage.snapshot_size("s")
    await world.host.snapshot(blueprint, SnapshotId("s"), memory=False)


async def test_an_instance_is_reverted_when_its_process_is_gone(world: World) -> None:
    id = await world.create()
    blueprint = await plan(world, id)
    await world.host.snapshot(blueprint, SnapshotId("s"), memory=False)
    with pytest.raises(WrongState):
        await world.host.revert(blueprint, SnapshotId("s"))
    await world.host.kill(id)
    await world.host.revert(blueprint, SnapshotId("s"))
    await world.host.remove_snapshot(SnapshotId("s"))
    with pytest.raises(NotFound):
        await world.host.revert(blueprint, SnapshotId("s"))


async def test_a_snapshot_that_no_record_knows_is_swept(world: World) -> None:
    id = await world.create()
    for name in ("kept", "strange"):
        await world.host.snapshot(await plan(world, id), SnapshotId(name), memory=False)
    await world.host.sweep(frozenset({id}), frozenset(), frozenset({"kept"}))
    await world.host._storage.snapshot_size("kept")
    with pytest.raises(NotFound):
        await world.host._storage.snapshot_size("strange")


async def test_disks_are_compacted_now_and_then_whatever_comes_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    class Counting(FileStorage):
        async def compact(self) -> None:
            nonlocal calls
            calls += 1
            raise Internal("scripted")

    monkeypatch.setattr(upkeep, "COMPACT_EVERY", 0.01)
    paths = Paths(world.paths.root)
    job = Upkeep(paths, Counting(paths), {}, lambda id: None)
    job.start()
    try:
        async with asyncio.timeout(5):
            while calls < 3:
                await asyncio.sleep(0.01)
    finally:
        await job.close()
