"""Every change, disturbed at every step: refused there, the manager killed there, the undo disturbed as well.

Whatever happens, things settle, and then it is as if the change had been made or had never been asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from fault.world import ROOT, Trap, World
from polyvisor.engine.instances import Asked
from polyvisor.model.faults import NoCapacity
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance, Phase, Power
from polyvisor.model.operation import Outcome
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import STEPS, StepName

S = StepName


async def running(world: World) -> InstanceId:
    """One that runs."""
    return await world.create(name="it")


async def stopped(world: World) -> InstanceId:
    """One that ran and was stopped."""
    id = await running(world)
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    return id


async def paused(world: World) -> InstanceId:
    """One that is paused."""
    id = await running(world)
    await world.ask(world.engine.power.pause(ROOT, id))
    return id


async def with_volume(world: World) -> InstanceId:
    """One that runs, with a volume attached."""
    id = await running(world)
    await world.volume()
    await world.ask(world.engine.volumes.attach(ROOT, id, "data", path="/data"))
    return id


async def beside_volume(world: World) -> InstanceId:
    """One that runs, and a volume that is nobody's."""
    await world.volume()
    return await running(world)


async def nothing(world: World) -> InstanceId:
    """Nothing yet."""
    return InstanceId("")


@dataclass(frozen=True)
class Change:
    """What is asked of what, the steps it takes, and what each end looks like. `kept` steps fail without harm."""

    given: Callable[[World], Awaitable[InstanceId]]
    ask: Callable[[World, InstanceId], Awaitable[Asked]]
    steps: tuple[StepName, ...]
    after: Callable[[Instance], bool]
    refused: Callable[[Instance], bool]
    kept: frozenset[StepName] = frozenset()


def _is(*phases: Phase, mounts: int = 0) -> Callable[[Instance], bool]:
    return lambda i: i.observed.phase in phases and len(i.mounts) == mounts


CHANGES = {
    "create": Change(
        nothing, lambda w, _: w.engine.instances.create(ROOT, w.wanted(name="it")),
        (S.MAKE_DISKS, S.PLUG, S.LAUNCH), _is(Phase.RUNNING), _is(Phase.FAILED),
    ),
    "create without power": Change(
        nothing, lambda w, _: w.engine.instances.create(ROOT, w.wanted(name="it", power=Power.OFF)),
        (S.MAKE_DISKS,), _is(Phase.PREPARED), _is(Phase.FAILED),
    ),
    "create paused": Change(
        nothing, lambda w, _: w.engine.instances.create(ROOT, w.wanted(name="it", power=Power.PAUSED)),
        (S.MAKE_DISKS, S.PLUG, S.LAUNCH, S.PAUSE), _is(Phase.PAUSED), _is(Phase.FAILED),
    ),
    "start": Change(
        stopped, lambda w, id: w.engine.power.start(ROOT, id),
        (S.PLUG, S.LAUNCH), _is(Phase.RUNNING), _is(Phase.FAILED),
    ),
    "stop": Change(
        running, lambda w, id: w.engine.power.stop(ROOT, id),
        (S.PRESS, S.KILL, S.UNPLUG), _is(Phase.STOPPED), _is(Phase.FAILED), frozenset({S.PRESS, S.UNPLUG}),
    ),
    "stop of a paused one": Change(
        paused, lambda w, id: w.engine.power.stop(ROOT, id),
        (S.RESUME, S.PRESS, S.KILL, S.UNPLUG), _is(Phase.STOPPED), _is(Phase.FAILED),
        frozenset({S.RESUME, S.PRESS, S.UNPLUG}),
    ),
    "forced stop": Change(
        running, lambda w, id: w.engine.power.stop(ROOT, id, force=True),
        (S.KILL, S.UNPLUG), _is(Phase.STOPPED), _is(Phase.RUNNING, Phase.FAILED), frozenset({S.UNPLUG}),
    ),
    "restart": Change(
        running, lambda w, id: w.engine.power.restart(ROOT, id),
        (S.PRESS, S.KILL, S.PLUG, S.LAUNCH), _is(Phase.RUNNING), _is(Phase.FAILED),
        frozenset({S.PRESS}),
    ),
    "pause": Change(
        running, lambda w, id: w.engine.power.pause(ROOT, id), (S.PAUSE,), _is(Phase.PAUSED), _is(Phase.RUNNING)
    ),
    "resume": Change(
        paused, lambda w, id: w.engine.power.resume(ROOT, id), (S.RESUME,), _is(Phase.RUNNING),
        _is(Phase.RUNNING, Phase.PAUSED),
    ),
    "reset": Change(
        running, lambda w, id: w.engine.power.reset(ROOT, id), (S.RESET,), _is(Phase.RUNNING), _is(Phase.RUNNING)
    ),
    "attach": Change(
        beside_volume, lambda w, id: w.engine.volumes.attach(ROOT, id, "data", path="/data"),
        (S.ATTACH,), _is(Phase.RUNNING, mounts=1), _is(Phase.RUNNING),
    ),
    "detach": Change(
        with_volume, lambda w, id: w.engine.volumes.detach(ROOT, id, "data"),
        (S.DETACH,), _is(Phase.RUNNING), _is(Phase.RUNNING, mounts=1),
    ),
}  # fmt: skip
DELETES = {
    "delete": running,
    "delete of a stopped one": stopped,
    "delete with a volume": with_volume,
}
POINTS = [(name, step) for name, change in CHANGES.items() for step in change.steps]


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_takes_these_steps(name: str, world: World) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    world.log.clear()
    operation = await world.ask(change.ask(world, id))
    assert operation.outcome is Outcome.DONE
    assert change.after(await world.get(operation.instance))
    assert tuple(step for when, step in world.log if when == "before") == change.steps
    await world.check(operation.instance)


