"""What is to be kept of an instance is kept, whoever dies in between; and what cannot be kept is not lost."""

from __future__ import annotations

import asyncio

import pytest

from fault.world import LIMIT, ROOT, Trap, World
from polyvisor.model.ending import Ending
from polyvisor.model.faults import Invalid, NoCapacity, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Phase
from polyvisor.model.snapshot import Snapshot
from polyvisor.model.units import Seconds
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName

pytestmark = pytest.mark.asyncio
SNAPSHOT = Ending(snapshot=True, name="last")


async def ends(world: World) -> None:
    """Let what has come to its end be ended."""
    await world.engine.endings.expire()
    async with asyncio.timeout(LIMIT):
        while tasks := list(world.engine.endings._under_way.values()):
            await asyncio.gather(*tasks)


async def gone(world: World, id: InstanceId) -> list[Snapshot]:
    """It is; and what is left of it."""
    assert await world.until(id, lambda _: False) is None
    await world.check(id)
    return list((await world.engine.snapshots.list(ROOT, None, 100)).items)


async def test_a_snapshot_is_there_before_it_is_gone(world: World) -> None:
    id = await world.create(ending=SNAPSHOT, lifetime=Seconds(60.0))
    await ends(world)
    assert (await world.get(id)).observed.phase is Phase.RUNNING  # not yet
    await world.later(61, id)
    await ends(world)
    assert [(one.name, one.source) for one in await gone(world, id)] == [("last", id)]
    other = await world.create(ending=SNAPSHOT)
    await world.ask(world.engine.endings.end(ROOT, other))  # its owner does not wait; the name is taken
    assert [one.name for one in await gone(world, other)] == ["last", f"last-{other[:12]}"]
    plain = await world.create()
    await world.ask(world.engine.endings.end(ROOT, plain))
    assert len(await gone(world, plain)) == 2
    with pytest.raises(NotFound):
        await world.engine.endings.end(ROOT, plain)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_server_that_dies_over_it_takes_one_snapshot(world: World, when: str) -> None:
    id = await world.create(ending=SNAPSHOT, lifetime=Seconds(60.0))
    world.traps.append(Trap(when, StepName.SNAPSHOT, Crash()))
    await world.later(61, id)
    await world.engine.endings.expire()
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    await world.engine.endings.close()
    await world.again()
    await world.settled(id)
    await ends(world)
    assert len(await gone(world, id)) == 1


async def test_one_whose_time_came_while_no_server_was_there(world: World) -> None:
    id = await world.create(ending=SNAPSHOT, lifetime=Seconds(60.0))
    await world.end()
    await world.begin()
    await world.later(61, id)
    await ends(world)
    assert len(await gone(world, id)) == 1


async def test_what_cannot_be_kept_is_not_lost(world: World) -> None:
    id = await world.create(ending=SNAPSHOT, lifetime=Seconds(60.0))
    world.traps.append(Trap("before", StepName.SNAPSHOT, NoCapacity(), times=2))
    with pytest.raises(NoCapacity):
        await world.engine.endings.end(ROOT, id)
    assert (await world.get(id)).observed.phase is Phase.RUNNING  # its owner was told, and may try again
    await world.later(61, id)
    await ends(world)
    assert (found := await world.settled(id))
    assert (found.observed.phase, found.intent.expires) == (Phase.STOPPED, None)
    await world.check(id)


async def test_one_that_is_to_go_into_standby_has_no_end_there(world: World) -> None:
    id = await world.create(ending=Ending(suspend=True, snapshot=True), lifetime=Seconds(60.0))
    await world.later(61, id)
    await ends(world)
    assert (found := await world.settled(id))
    assert (found.observed.phase, found.intent.expires) == (Phase.SUSPENDED, None)
    await world.engine.instances.update(ROOT, id, ending=Ending(), lifetime=Seconds(5.0))
    await world.later(6, id)
    await ends(world)
    assert await gone(world, id) == []


async def test_a_snapshot_must_have_a_name_that_can_be(world: World) -> None:
    with pytest.raises(Invalid) as refused:
        await world.create(ending=Ending(snapshot=True, name="no name"))
    assert refused.value.field == "ending.name"
