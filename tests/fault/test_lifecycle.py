"""What happens to instances by themselves: they end, their server or host goes down, they fall silent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fault.world import LIMIT, ROOT, Trap, World
from polyvisor.model.face import Face, face
from polyvisor.model.faults import NoCapacity, Unavailable
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Phase, Power
from polyvisor.model.operation import Outcome
from polyvisor.model.principal import SYSTEM
from polyvisor.model.spec import RestartMode, RestartPolicy
from polyvisor.model.units import Seconds
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName

ALWAYS = RestartPolicy(RestartMode.ALWAYS, attempts=3, backoff=Seconds(0.1))


# -- ending by itself, and the restart policy ------------------------------------------------------------------------


async def test_a_guest_that_shuts_down_is_stopped_and_cleared_away(world: World) -> None:
    id = await world.create()
    world.vm(id).set(Sight.ENDED)
    found = await world.phase(id, Phase.STOPPED)
    assert found.observed.ended is not None
    assert found.observed.ended.reason == "shutdown"
    assert found.observed.incarnation == 1
    await world.check(id)


async def test_the_policy_starts_it_again_until_its_attempts_are_used_up(world: World) -> None:
    id = await world.create(restart=ALWAYS)
    for attempt in range(1, 4):
        world.vm(id).set(Sight.ENDED)
        found = await world.until(id, lambda i, n=attempt: i.observed.incarnation == n + 1)  # type: ignore[misc]
        assert found is not None
        assert found.observed.restarts == attempt
    world.vm(id).set(Sight.ENDED)
    found = await world.phase(id, Phase.STOPPED)
    assert found.observed.restart_at is None
    assert found.observed.incarnation == 4
    await world.check(id)


async def test_a_long_run_forgets_earlier_attempts(world: World) -> None:
    id = await world.create(restart=ALWAYS)
    world.vm(id).set(Sight.ENDED)
    await world.until(id, lambda i: i.observed.incarnation == 2)
    await world.later(61, id)
    world.vm(id).set(Sight.ENDED)
    found = await world.until(id, lambda i: i.observed.incarnation == 3)
    assert found is not None
    assert found.observed.restarts == 1


@pytest.mark.parametrize("step", ["before", "after"])
async def test_a_manager_killed_while_the_policy_starts_it_again_is_followed_by_one_that_does(
    step: str, world: World
) -> None:
    id = await world.create(restart=ALWAYS)
    world.traps.append(Trap(step, StepName.RELAUNCH, Crash()))
    world.vm(id).set(Sight.ENDED)
    await world.reborn()
    found = await world.until(id, lambda i: i.observed.phase is Phase.RUNNING)
    assert found is not None
    assert found.observed.incarnation == 2
    await world.check(id)


async def test_a_start_by_the_policy_that_is_refused_is_an_attempt_and_tried_again(world: World) -> None:
    id = await world.create(restart=ALWAYS)
    world.knob.fail["launch"] = [NoCapacity("full")]
    world.vm(id).set(Sight.ENDED)
    found = await world.until(id, lambda i: i.observed.incarnation == 2)
    assert found is not None
    assert found.observed.restarts == 2
    assert found.observed.fault == ""


async def test_a_start_by_the_policy_that_is_refused_too_often_has_failed(world: World) -> None:
    id = await world.create(restart=ALWAYS)
    world.knob.fail["launch"] = [NoCapacity("full")] * 9
    world.vm(id).set(Sight.ENDED)
    found = await world.phase(id, Phase.FAILED)
    assert (found.observed.fault_kind, found.observed.fault) == ("NoCapacity", "full")
    assert len(world.knob.fail["launch"]) == 6
    await world.check(id)


async def test_an_instance_that_keeps_crashing_can_be_stopped(world: World) -> None:
    id = await world.create(restart=replace(ALWAYS, backoff=Seconds(300.0)))
    world.vm(id).set(Sight.ENDED)
    await world.until(id, lambda i: i.observed.restart_at is not None)
    operation = await world.ask(world.engine.power.stop(ROOT, id))
    assert operation.outcome is Outcome.DONE
    await world.later(301, id)
    await world.check(id)
    found = await world.get(id)
    assert (found.observed.phase, found.observed.restart_at, found.intent.power) == (Phase.STOPPED, None, Power.OFF)


async def test_what_crashed_on_its_way_to_a_stop_stays_off(world: World) -> None:
    id = await world.create(restart=ALWAYS)
    world.knob.stubborn.add(id)
    asked = await world.engine.power.stop(ROOT, id)
    await world.noted(id, StepName.PRESS)
    world.vm(id).set(Sight.GONE)
    done = await world.waits.finished(id, asked.operation or "", LIMIT)  # type: ignore[arg-type]  # it was opened
    assert done.outcome is Outcome.DONE
    await world.check(id)
    assert (await world.get(id)).observed.phase is Phase.STOPPED


# -- the server and the host go down ---------------------------------------------------------------------------------


async def test_machines_outlive_their_manager(world: World) -> None:
    up, down, held = await world.create(), await world.create(power=Power.OFF), await world.create()
    await world.ask(world.engine.power.pause(ROOT, held))
    before = [await world.get(id) for id in (up, down, held)]
    launched = len(world.knob.calls)
    await world.again()
    for was in before:
        await world.check(was.id)
        now = await world.get(was.id)
        assert now.observed.run == was.observed.run
        assert (now.observed.phase, now.observed.incarnation, now.observed.since, now.observed.booted) == (
            was.observed.phase, was.observed.incarnation, was.observed.since, was.observed.booted,
        )  # fmt: skip
    assert "launch" not in [verb for verb, _ in list(world.knob.calls)[launched:]]


async def test_the_records_are_true_as_soon_as_the_server_has_started(world: World) -> None:
    ended, gone = await world.create(), await world.create()
    await world.end()
    world.vm(ended).set(Sight.ENDED)
    (world.paths.instance(gone) / "fake.json").unlink()
    await world.begin()
    assert [(await world.get(i)).observed.phase for i in (ended, gone)] == [Phase.STOPPED] * 2
    for id, reason in ((ended, "shutdown"), (gone, "crashed")):
        found = await world.get(id)
        assert found.observed.ended is not None
        assert found.observed.ended.reason == reason
        await world.check(id)


@pytest.mark.parametrize(
    ("wanted", "comes_back"),
    [
        ({}, False),
        ({"autostart": True}, True),
        ({"restart": RestartPolicy(RestartMode.ON_FAILURE)}, True),
        ({"restart": RestartPolicy(RestartMode.ALWAYS, attempts=1)}, True),
    ],
)
async def test_after_a_restart_of_the_host(wanted: dict[str, object], comes_back: bool, world: World) -> None:
    id = await world.create(**wanted)
    await world.reboot()
    found = await world.phase(id, Phase.RUNNING if comes_back else Phase.STOPPED)
    stopped = [event.data["reason"] for event in await world.events(id) if event.kind == "instance.stopped"]
    assert stopped == ["host-restart"]  # told of, however soon it is back
    assert found.observed.incarnation == 1 + comes_back
    assert found.observed.restarts == 0
    assert found.observed.fault == ""
    await world.check(id)


async def test_after_a_restart_of_the_host_what_its_owner_stopped_stays_off(world: World) -> None:
    id = await world.create(autostart=True, restart=ALWAYS)
    await world.ask(world.engine.power.stop(ROOT, id))
    await world.reboot()
    assert await world.engine.power.autostart(SYSTEM) == []
    await world.check(id)
    assert (await world.get(id)).observed.phase is Phase.STOPPED


async def test_autostart_starts_what_is_wanted_and_one_that_cannot_does_not_stop_the_others(world: World) -> None:
    ids = [await world.create(autostart=True) for _ in range(3)] + [await world.create()]
    for id in ids:
        world.vm(id).set(Sight.ENDED)
    for id in ids:
        await world.phase(id, Phase.STOPPED)
    await world.again()
    asked = await world.engine.power.autostart(SYSTEM)
    assert {a.instance.id for a in asked} == set(ids[:3])
    assert await world.engine.power.autostart(SYSTEM) == []
    for id in ids[:3]:
        await world.phase(id, Phase.RUNNING)


async def test_what_rests_starts_with_the_server_only_after_its_first_start(world: World) -> None:
    wanted = {"power": Power.OFF, "autostart": True}
    resting, other = await world.create(**wanted, resting=True), await world.create(**wanted)
    asked = await world.engine.power.autostart(SYSTEM)
    assert [one.instance.id for one in asked] == [other]
    await world.ask(world.engine.power.start(ROOT, resting))
    world.vm(resting).set(Sight.ENDED)
    await world.phase(resting, Phase.STOPPED)
    await world.again()
    assert [one.instance.id for one in await world.engine.power.autostart(SYSTEM)] == [resting]
    await world.phase(resting, Phase.RUNNING)


async def test_a_launch_whose_record_was_never_saved_is_adopted(world: World) -> None:
    world.traps.append(Trap("after", StepName.LAUNCH, Crash()))
    asked = await world.engine.instances.create(ROOT, world.wanted())
    id = asked.instance.id
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    (world.paths.instance(id) / "run.json").unlink()
    await world.again()
    found = await world.phase(id, Phase.RUNNING)
    assert found.observed.incarnation == 1
    assert [verb for verb, _ in world.knob.calls].count("launch") == 1
    assert found.observed.run is not None
    assert (found.observed.run.pid, found.observed.run.uuid) in world.hypervisor.find()


async def test_a_process_of_which_our_record_could_not_be_written_is_not_left_behind(world: World) -> None:
    id = await world.create(power=Power.OFF)
    (world.paths.instance(id) / "run.json.part").mkdir()
    operation = await world.ask(world.engine.power.start(ROOT, id))
    assert operation.outcome is Outcome.FAILED
    assert world.hypervisor.find() == []


async def test_a_machine_that_cannot_be_taken_over_is_deaf_and_not_gone(world: World) -> None:
    id = await world.create()
    world.knob.fail["adopt"] = [Unavailable()] * 1000  # for as long as it takes to be seen
    await world.again()
    found = await world.phase(id, Phase.LOST)
    assert found.observed.run is not None
    world.knob.fail["adopt"].clear()
    world.reconciler.wake(id)
    found = await world.phase(id, Phase.RUNNING)
    assert found.observed.incarnation == 1
    assert [verb for verb, _ in world.knob.calls].count("launch") == 1
    await world.check(id)


async def test_a_machine_that_no_record_knows_keeps_its_files(world: World) -> None:
    id = await world.create()
    async with world.store.write() as unit:
        await unit.instances.forget(id)
    await world.again()
    assert world.paths.disk(id).exists()


# -- deaf machines ---------------------------------------------------------------------------------------------------


async def deaf(world: World) -> InstanceId:
    """One that no longer answers."""
    id = await world.create()
    world.knob.deaf.add(id)
    world.reconciler.wake(id)
    await world.phase(id, Phase.LOST)
    return id


async def test_a_deaf_machine_that_answers_again_is_as_it_was(world: World) -> None:
    id = await deaf(world)
    world.knob.deaf.clear()
    world.reconciler.wake(id)
    found = await world.phase(id, Phase.RUNNING)
    assert (found.observed.incarnation, found.observed.fault) == (1, "")
    await world.check(id)


async def test_a_deaf_machine_is_ended_by_force_at_once_and_without_it_at_the_limit(world: World) -> None:
    one, two = await deaf(world), await deaf(world)
    assert (await world.ask(world.engine.power.stop(ROOT, one, force=True))).outcome is Outcome.DONE
    asked = await world.engine.power.stop(ROOT, two)
    await world.quiet_or_waiting(two)
    assert face(await world.get(two)) is Face.STOPPING
    await world.later(31, two)
    assert asked.operation is not None
    assert (await world.waits.finished(two, asked.operation, LIMIT)).outcome is Outcome.DONE
    for id in (one, two):
        await world.check(id)
        assert (await world.get(id)).observed.phase is Phase.STOPPED


async def test_a_deaf_machine_can_be_deleted(world: World) -> None:
    id = await deaf(world)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    await world.check(id)


async def test_a_machine_that_is_deaf_from_its_launch_can_be_stopped(world: World) -> None:
    def fall_silent(when: str, step: StepName) -> None:
        if (when, step) == ("after", StepName.LAUNCH):
            world.knob.deaf.update(world.hypervisor.vms)

    world.reconciler.runner.hook = fall_silent
    asked = await world.engine.instances.create(ROOT, world.wanted())
    found = await world.until(asked.instance.id, lambda i: i.observed.phase is Phase.LOST)
    assert found is not None
    assert found.observed.incarnation == 1
    assert (await world.ask(world.engine.power.stop(ROOT, found.id, force=True))).outcome is Outcome.DONE
    await world.check(found.id)
    assert (await world.get(found.id)).observed.phase is Phase.STOPPED


async def test_nothing_is_attached_to_a_deaf_machine_until_it_answers(world: World) -> None:
    id, volume = await world.create(), await world.volume()
    world.knob.deaf.add(id)
    asked = await world.engine.volumes.attach(ROOT, id, "data")
    await world.until(id, lambda i: i.observed.phase is Phase.LOST)
    assert (await world.operations(id))[0].outcome is Outcome.OPEN
    world.knob.deaf.clear()
    world.reconciler.wake(id)
    assert asked.operation is not None
    assert (await world.waits.finished(id, asked.operation, LIMIT)).outcome is Outcome.DONE
    assert world.vm(id).disks() == {volume.id[:20]}
    await world.check(id)
