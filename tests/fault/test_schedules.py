"""Schedules: snapshots by the clock, which tests drive."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from fault.world import ROOT, Trap, World
from polyvisor.model.faults import Fault, Invalid, NoCapacity, NotFound
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Phase
from polyvisor.model.operation import Outcome, Verb
from polyvisor.model.snapshot import Schedule, Snapshot, SnapshotKind, check_schedule
from polyvisor.model.units import Seconds
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName


async def run(world: World, id: InstanceId, seconds: float) -> Schedule:
    """Time passes, and the clock is heeded until nothing is under way."""
    world.offset += timedelta(seconds=seconds)
    await world.engine.schedules.tick()
    await world.settled(id)
    await world.engine.schedules.tick()
    return await world.engine.schedules.get(ROOT, id)


def names(found: list[Snapshot]) -> list[str]:
    """In the order of their making."""
    return [snapshot.name for snapshot in found]


async def test_a_schedule_takes_snapshots_and_keeps_the_newest(world: World) -> None:
    id = await world.create(name="web")
    own = await world.snapshot(id, "own")
    first = await world.engine.schedules.set(ROOT, id, Seconds(3600.0), max_count=2)
    assert (await run(world, id, 3599)).last_run is None
    for n in range(1, 5):
        told = await run(world, id, 3600)
        assert (told.last_error, told.operation) == ("", None)
        assert told.next_run == first.next_run + timedelta(hours=n)
    found = await world.snapshots()
    assert [s.scheduled for s in found] == [False, True, True]
    assert found[0] == own
    assert found[-1].id == told.last_snapshot
    assert all(name.startswith("web-2") and name.endswith("Z") for name in names(found)[1:])
    await world.check(id)


async def test_what_became_of_a_run_is_told_as_soon_as_it_is_over(world: World) -> None:
    id = await world.create()
    await world.engine.schedules.set(ROOT, id, Seconds(60.0))
    world.offset += timedelta(seconds=61)
    await world.engine.schedules.tick()
    await world.settled(id)
    told = await world.engine.schedules.get(ROOT, id)
    assert [told.last_snapshot] == [snapshot.id for snapshot in await world.snapshots()]


async def test_what_was_missed_while_the_server_was_down_is_not_made_up_for(world: World) -> None:
    id = await world.create()
    first = await world.engine.schedules.set(ROOT, id, Seconds(60.0))
    await world.end()
    world.offset += timedelta(seconds=60 * 10 + 5)
    await world.begin()
    told = await run(world, id, 0)
    assert told.next_run == first.next_run + timedelta(seconds=600)
    assert len(await world.snapshots()) == 1
    await run(world, id, 30)
    assert len(await world.snapshots()) == 1


async def test_snapshots_go_when_they_are_too_old_and_only_those_of_the_schedule(world: World) -> None:
    id = await world.create()
    await world.snapshot(id, "own")
    await world.engine.schedules.set(ROOT, id, Seconds(60.0), max_age=Seconds(90.0))
    await run(world, id, 61)
    await run(world, id, 60)
    assert len(await world.snapshots()) == 3
    await run(world, id, 60)
    assert [s.scheduled for s in await world.snapshots()] == [False, True, True]
    await world.engine.schedules.remove(ROOT, id)
    world.offset += timedelta(days=1)
    assert await world.engine.schedules.tick() == 0
    assert len(await world.snapshots()) == 3


async def test_a_run_that_cannot_be_is_told_and_the_next_one_is_made(world: World) -> None:
    id = await world.create()
    await world.engine.schedules.set(ROOT, id, Seconds(60.0), SnapshotKind.FULL)
    world.memory(id).unlink()  # as of a machine that there was no room for
    told = await run(world, id, 61)
    assert "memory" in told.last_error
    assert (told.last_snapshot, told.operation) == (None, None)
    await world.engine.schedules.set(ROOT, id, Seconds(60.0))
    world.traps.append(Trap("after", StepName.SNAPSHOT, NoCapacity("full")))
    told = await run(world, id, 61)
    assert (told.last_error, told.last_snapshot) == ("full", None)
    told = await run(world, id, 61)
    assert told.last_error == ""
    assert [s.id for s in await world.snapshots()] == [told.last_snapshot]
    await world.check(id)


async def test_an_instance_in_no_fit_state_is_left_out_until_it_is(world: World) -> None:
    world.knob.fail["launch"] = [NoCapacity("full")]
    id = await world.create()
    await world.phase(id, Phase.FAILED)
    first = await world.engine.schedules.set(ROOT, id, Seconds(60.0))
    told = await run(world, id, 61)
    assert (told.last_error, told.next_run) == (
        "cannot snapshot an instance that is failed", first.next_run + timedelta(seconds=60),
    )  # fmt: skip
    assert (await world.ask(world.engine.power.start(ROOT, id))).outcome is Outcome.DONE
    assert (await run(world, id, 61)).last_error == ""


async def test_a_run_waits_for_another_operation_but_not_for_ever(world: World) -> None:
    id = await world.create()
    first = await world.engine.schedules.set(ROOT, id, Seconds(600.0))
    world.knob.stubborn.add(id)
    await world.engine.power.stop(ROOT, id, grace=Seconds(3600.0))
    world.offset += timedelta(seconds=601)
    await world.engine.schedules.tick()
    told = await world.engine.schedules.get(ROOT, id)
    assert told.next_run == first.next_run
    assert "stopping" in told.last_error
    world.offset += timedelta(seconds=60)
    await world.engine.schedules.tick()
    assert (await world.engine.schedules.get(ROOT, id)).next_run == first.next_run + timedelta(seconds=600)
    assert await world.snapshots() == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_run_whose_manager_dies_is_finished_once_by_the_next(when: str, world: World) -> None:
    id = await world.create()
    await world.engine.schedules.set(ROOT, id, Seconds(60.0))
    world.traps.append(Trap(when, StepName.SNAPSHOT, Crash()))
    world.offset += timedelta(seconds=61)
    await world.engine.schedules.tick()
    await world.reborn()
    told = await run(world, id, 0)
    assert [s.id for s in await world.snapshots()] == [told.last_snapshot]
    assert [o.verb for o in await world.operations(id)].count(Verb.SNAPSHOT) == 1
    await world.check(id)


async def test_a_schedule_goes_with_its_instance_and_its_snapshots_stay(world: World) -> None:
    id = await world.create()
    await world.engine.schedules.set(ROOT, id, Seconds(60.0), max_count=1)
    await run(world, id, 61)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    assert await world.engine.schedules.tick() == 0
    assert len(await world.snapshots()) == 1
    with pytest.raises(NotFound):
        await world.engine.schedules.get(ROOT, id)


async def test_the_same_schedule_set_again_keeps_its_time(world: World) -> None:
    id = await world.create()
    engine = world.engine.schedules
    first = await engine.set(ROOT, id, Seconds(3600.0))
    world.offset += timedelta(seconds=100)
    again = await engine.set(ROOT, id, Seconds(3600.0), max_count=3)
    assert (again.next_run, again.max_count) == (first.next_run, 3)
    assert (await engine.set(ROOT, id, Seconds(60.0))).next_run > first.next_run - timedelta(seconds=3500)
    for age, count, field in ((1.0, None, "max_age"), (None, 0, "max_count")):
        with pytest.raises(Invalid) as refused:
            check_schedule(Seconds(60.0), None if age is None else Seconds(age), count)
        assert refused.value.field == field
    with pytest.raises(Invalid, match="interval"):
        await engine.set(ROOT, id, Seconds(1.0))
    with pytest.raises(Fault):
        await engine.set(ROOT, "nope", Seconds(60.0))


async def test_one_that_takes_what_there_is_keeps_memory_of_what_runs(world: World) -> None:
    id = await world.create(name="web")
    kept = Foreign("somebody", '{"k":"v"}')
    set = world.engine.schedules.set
    told = await set(ROOT, id, Seconds(60.0), None, max_count=9, prefix="nightly", foreign=kept)
    assert told.created == told.updated
    await run(world, id, 61)
    await world.engine.power.stop(ROOT, id, force=True)
    await world.settled(id)
    await run(world, id, 61)
    found = await world.snapshots()
    assert [s.kind for s in found] == [SnapshotKind.FULL, SnapshotKind.DISK]
    assert all(re.fullmatch(r"nightly-\d{8}-\d{6}", s.name) for s in found)
    ids = [s.id for s in found]
    remainders = await world.engine.foreigners.remainders("somebody", ids)
    assert remainders == dict.fromkeys(ids, kept.remainder)
    again = await set(ROOT, id, Seconds(60.0), None)
    assert (again.created, again.prefix, again.foreign) == (told.created, "", None)
    assert again.updated is not None and told.updated is not None and again.updated > told.updated
