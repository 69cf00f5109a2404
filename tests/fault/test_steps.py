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
from polyvisor.model.instance import Ended, Instance, Phase, Power
from polyvisor.model.operation import Outcome
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind
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


async def suspended(world: World) -> InstanceId:
    """One that waits in its memory."""
    id = await running(world)
    await world.ask(world.engine.power.suspend(ROOT, id))
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


async def with_snapshot(world: World) -> InstanceId:
    """A stopped one that went on since its snapshot was taken."""
    id = await stopped(world)
    await world.snapshot(id)
    return id


async def another(world: World) -> InstanceId:
    """A snapshot of another one."""
    await world.snapshot(await world.create(name="other"))
    return InstanceId("")


async def with_memory(world: World) -> InstanceId:
    """One that runs, and a snapshot of it with memory."""
    id = await running(world)
    world.vm(id)._guest.files["/then"] = b"kept"
    await world.snapshot(id, kind=SnapshotKind.FULL)
    world.vm(id)._guest.files.clear()
    world.may_be_saved = {Phase.STOPPED}
    return id


async def before_memory(world: World) -> InstanceId:
    """One that was stopped and can go back to what it had in memory."""
    id = await with_memory(world)
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    return id


async def back_in_memory(world: World) -> InstanceId:
    """A stopped one that went back to what it had in memory."""
    id = await before_memory(world)
    await world.ask(world.engine.snapshots.revert(ROOT, id, "snap"))
    return id


