"""Forks, disturbed at every step: the source goes on, and of what was not made nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable

import pytest

from fault.world import LIMIT, ROOT, Trap, World
from polyvisor.engine.instances import Asked, Until
from polyvisor.host.hypervisor.fake.guest import FakeGuest
from polyvisor.host.hypervisor.fake.knob import Knob
from polyvisor.model.faults import Fault, Internal, Invalid, NoCapacity, NotFound, Unavailable, Unsupported
from polyvisor.model.guest import Identity
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Mount, Phase, Power
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName

POINTS = [
    (when, step) for step in (StepName.SNAPSHOT, StepName.MAKE_DISKS, StepName.RESTORE) for when in ("before", "after")
]


def fork(world: World, source: InstanceId, kind: SnapshotKind | None = None, **more: object) -> Awaitable[Asked]:
    """Ask for one."""
    return world.engine.forks.fork(ROOT, source, Create(**more), kind)  # type: ignore[arg-type]  # a test knows


async def cleared(world: World) -> None:
    """Wait until no fork's snapshot is there, as the keeper does; then nothing else may be left of it."""
    async with asyncio.timeout(LIMIT):
        while await world.snapshots():
            await world.engine.snapshots.collect()
            await asyncio.sleep(0.01)
    await world.check_snapshots()
    async with world.store.read() as unit:
        for instance in await unit.instances.all():
            await world.check(instance.id)


async def goes_on(world: World, source: InstanceId) -> None:
    """The source runs, and nothing is under way there."""
    assert await world.settled(source) is not None
    assert (await world.get(source)).observed.phase is Phase.RUNNING
    assert world.vm(source)._state() is Sight.RUNNING


async def test_a_fork_has_what_the_source_had_in_memory_and_an_identity_of_its_own(world: World) -> None:
    source = await world.create(name="source")
    world.vm(source)._guest.files["/file"] = b"kept"
    made = await asyncio.gather(*(fork(world, source) for _ in range(5)))
    for asked in made:
        instance = await world.engine.instances.settle(asked, Until.READY, LIMIT)
        guest = world.vm(instance.id)._guest
        assert (guest.files["/file"], guest.hostname, guest.address) == (b"kept", instance.name, instance.address)
    assert len({(await world.get(a.instance.id)).address for a in made}) == 5
    await goes_on(world, source)
    await cleared(world)


@pytest.mark.parametrize(("when", "step"), POINTS)
async def test_a_refused_fork_leaves_the_source_running_and_nothing_else(
    when: str, step: StepName, world: World
) -> None:
    source = await world.create()
    world.traps.append(Trap(when, step, NoCapacity("scripted")))
    if step is StepName.SNAPSHOT:
        with pytest.raises(NoCapacity, match="scripted"):
            await fork(world, source)
    else:
        asked = await fork(world, source)
        with pytest.raises(NoCapacity, match="scripted"):
            await world.engine.instances.settle(asked, Until.LAUNCHED, LIMIT)
        await world.phase(asked.instance.id, Phase.FAILED)
    await goes_on(world, source)
    await cleared(world)


@pytest.mark.parametrize(("when", "step"), POINTS)
async def test_a_manager_killed_during_a_fork(when: str, step: StepName, world: World) -> None:
    """What only the dead one had in memory is lost: then the fork has failed, it does not boot instead."""
    source = await world.create()
    world.traps.append(Trap(when, step, Crash()))
    asking = asyncio.ensure_future(fork(world, source))
    async with asyncio.timeout(LIMIT):
        await world.dead.wait()
    asking.cancel()
    await world.engine.forks.close()
    with contextlib.suppress(asyncio.CancelledError, Fault):
        await asking
    await world.reborn()
    await world.engine.snapshots.recover()
    await goes_on(world, source)
    async with world.store.read() as unit:
        forks = [i.id for i in await unit.instances.all() if i.id != source]
    assert len(forks) == (step is not StepName.SNAPSHOT)
    for id in forks:
        found = await world.settled(id)
        assert found is not None
        survived = (when, step) == ("after", StepName.RESTORE)
        assert found.observed.phase is (Phase.RUNNING if survived else Phase.FAILED), found.observed
    assert [verb for verb, _ in world.knob.calls].count("launch") == 1  # the source's
    await cleared(world)


