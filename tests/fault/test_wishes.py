"""Wishes that cross, lifetimes, and volumes."""

from __future__ import annotations

import asyncio

import pytest

from fault.world import LIMIT, ROOT, Trap, World
from polyvisor.engine.instances import Until
from polyvisor.model.faults import Busy, NoCapacity, NotFound, Stale, TimedOut, WrongState
from polyvisor.model.host import Sight
from polyvisor.model.instance import Mount, MountState, Phase, Power
from polyvisor.model.operation import Outcome
from polyvisor.model.units import MIB, Bytes, Seconds
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import STEPS, StepName

# -- wishes that cross -----------------------------------------------------------------------------------------------


async def test_a_stubborn_guest_is_asked_first_and_ended_at_the_limit(world: World) -> None:
    id = await world.create()
    world.knob.stubborn.add(id)
    asked = await world.engine.power.stop(ROOT, id)
    await world.noted(id, StepName.PRESS)
    await world.later(29, id)
    await world.quiet_or_waiting(id)
    assert (await world.get(id)).observed.phase is Phase.RUNNING
    await world.later(2, id)
    assert asked.operation is not None
    assert (await world.waits.finished(id, asked.operation, LIMIT)).outcome is Outcome.DONE
    await world.check(id)


async def test_asking_again_does_not_put_the_limit_off_and_force_shortens_it(world: World) -> None:
    id = await world.create()
    world.knob.stubborn.add(id)
    first = await world.engine.power.stop(ROOT, id)
    await world.noted(id, StepName.PRESS)
    again = await world.engine.power.stop(ROOT, id)
    assert again.operation == first.operation
    waiting = asyncio.create_task(world.engine.instances.settle(first, Until.LAUNCHED, LIMIT))
    forced = await world.ask(world.engine.power.stop(ROOT, id, force=True))
    assert forced.outcome is Outcome.DONE
    assert (await waiting).observed.phase is Phase.STOPPED
    assert [o.outcome for o in await world.operations(id)][:2] == [Outcome.DONE, Outcome.SUPERSEDED]
    await world.check(id)


async def test_a_stop_while_starting_wins_and_the_start_is_told(world: World) -> None:
    id = await world.create(power=Power.OFF)
    world.knob.delay["launch"] = 0.05
    start = await world.engine.power.start(ROOT, id)
    waiting = asyncio.create_task(world.engine.instances.settle(start, Until.LAUNCHED, LIMIT))
    await world.reached(StepName.LAUNCH)
    assert (await world.ask(world.engine.power.stop(ROOT, id, force=True))).outcome is Outcome.DONE
    with pytest.raises(Stale):
        await waiting
    await world.check(id)
    assert (await world.get(id)).observed.phase is Phase.STOPPED


async def test_a_start_while_stopping_is_busy(world: World) -> None:
    id = await world.create()
    world.knob.stubborn.add(id)
    await world.engine.power.stop(ROOT, id)
    with pytest.raises(Busy):
        await world.engine.power.start(ROOT, id)


async def test_only_ending_may_cut_short_what_is_under_way(world: World) -> None:
    id = await world.create()
    await world.volume()
    world.knob.delay["attach"] = 0.1
    asked = await world.engine.volumes.attach(ROOT, id, "data")
    power = world.engine.power
    for verb in (power.pause, power.reset, power.restart):
        with pytest.raises(Busy):
            await verb(ROOT, id)
    with pytest.raises(Busy):
        await world.engine.volumes.detach(ROOT, id, "data")
    assert asked.operation is not None
    assert (await world.waits.finished(id, asked.operation, LIMIT)).outcome is Outcome.DONE


@pytest.mark.parametrize("verb", ["attach", "detach"])
async def test_a_stop_during_an_attach_or_detach_keeps_the_claim(verb: str, world: World) -> None:
    id = await world.create()
    volume = await world.volume()
    if verb == "detach":
        await world.ask(world.engine.volumes.attach(ROOT, id, "data"))
    world.knob.delay[verb] = 0.05
    await getattr(world.engine.volumes, verb)(ROOT, id, "data")
    await world.reached(StepName(verb))
    assert (await world.ask(world.engine.power.stop(ROOT, id, force=True))).outcome is Outcome.DONE
    await world.check(id)
    found = await world.get(id)
    assert [(m.volume, m.state) for m in found.mounts] == [(volume.id, MountState.ATTACHED)]
    await world.ask(world.engine.volumes.detach(ROOT, id, "data"))
    assert (await world.get(id)).mounts == ()


