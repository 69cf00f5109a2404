"""Reclaim over a whole server: who is asked, what comes back, and what a fault or a new server does to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from fault.world import ROOT, P, World
from polyvisor.engine.reclaim import ReclaimEngine
from polyvisor.model.faults import Forbidden, Invalid, TimedOut, Unsupported
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import Action, Principal
from polyvisor.model.reclaim import Outcome, Policy, Pressure, Wanted
from polyvisor.model.units import GIB, MIB, Bytes, Seconds


async def lent(world: World, *ids: InstanceId) -> list[int]:
    """What each lends, in MiB."""
    return [(96 * MIB - await world.vm(id).memory()) // MIB for id in ids]


async def reclaim(world: World, size: int, **more: object) -> list[tuple[str, Outcome]]:
    """Ask for so many MiB; what became of each."""
    done = await world.engine.reclaim.reclaim(ROOT, Wanted(Bytes(size * MIB), **more))  # type: ignore[arg-type]  # as given
    return [(action.id, action.outcome) for action in done.actions]


async def test_a_hold_is_kept_and_let_go(world: World) -> None:
    one, two = await world.create(), await world.create()
    off = await world.create()
    await world.ask(world.engine.power.stop(ROOT, off, force=True))
    planned = await world.engine.reclaim.reclaim(ROOT, Wanted(Bytes(32 * MIB), dry_run=True))
    assert (planned.planned, planned.applied, planned.hold_until) == (32 * MIB, 0, None)
    assert await lent(world, one, two) == [0, 0]
    done = await world.engine.reclaim.reclaim(ROOT, Wanted(Bytes(32 * MIB), Seconds(60.0), reason="a test"))
    assert (done.requested, done.planned, done.applied) == (32 * MIB, 32 * MIB, 32 * MIB)
    assert (done.pressure, done.available > 0, len(done.actions)) == (Pressure.HEALTHY, True, 2)
    action = done.actions[0]
    assert (action.assigned, action.floor, action.previous) == (96 * MIB, 48 * MIB, 96 * MIB)
    assert (action.planned, action.target, action.applied) == (80 * MIB, 80 * MIB, 16 * MIB)
    assert done.hold_until is not None
    assert await lent(world, one, two) == [16, 16]
    assert await reclaim(world, 10_000) == [(one, Outcome.APPLIED), (two, Outcome.APPLIED)]
    assert await lent(world, one, two) == [48, 48]
    assert await reclaim(world, 10_000) == [(one, Outcome.UNCHANGED), (two, Outcome.UNCHANGED)]
    three = await world.create()
    world.offset += timedelta(seconds=30)
    await world.engine.reclaim.tick()
    assert await lent(world, one, two, three) == [48, 48, 48]  # a new one lends as well
    world.offset += timedelta(seconds=300)
    await world.engine.reclaim.tick()
    assert await lent(world, one, two, three) == [0, 0, 0]
    await reclaim(world, 30)
    assert await lent(world, one, two, three) == [10, 10, 10]
    await reclaim(world, 0)
    assert await lent(world, one, two, three) == [0, 0, 0]
    for id in (one, two, three):
        await world.check(id)


async def test_pressure_lends_and_gives_back_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await world.create(), await world.create()
    available = Bytes(2 * GIB)

    async def now() -> Bytes:
        return available

    monkeypatch.setattr(world.host, "available", now)
    engine = ReclaimEngine(world.store, world.host, world.clock, Policy(Bytes(GIB), 75))
    await engine.tick()
    assert await lent(world, one, two) == [0, 0]

    async def later() -> list[int]:
        world.offset += timedelta(seconds=5)
        await engine.tick()
        return await lent(world, one, two)

    available = Bytes(GIB - MIB)
    await engine.tick()
    assert await lent(world, one, two) == [0, 0]  # too soon
    assert await later() == [24, 24]
    told = await engine.reclaim(ROOT, Wanted(Bytes(0), dry_run=True))
    assert told.pressure is Pressure.PRESSURE
    available = Bytes(GIB + MIB)
    assert await later() == [24, 24]
    available = Bytes(2 * GIB)
    assert await later() == [0, 0]
    assert (await engine.reclaim(ROOT, Wanted(Bytes(0)))).pressure is Pressure.HEALTHY


async def test_one_that_cannot_or_does_not_answer_is_told_and_the_others_lend(world: World) -> None:
    one, two = await world.create(), await world.create()
    world.knob.fail["memory"] = [Unsupported("no balloon")]
    assert await reclaim(world, 40) == [(one, Outcome.UNSUPPORTED), (two, Outcome.APPLIED)]
    assert await lent(world, one, two) == [0, 40]
    world.knob.fail["balloon"] = [TimedOut("it does not answer")]
    done = await world.engine.reclaim.reclaim(ROOT, Wanted(Bytes(60 * MIB)))
    assert [(a.outcome, a.error) for a in done.actions] == [
        (Outcome.ERROR, "it does not answer"), (Outcome.APPLIED, ""),
    ]  # fmt: skip
    assert done.applied < done.planned == 60 * MIB
    world.offset += timedelta(seconds=10)
    await world.engine.reclaim.tick()  # and is asked again
    assert await lent(world, one, two) == [30, 30]


async def test_what_is_lent_does_not_outlive_its_reason(world: World) -> None:
    one, two = await world.create(), await world.create()
    await reclaim(world, 20)
    await world.ask(world.engine.power.suspend(ROOT, one))
    await world.ask(world.engine.power.resume(ROOT, one))
    assert await lent(world, one) == [0]
    await world.again()
    assert await lent(world, two) == [10]
    await world.engine.reclaim.tick()
    assert await lent(world, one, two) == [0, 0]


async def test_only_the_operator_may(world: World) -> None:
    somebody = Principal("somebody", P, frozenset(Action))
    with pytest.raises(Forbidden):
        await world.engine.reclaim.reclaim(somebody, Wanted(Bytes(MIB)))
    with pytest.raises(Forbidden):
        await world.engine.reclaim.reclaim(replace(ROOT, actions=frozenset()), Wanted(Bytes(MIB)))


async def test_memory_that_could_not_be_given_back_is_given_back_later(world: World) -> None:
    one, two = await world.create(), await world.create()
    await reclaim(world, 20)
    world.knob.fail["balloon"] = [TimedOut("it does not answer")]
    assert await reclaim(world, 0) == [(one, Outcome.ERROR), (two, Outcome.APPLIED)]
    assert await lent(world, one, two) == [10, 0]
    world.offset += timedelta(seconds=10)
    await world.engine.reclaim.tick()
    assert await lent(world, one, two) == [0, 0]


async def test_memory_saved_with_a_balloon_needs_one(world: World) -> None:
    id = await world.create()
    await world.ask(world.engine.power.suspend(ROOT, id))
    able = world.hypervisor.abilities
    world.hypervisor.abilities = able - {"balloon"}
    refused = await world.ask(world.engine.power.resume(ROOT, id))
    assert (refused.fault_kind, "balloon" in refused.fault) == ("Unsupported", True)
    await world.check(id)
    world.hypervisor.abilities = able
    assert (await world.ask(world.engine.power.resume(ROOT, id))).fault == ""
    await world.check(id)


async def test_what_an_owner_leaves_a_guest_is_on_record(world: World) -> None:
    """It lends of that alone, and is asked for the rest again each time it has begun, by a new server as well."""
    id, memory = await world.create(), Bytes(96 * MIB)
    with pytest.raises(Invalid):
        await world.engine.allowances.allow(ROOT, id, Bytes(95 * MIB))
    big = await world.create(memory=Bytes(256 * MIB))
    await world.engine.allowances.allow(ROOT, big, Bytes(128 * MIB))
    assert (await world.vm(big).memory(), await world.vm(id).memory()) == (128 * MIB, memory)
    await reclaim(world, 10_000)
    assert (await world.vm(big).memory(), await world.vm(id).memory()) == (64 * MIB, 48 * MIB)
    await world.engine.allowances.allow(ROOT, big, Bytes(200 * MIB))
    assert await world.vm(big).memory() == 100 * MIB
    await reclaim(world, 0)
    assert (await world.vm(big).memory(), await world.vm(id).memory()) == (200 * MIB, memory)
    await world.ask(world.engine.power.restart(ROOT, big, force=True))
    assert await world.vm(big).memory() == 256 * MIB  # it has only begun
    world.offset += timedelta(seconds=10)
    await world.engine.reclaim.tick()
    assert await world.vm(big).memory() == 200 * MIB
    await world.vm(big).balloon(256 * MIB)
    fresh = ReclaimEngine(world.store, world.host, world.clock, Policy())
    await fresh.tick()
    assert await world.vm(big).memory() == 200 * MIB
    await world.check(big)