@pytest.mark.parametrize("kind", [SnapshotKind.FULL, SnapshotKind.DISK])
@pytest.mark.parametrize("what", [NoCapacity("scripted"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize(("when", "step"), POINTS)
async def test_a_volume_that_both_read_is_held_by_those_that_are_there(
    when: str, step: StepName, what: BaseException, kind: SnapshotKind, world: World
) -> None:
    if kind is SnapshotKind.DISK and step is StepName.RESTORE:
        step = StepName.LAUNCH
    volume = await world.volume()
    mount = Mount(volume.id, volume.name, "/data", read_only=True)
    source = await world.create(mounts=(mount,))
    world.traps.append(Trap(when, step, what))
    asking = asyncio.ensure_future(fork(world, source, kind))
    if isinstance(what, Crash):
        async with asyncio.timeout(LIMIT):
            await world.dead.wait()
        asking.cancel()
        await world.engine.forks.close()
    with contextlib.suppress(asyncio.CancelledError, Fault):
        asked = await asking
        if not isinstance(what, Crash):
            await world.engine.instances.settle(asked, Until.LAUNCHED, LIMIT)
    if isinstance(what, Crash):
        await world.reborn()
        await world.engine.snapshots.recover()
    await goes_on(world, source)
    async with world.store.read() as unit:
        forks = [i.id for i in await unit.instances.all() if i.id != source]
    for id in forks:
        found = await world.settled(id)
        assert found is not None
        assert found.mounts == (mount,)
        await world.ask(world.engine.power.delete(ROOT, id))
    await cleared(world)
    assert (await world.engine.volumes.get(ROOT, volume.id)).attached == (source,)
    made = await world.engine.instances.settle(await fork(world, source, kind), Until.READY, LIMIT)
    assert (made.mounts, world.vm(made.id).disks()) == ((mount,), world.vm(source).disks())
    await cleared(world)


async def test_a_snapshot_does_not_outlive_what_its_memory_knows_of_a_volume(world: World) -> None:
    volume = await world.volume()
    source = await world.create(mounts=(Mount(volume.id, volume.name, read_only=True),))
    kept = await world.snapshot(source, kind=SnapshotKind.FULL)
    assert [m.volume for m in kept.mounts] == [volume.id]
    await world.ask(world.engine.power.delete(ROOT, source))
    made = await world.engine.instances.create(ROOT, Create(snapshot=kept.id))
    await world.phase(made.instance.id, Phase.RUNNING)
    await world.ask(world.engine.power.delete(ROOT, made.instance.id))
    file = world.paths.volume(volume.id)
    file.write_bytes(b"other than it was" + bytes(volume.size - 17))
    for refusal in (Unsupported, NotFound):
        with pytest.raises(refusal) as caught:
            await world.engine.instances.create(ROOT, Create(snapshot=kept.id))
        assert caught.value.field == "volumes"
        if refusal is Unsupported:
            file.unlink()
            await world.engine.volumes.delete(ROOT, volume.id)
    await world.engine.snapshots.delete(ROOT, kept.id)
    await cleared(world)


@pytest.mark.parametrize("what", [NoCapacity("the undo is refused too"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["undo", "undone"])
async def test_an_undo_of_a_snapshot_that_is_disturbed_lets_the_source_go_on(
    when: str, what: BaseException, world: World
) -> None:
    source = await world.create()
    world.knob.fail["switch"] = [Internal("scripted")]
    world.traps.append(Trap(when, StepName.SNAPSHOT, what))
    asking = asyncio.ensure_future(fork(world, source))
    if isinstance(what, Crash):
        async with asyncio.timeout(LIMIT):
            await world.dead.wait()
        asking.cancel()
    with contextlib.suppress(asyncio.CancelledError, Internal):
        await asking
    if isinstance(what, Crash):
        await world.reborn()
        await world.engine.snapshots.recover()
    await goes_on(world, source)
    await cleared(world)


@pytest.mark.parametrize("verb", ["save", "switch", "resume", "dump"])
@pytest.mark.parametrize("end", [Sight.ENDED, Sight.GONE])
async def test_a_source_that_ends_meanwhile_has_ended_and_the_fork_is_not_made(
    verb: str, end: Sight, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await world.create()
    if verb == "dump":
        source = (await world.engine.instances.settle(await fork(world, source), Until.READY, LIMIT)).id
    real = Knob.turn

    async def turn(knob: Knob, said: str, id: InstanceId) -> None:
        await real(knob, said, id)
        if said == verb and id == source:
            world.vm(source).set(end)
            raise Unavailable("it is gone")

    monkeypatch.setattr(Knob, "turn", turn)
    with pytest.raises((Unavailable, Internal)):
        await fork(world, source)
    monkeypatch.undo()
    await world.phase(source, Phase.STOPPED)
    await cleared(world)


async def test_a_fork_with_memory_is_never_off(world: World) -> None:
    source = await world.create()
    with pytest.raises(Invalid) as refused:
        await fork(world, source, SnapshotKind.FULL, power=Power.OFF)
    assert refused.value.field == "power"
    asked = await fork(world, source, power=Power.OFF)
    await world.phase(asked.instance.id, Phase.PREPARED)
    await goes_on(world, source)
    await cleared(world)


async def test_a_copy_meets_the_network_only_once_it_knows_who_it_is(world: World) -> None:
    """Also when the manager dies between making it and letting it go on."""
    source = await world.create()
    kept = await world.snapshot(source, kind=SnapshotKind.FULL)
    world.knob.fail["resume"] = [Unavailable("not now")]
    calls = world.knob.calls
    asked = await world.engine.instances.create(ROOT, Create(name="it", snapshot=kept.id))
    await world.settled(asked.instance.id)
    first = [verb for verb, id in calls if id == asked.instance.id]
    assert "link" in first
    assert first.index("link") < first.index("resume")


async def test_a_copy_that_sleeps_before_it_was_told_who_it_is_is_told_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that goes back to a snapshot of that time."""

    async def silent(guest: FakeGuest, identity: Identity) -> None:
        raise Unavailable("it does not answer yet")

    source = await world.create()
    monkeypatch.setattr(FakeGuest, "take_identity", silent)
    asked = await fork(world, source)
    await world.engine.instances.settle(asked, Until.LAUNCHED, LIMIT)
    id = asked.instance.id
    await world.snapshot(id, "then", SnapshotKind.FULL)
    await world.ask(world.engine.power.suspend(ROOT, id))
    monkeypatch.undo()
    for _ in range(2):
        await world.ask(world.engine.power.start(ROOT, id))
        found = await world.until(id, lambda i: i.observed.ready)
        assert found is not None
        assert world.vm(id)._guest.address == found.address
        await world.ask(world.engine.power.stop(ROOT, id, force=True))
        await world.ask(world.engine.snapshots.revert(ROOT, id, "then"))