async def test_a_machine_that_ends_before_its_pause_is_stopped_and_the_pause_failed(world: World) -> None:
    id = await world.create()
    world.traps.append(Trap("before", StepName.PAUSE, Crash()))
    await world.engine.power.pause(ROOT, id)
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    world.vm(id).set(Sight.ENDED)
    await world.again()
    await world.phase(id, Phase.STOPPED)
    await world.check(id)
    last = (await world.operations(id))[0]
    assert (last.outcome, last.fault_kind) == (Outcome.FAILED, "WrongState")


async def test_a_machine_that_ends_while_paused_is_not_booted_by_a_resume(world: World) -> None:
    id = await world.create()
    await world.ask(world.engine.power.pause(ROOT, id))
    world.traps.append(Trap("before", StepName.RESUME, Crash()))
    await world.engine.power.resume(ROOT, id)
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    world.vm(id).set(Sight.GONE)
    await world.again()
    found = await world.phase(id, Phase.STOPPED)
    assert found.observed.incarnation == 1
    assert (await world.operations(id))[0].outcome is Outcome.FAILED
    await world.check(id)


async def test_a_machine_that_ends_before_its_reset_is_not_said_to_be_reset(world: World) -> None:
    id = await world.create()
    world.traps.append(Trap("before", StepName.RESET, Crash()))
    await world.engine.power.reset(ROOT, id)
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    world.vm(id).set(Sight.ENDED)
    await world.again()
    await world.phase(id, Phase.STOPPED)
    assert (await world.operations(id))[0].outcome is Outcome.FAILED
    await world.check(id)


async def test_a_guest_that_is_not_ready_can_be_paused_and_resumed(world: World) -> None:
    id = await world.create()
    for _ in range(3):
        assert (await world.ask(world.engine.power.pause(ROOT, id))).outcome is Outcome.DONE
        assert (await world.ask(world.engine.power.resume(ROOT, id))).outcome is Outcome.DONE
    found = await world.until(id, lambda i: i.observed.ready)
    assert found is not None
    await world.check(id)


# -- lifetimes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["running", "paused", "stopped", "starting", "stopping", "deaf", "failed"])
async def test_a_lifetime_ends_in_any_state(state: str, world: World) -> None:
    if state == "failed":
        world.knob.fail["launch"] = [NoCapacity("full")]
    id = await world.create(lifetime=Seconds(60.0))
    power = world.engine.power
    if state in ("paused", "stopped"):
        await world.ask(power.pause(ROOT, id) if state == "paused" else power.stop(ROOT, id))
    if state == "starting":
        await world.ask(power.stop(ROOT, id))
        world.knob.delay["launch"] = 0.05
        world.log.clear()
        await power.start(ROOT, id)
        await world.reached(StepName.LAUNCH)
    if state == "stopping":
        world.knob.stubborn.add(id)
        await power.stop(ROOT, id)
    if state == "deaf":
        world.knob.deaf.add(id)
        world.reconciler.wake(id)
        await world.phase(id, Phase.LOST)
    assert await world.engine.endings.expire() == 0
    await world.later(61, id)
    assert await world.engine.endings.expire() == 1
    assert await world.until(id, lambda i: False) is None
    await world.check(id)


# -- volumes ---------------------------------------------------------------------------------------------------------


async def test_a_deleted_instance_gives_its_volumes_back(world: World) -> None:
    volume = await world.volume()
    mounts = await world.engine.volumes.resolve(ROOT, [Mount(volume.id, "", "/data")])
    id = await world.create(mounts=mounts)
    assert world.vm(id).disks() == {volume.id[:20]}
    with pytest.raises(Busy):
        await world.engine.volumes.delete(ROOT, "data")
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    await world.engine.volumes.delete(ROOT, "data")
    with pytest.raises(NotFound):
        await world.engine.volumes.get(ROOT, "data")


