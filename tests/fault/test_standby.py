"""Standby by idleness over a whole server: who counts, when it is time, a hold, and those who come in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from fault.world import ROOT, World
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Invalid, Unsupported, WrongState
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Phase
from polyvisor.model.spec import Port
from polyvisor.model.standby import Connection, Inbound, Stand, StandbyPolicy, Why
from polyvisor.model.units import Seconds

MINUTE = StandbyPolicy(True, Seconds(60.0))
HTTP = (Port(80),)


async def ready(world: World, policy: StandbyPolicy | None = MINUTE) -> InstanceId:
    """An instance whose guest is up, with a forward."""
    id = await world.create(standby=policy, ports=HTTP)
    await world.until(id, lambda i: i.observed.ready)
    return id


async def at(world: World, id: InstanceId) -> tuple[Stand, Why]:
    """Where it stands."""
    status = await world.engine.standby.status(ROOT, id)
    return status.stand, status.why


async def pass_by(world: World, seconds: float) -> None:
    """Time passes, and the keeper looks."""
    world.offset += timedelta(seconds=seconds)
    world.engine.standby._rest_until = 0.0
    await world.engine.standby.tick()


async def runs(world: World, id: InstanceId) -> bool:
    """Whether it is left alone."""
    found = await world.settled(id)
    return found is not None and face(found) is Face.RUNNING


def comes(world: World, monkeypatch: pytest.MonkeyPatch, *seen: Inbound) -> None:
    """What is seen of the instances, in turn; the last for ever."""
    left = list(seen)

    async def inbound(_: InstanceId) -> Inbound:
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(world.host.entrance, "inbound", inbound)


@asynccontextmanager
async def followed(world: World) -> AsyncIterator[None]:
    """Knocks are answered."""
    task = asyncio.create_task(world.engine.standby.follow())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_idle_for_long_enough(world: World) -> None:
    id, other = await ready(world), await ready(world, None)
    off = await ready(world, StandbyPolicy(False, Seconds(1.0)))
    assert await at(world, id) == (Stand.COUNTDOWN, Why.COUNTDOWN)
    assert await at(world, other) == (Stand.DISABLED, Why.NO_POLICY)
    assert await at(world, off) == (Stand.DISABLED, Why.OFF)
    await pass_by(world, 30)
    assert await runs(world, id)
    status = await world.engine.standby.status(ROOT, id)
    assert status.left is not None
    assert 20 < status.left <= 30
    await pass_by(world, 31)
    await world.phase(id, Phase.SUSPENDED)
    assert await at(world, id) == (Stand.INELIGIBLE, Why.NOT_RUNNING)
    assert await runs(world, other)
    assert await runs(world, off)
    with pytest.raises(WrongState, match="instance is in standby; restore it before connecting"):
        await world.engine.standby.hold(ROOT, id)
    await world.ask(world.engine.power.resume(ROOT, id))
    await world.until(id, lambda i: i.observed.ready)
    await pass_by(world, 30)  # the countdown has begun anew
    assert await runs(world, id)
    for one in (id, other, off):
        await world.check(one)


async def test_what_counts_and_what_does_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = StandbyPolicy(True, Seconds(60.0), ("10.0.0.0/8",), (22,))
    id = await ready(world, policy)
    await at(world, id)
    web, ignored = Connection("192.0.2.1", 80), (Connection("10.1.2.3", 80), Connection("192.0.2.1", 22))
    comes(world, monkeypatch, Inbound((web, *ignored)))
    await pass_by(world, 100)
    assert await runs(world, id)
    status = await world.engine.standby.status(ROOT, id)
    assert (status.stand, status.why, status.active) == (Stand.ACTIVE, Why.CONNECTIONS, 1)
    comes(world, monkeypatch, Inbound(past=(web,)), Inbound(ignored))  # it came and went in between
    await pass_by(world, 100)
    assert await runs(world, id)
    comes(world, monkeypatch, Inbound(sessions=1))
    await pass_by(world, 100)
    assert await at(world, id) == (Stand.ACTIVE, Why.CONNECTIONS)
    comes(world, monkeypatch, Inbound(ignored, begun=3), Inbound(ignored, begun=3))  # a command that was over at once
    await pass_by(world, 100)
    assert await runs(world, id)
    await pass_by(world, 61)
    await world.phase(id, Phase.SUSPENDED)


async def test_who_comes_at_the_last_moment_keeps_it_awake(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen behind the shut door, which is opened again."""
    id = await ready(world)
    await at(world, id)
    comes(world, monkeypatch, Inbound(), Inbound((Connection("192.0.2.1", 80),)))
    await pass_by(world, 61)
    assert await runs(world, id)
    assert world.host._entrance._doors._doors[id].open