async def assert_refused(world: World, change: Change, step: StepName, id: InstanceId) -> None:
    """It failed and is as before, or that step was not needed and it went on."""
    if step in change.kept:
        await world.noted(id, S.PRESS)
        await world.later(60, id)
    instance = await world.settled(id)
    assert instance is not None
    latest = (await world.operations(id))[0]
    assert latest.outcome is (Outcome.DONE if step in change.kept else Outcome.FAILED)
    if latest.outcome is Outcome.FAILED:
        assert (latest.fault_kind, latest.fault) == ("NoCapacity", "scripted")
    assert (change.after if step in change.kept else change.refused)(instance)
    await world.check(id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "step"), POINTS)
async def test_a_refused_step_is_taken_back(name: str, step: StepName, when: str, world: World) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    world.traps.append(Trap(when, step, NoCapacity("scripted")))
    asked = await change.ask(world, id)
    await assert_refused(world, change, step, asked.instance.id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "step"), POINTS)
async def test_a_manager_killed_at_a_step_is_followed_by_one_that_finishes(
    name: str, step: StepName, when: str, world: World
) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    world.traps.append(Trap(when, step, Crash()))
    asked = await change.ask(world, id)
    await world.reborn()
    instance = await world.settled(asked.instance.id)
    assert instance is not None
    assert change.after(instance)
    assert (await world.operations(instance.id))[0].outcome is Outcome.DONE
    await world.check(instance.id)


@pytest.mark.parametrize("what", [NoCapacity("the undo is refused too"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["undo", "undone"])
@pytest.mark.parametrize(("name", "step"), [p for p in POINTS if STEPS[p[1]].undo])
async def test_an_undo_that_is_disturbed_is_done_to_its_end(
    name: str, step: StepName, when: str, what: BaseException, world: World
) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    last = change.steps[-1]
    world.traps += [Trap("after", last, NoCapacity("scripted")), Trap(when, step, what)]
    asked = await change.ask(world, id)
    if isinstance(what, Crash):
        await world.reborn()
    await assert_refused(world, change, last, asked.instance.id)


@pytest.mark.parametrize("what", [NoCapacity("scripted"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [S.KILL, S.UNPLUG, S.REMOVE_DISKS])
@pytest.mark.parametrize("name", DELETES)
async def test_a_delete_only_goes_forward(
    name: str, step: StepName, when: str, what: BaseException, world: World
) -> None:
    id = await DELETES[name](world)
    if step is S.KILL and name == "delete of a stopped one":
        pytest.skip("there is nothing to kill")
    world.traps.append(Trap(when, step, what))
    await world.engine.power.delete(ROOT, id)
    if isinstance(what, Crash):
        await world.reborn()
    assert await world.until(id, lambda i: False) is None
    await world.check(id)
    assert (await world.operations(id))[0].outcome is Outcome.DONE
    if name == "delete with a volume":
        assert (await world.engine.volumes.get(ROOT, "data")).attached == ()


@pytest.mark.parametrize(("name", "step"), POINTS)
async def test_a_delete_ends_whatever_is_under_way(name: str, step: StepName, world: World) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    world.log.clear()
    world.knob.delay = dict.fromkeys(("launch", "press", "kill", "pause", "resume", "reset", "attach", "detach"), 0.05)
    asked = await change.ask(world, id)
    id = asked.instance.id
    await world.reached(step)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    await world.check(id)