async def test_a_create_that_failed_keeps_its_claim_until_it_is_started_or_deleted(world: World) -> None:
    volume = await world.volume()
    mounts = await world.engine.volumes.resolve(ROOT, [Mount(volume.id, "", "/data")])
    world.knob.fail["launch"] = [NoCapacity("full")]
    id = await world.create(mounts=mounts)
    assert (await world.get(id)).observed.phase is Phase.FAILED
    await world.check(id)
    assert (await world.ask(world.engine.power.start(ROOT, id))).outcome is Outcome.DONE
    assert world.vm(id).disks() == {volume.id[:20]}


async def test_a_volume_is_attached_to_and_detached_from_a_stopped_instance(world: World) -> None:
    id, volume = await world.create(power=Power.OFF), await world.volume()
    assert (await world.ask(world.engine.volumes.attach(ROOT, id, "data"))).outcome is Outcome.DONE
    await world.ask(world.engine.power.start(ROOT, id))
    assert world.vm(id).disks() == {volume.id[:20]}
    await world.ask(world.engine.power.stop(ROOT, id))
    assert (await world.ask(world.engine.volumes.detach(ROOT, id, "data"))).outcome is Outcome.DONE
    await world.ask(world.engine.power.start(ROOT, id))
    assert world.vm(id).disks() == frozenset()
    await world.check(id)


async def test_an_attach_to_a_guest_without_a_free_slot_is_undone(world: World) -> None:
    id = await world.create()
    for n in range(5):
        await world.volume(f"v{n}")
    outcomes = [(await world.ask(world.engine.volumes.attach(ROOT, id, f"v{n}"))).outcome for n in range(5)]
    assert outcomes == [Outcome.DONE] * 4 + [Outcome.FAILED]
    assert (await world.engine.volumes.get(ROOT, "v4")).attached == ()
    await world.check(id)


async def test_a_guest_that_does_not_let_go_keeps_its_disk(world: World) -> None:
    id, volume = await world.create(), await world.volume()
    await world.ask(world.engine.volumes.attach(ROOT, id, "data", path="/data"))
    world.knob.fail["detach"] = [TimedOut("busy")]
    assert (await world.ask(world.engine.volumes.detach(ROOT, id, "data"))).outcome is Outcome.FAILED
    assert (await world.get(id)).mounts[0].state is MountState.ATTACHED
    guest = await world.vm(id).guest()
    assert guest.mounts == {"/data": volume.id[:20]}


async def test_resizes_of_one_volume_at_once_leave_the_largest(world: World) -> None:
    id = await world.create()
    await world.volume()
    await world.ask(world.engine.volumes.attach(ROOT, id, "data"))
    sizes = [Bytes(n * 64 * MIB) for n in (5, 2, 9, 3, 8)]
    answers = await asyncio.gather(
        *(world.engine.volumes.resize(ROOT, "data", size) for size in sizes), return_exceptions=True
    )
    assert (await world.engine.volumes.get(ROOT, "data")).size == max(sizes)
    assert sum(not isinstance(a, BaseException) for a in answers) >= 2


async def test_a_step_done_twice_or_undone_twice_is_done_once(world: World) -> None:
    id = await world.create(power=Power.OFF)
    work = world.reconciler.runner.work(await world.get(id), None)
    for name in (StepName.MAKE_DISKS, StepName.PLUG, StepName.LAUNCH, StepName.PAUSE, StepName.RESUME, StepName.RESET):
        for _ in range(2):
            await STEPS[name].do(work)
    assert len(world.hypervisor.find()) == 1
    for name in (StepName.PAUSE, StepName.LAUNCH, StepName.PLUG, StepName.MAKE_DISKS):
        for _ in range(2):
            undo = STEPS[name].undo
            assert undo is not None
            if not (name is StepName.PAUSE and not world.hypervisor.find()):
                await undo(work)
    assert world.hypervisor.find() == []
    assert not world.paths.instance(id).exists()


async def test_a_deleted_instance_is_not_there_for_anybody(world: World) -> None:
    id = await world.create(name="it")
    asked = await world.engine.power.delete(ROOT, id)
    again = await world.engine.power.delete(ROOT, id)
    assert again.operation == asked.operation
    with pytest.raises(WrongState):
        await world.engine.power.start(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    world.reconciler.wake(id)
    with pytest.raises(NotFound):
        await world.engine.power.start(ROOT, "it")
    await world.check(id)