async def test_a_hold_holds_and_the_latest_counts(world: World) -> None:
    id = await ready(world)
    await pass_by(world, 50)
    held = await world.engine.standby.hold(ROOT, id)
    assert held.held is not None
    await pass_by(world, 30)
    assert await runs(world, id)
    assert await at(world, id) == (Stand.COUNTDOWN, Why.COUNTDOWN)
    await world.engine.instances.update(ROOT, id, standby=StandbyPolicy(True, Seconds(5.0)))
    shorter = await world.engine.standby.hold(ROOT, id)
    assert shorter.held is not None
    assert shorter.held < held.held
    await pass_by(world, 6)
    await world.phase(id, Phase.SUSPENDED)
    off = await ready(world, StandbyPolicy())
    assert (await world.engine.standby.hold(ROOT, off)).held is None


async def test_one_that_cannot_be_seen_is_left_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await ready(world)

    async def inbound(_: InstanceId) -> Inbound:
        raise OSError("no such table")

    monkeypatch.setattr(world.host.entrance, "inbound", inbound)
    await pass_by(world, 100)
    assert await runs(world, id)
    assert await at(world, id) == (Stand.ERROR, Why.UNSEEN)


async def test_one_that_cannot_be_put_to_sleep_runs_on_with_its_door_open(world: World) -> None:
    id = await ready(world)
    await at(world, id)
    world.knob.fail["save"] = [Unsupported("not this one")]
    await pass_by(world, 61)
    assert await runs(world, id)
    await world.check(id)


async def test_who_connects_wakes_it_also_after_a_new_server(world: World) -> None:
    id = await ready(world)
    instance = await world.get(id)
    assert instance.observed.run is not None
    port = instance.observed.run.forwards[0][1]
    await world.ask(world.engine.power.suspend(ROOT, id))
    for _ in range(2):
        async with followed(world):
            await pass_by(world, 0)  # its door is there, after a start too
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            woken = await world.phase(id, Phase.RUNNING)
            assert woken.observed.run is not None
            assert woken.observed.run.forwards[0][1] == port
            writer.close()
        await world.ask(world.engine.power.suspend(ROOT, id))
        await world.again()
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_one_that_cannot_be_woken_resets_who_waits(world: World) -> None:
    id = await ready(world)
    instance = await world.get(id)
    assert instance.observed.run is not None
    port = instance.observed.run.forwards[0][1]
    await world.ask(world.engine.power.suspend(ROOT, id))
    world.knob.fail["restore"] = [Unsupported("another version")]
    async with followed(world):
        reader, _ = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 15)
        assert (await world.operations(id))[0].fault == "another version"
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # the next one tries again
        await world.phase(id, Phase.RUNNING)
        writer.close()


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (StandbyPolicy(True), "standby.after"),
        (StandbyPolicy(True, Seconds(0.0)), "standby.after"),
        (StandbyPolicy(sources=("10.0.0.0/33",)), "standby.ignore_sources"),
        (StandbyPolicy(ports=(0,)), "standby.ignore_ports"),
    ],
)
async def test_a_policy_that_is_none_is_refused(world: World, policy: StandbyPolicy, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        await world.engine.instances.create(ROOT, world.wanted(standby=policy))
    assert refused.value.field == field