async def another_with_memory(world: World) -> InstanceId:
    """A snapshot with the memory of another one, which is gone."""
    id = await with_memory(world)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    return InstanceId("")


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
    snapshots: tuple[int, int] = (0, 0)  # how many there are when it is done, and when it is refused


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
    "suspend": Change(
        running, lambda w, id: w.engine.power.suspend(ROOT, id), (S.SUSPEND, S.UNPLUG), _is(Phase.SUSPENDED),
        _is(Phase.RUNNING, Phase.SUSPENDED), frozenset({S.UNPLUG}),
    ),
    "suspend of a paused one": Change(
        paused, lambda w, id: w.engine.power.suspend(ROOT, id), (S.SUSPEND, S.UNPLUG), _is(Phase.SUSPENDED),
        _is(Phase.PAUSED, Phase.SUSPENDED), frozenset({S.UNPLUG}),
    ),
    "restore": Change(
        suspended, lambda w, id: w.engine.power.resume(ROOT, id), (S.RESTORE,), _is(Phase.RUNNING),
        _is(Phase.SUSPENDED, Phase.FAILED),
    ),
    "start of a suspended one": Change(
        suspended, lambda w, id: w.engine.power.start(ROOT, id), (S.RESTORE,), _is(Phase.RUNNING),
        _is(Phase.SUSPENDED, Phase.FAILED),
    ),
    "stop of a suspended one": Change(
        suspended, lambda w, id: w.engine.power.stop(ROOT, id), (S.DISCARD, S.UNPLUG), _is(Phase.STOPPED),
        _is(Phase.SUSPENDED, Phase.FAILED), frozenset({S.DISCARD, S.UNPLUG}),
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
    "snapshot": Change(
        running, lambda w, id: w.snapshot_of(id),
        (S.SNAPSHOT,), _is(Phase.RUNNING), _is(Phase.RUNNING), snapshots=(1, 0),
    ),
    "snapshot of a paused one": Change(
        paused, lambda w, id: w.snapshot_of(id),
        (S.SNAPSHOT,), _is(Phase.PAUSED), _is(Phase.PAUSED), snapshots=(1, 0),
    ),
    "snapshot of a stopped one": Change(
        stopped, lambda w, id: w.snapshot_of(id),
        (S.SNAPSHOT,), _is(Phase.STOPPED), _is(Phase.STOPPED), snapshots=(1, 0),
    ),
    "revert": Change(
        with_snapshot, lambda w, id: w.engine.snapshots.revert(ROOT, id, "snap"),
        (S.REVERT,), _is(Phase.STOPPED), _is(Phase.STOPPED), snapshots=(1, 1),
    ),
    "snapshot with memory": Change(
        running, lambda w, id: w.snapshot_of(id, kind=SnapshotKind.FULL),
        (S.SNAPSHOT,), _is(Phase.RUNNING), _is(Phase.RUNNING), snapshots=(1, 0),
    ),
    "snapshot with memory of a paused one": Change(
        paused, lambda w, id: w.snapshot_of(id, kind=SnapshotKind.FULL),
        (S.SNAPSHOT,), _is(Phase.PAUSED), _is(Phase.PAUSED), snapshots=(1, 0),
    ),
    "snapshot with memory of a suspended one": Change(
        suspended, lambda w, id: w.snapshot_of(id, kind=SnapshotKind.FULL),
        (S.SNAPSHOT,), _is(Phase.SUSPENDED), _is(Phase.SUSPENDED), snapshots=(1, 0),
    ),
    "revert to memory": Change(
        before_memory, lambda w, id: w.engine.snapshots.revert(ROOT, id, "snap"),
        (S.REVERT,), _is(Phase.STOPPED), _is(Phase.STOPPED), snapshots=(1, 1),
    ),
    "start after a revert to memory": Change(
        back_in_memory, lambda w, id: w.engine.power.start(ROOT, id),
        (S.RESTORE,), _is(Phase.RUNNING), _is(Phase.SUSPENDED, Phase.FAILED), snapshots=(1, 1),
    ),
    "create from a snapshot with memory": Change(
        another_with_memory, lambda w, _: w.engine.instances.create(ROOT, Create(name="new", snapshot="snap")),
        (S.MAKE_DISKS, S.RESTORE), _is(Phase.RUNNING), _is(Phase.FAILED), snapshots=(1, 1),
    ),
    "create from a snapshot": Change(
        another, lambda w, _: w.engine.instances.create(ROOT, Create(name="it", snapshot="snap")),
        (S.MAKE_DISKS, S.PLUG, S.LAUNCH), _is(Phase.RUNNING), _is(Phase.FAILED), snapshots=(1, 1),
    ),
}  # fmt: skip
DELETES = {
    "delete": running,
    "delete of a stopped one": stopped,
    "delete of a suspended one": suspended,
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
    await world.check_snapshots()
    assert len(await world.snapshots()) == change.snapshots[0]


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
    await world.check_snapshots()
    assert len(await world.snapshots()) == change.snapshots[step not in change.kept]


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
    await world.check_snapshots()
    assert len(await world.snapshots()) == change.snapshots[0]


@pytest.mark.parametrize("what", [NoCapacity("the undo is refused too"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["undo", "undone"])
@pytest.mark.parametrize(("name", "step"), [p for p in POINTS if STEPS[p[1]].undo and not p[0].startswith("suspend")])
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


@pytest.mark.parametrize(
    "what", [None, NoCapacity("the undo is refused too"), Crash()], ids=["well", "refused", "killed"]
)
@pytest.mark.parametrize("given", [running, paused])
async def test_memory_that_cannot_be_saved_leaves_the_machine_as_it_was(
    given: Callable[[World], Awaitable[InstanceId]], what: BaseException | None, world: World
) -> None:
    id = await given(world)
    phase = (await world.get(id)).observed.phase
    world.knob.fail["save"] = [NoCapacity("scripted")]
    if what is not None:
        world.traps.append(Trap("undo", S.SUSPEND, what))
    await world.engine.power.suspend(ROOT, id)
    if isinstance(what, Crash):
        await world.reborn()
    instance = await world.settled(id)
    assert instance is not None
    assert instance.observed.phase is phase
    assert (await world.operations(id))[0].fault == "scripted"
    await world.check(id)


async def test_memory_that_was_not_on_disk_when_the_host_went_down_leaves_it_stopped(world: World) -> None:
    id = await running(world)
    world.host._memory_files.flush_soon = lambda id: None  # type: ignore[method-assign]
    await world.ask(world.engine.power.suspend(ROOT, id))
    await world.reboot()
    instance = await world.settled(id)
    assert instance is not None
    assert (instance.observed.phase, instance.observed.ended) == (Phase.STOPPED, Ended(reason="host-restart"))
    await world.check(id)


async def test_memory_on_disk_outlives_the_host(world: World) -> None:
    id = await suspended(world)
    for task in list(world.host._memory_files._flusher._tasks.values()):
        await task
    await world.reboot()
    assert (await world.get(id)).observed.phase is Phase.SUSPENDED
    await world.ask(world.engine.power.resume(ROOT, id))
    await world.phase(id, Phase.RUNNING)
    await world.check(id)


@pytest.mark.parametrize("name", ["start after a revert to memory", "create from a snapshot with memory"])
async def test_what_is_made_of_memory_goes_on_where_that_was(name: str, world: World) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    operation = await world.ask(change.ask(world, id))
    assert world.vm(operation.instance)._guest.files["/then"] == b"kept"


@pytest.mark.parametrize("what", [NoCapacity("scripted"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [S.KILL, S.UNPLUG, S.REMOVE_DISKS])
@pytest.mark.parametrize("name", DELETES)
async def test_a_delete_only_goes_forward(
    name: str, step: StepName, when: str, what: BaseException, world: World
) -> None:
    id = await DELETES[name](world)
    if step is S.KILL and name in ("delete of a stopped one", "delete of a suspended one"):
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
    world.knob.delay = dict.fromkeys(
        ("launch", "press", "kill", "pause", "resume", "reset", "attach", "detach", "save", "restore"), 0.05
    )
    asked = await change.ask(world, id)
    id = asked.instance.id
    await world.reached(step)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    await world.check(id)
