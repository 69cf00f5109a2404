"""What nobody was told of is found by the periodic scan: hints and wishes only make it sooner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fault.world import LIMIT, ROOT, World
from polyvisor.host.local import LocalHost
from polyvisor.model.faults import TimedOut
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance, Phase, Power
from polyvisor.reconcile import loop
from polyvisor.reconcile.loop import Reconciler

NEVER, OFTEN = 3600.0, 0.2  # seconds


async def _silence(host: LocalHost) -> AsyncIterator[InstanceId]:
    """Hints that are all lost."""
    async for _ in host._watcher.hints():
        pass
    yield InstanceId("")


async def _deaf(reconciler: Reconciler) -> None:
    """Nobody listens to wishes."""
    reconciler.following.set()


async def _gets_there(world: World, id: InstanceId, phase: Phase, period: float) -> bool:
    """Whether it comes to that phase by itself, in the time that the scan would need and much more."""

    def is_there(instance: Instance) -> bool:
        return instance.observed.phase is phase and instance.operation is None

    try:
        return await world.waits.until(id, is_there, LIMIT if period == OFTEN else 10 * OFTEN) is not None
    except TimedOut:
        return False


@pytest.fixture(params=[NEVER, OFTEN], ids=["without the scan", "with it"])
def period(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How often the next server's scan looks at everything."""
    monkeypatch.setattr(loop, "SCAN_EVERY", request.param)
    return float(request.param)


async def test_an_end_whose_hint_was_lost_is_found_by_the_scan(
    world: World, period: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalHost, "hints", _silence)
    await world.again()
    ids = [await world.create() for _ in range(3)]
    for id in ids:
        await world.quiet_or_waiting(id)  # its last look after the create is over
    for id in ids:
        world.vm(id).set(Sight.ENDED)
    found = await asyncio.gather(*(_gets_there(world, id, Phase.STOPPED, period) for id in ids))
    assert found == [period == OFTEN] * 3
    for id in ids:
        world.reconciler.wake(id)
        await world.phase(id, Phase.STOPPED)
        await world.check(id)


async def test_a_wish_that_was_not_heard_is_found_by_the_scan(
    world: World, period: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reconciler, "_follow_wishes", _deaf)
    await world.again()
    asked = await world.engine.instances.create(ROOT, world.wanted())
    id = asked.instance.id
    assert await _gets_there(world, id, Phase.RUNNING, period) == (period == OFTEN)
    world.reconciler.wake(id)
    await world.phase(id, Phase.RUNNING)
    await world.engine.power.stop(ROOT, id, force=True)
    assert await _gets_there(world, id, Phase.STOPPED, period) == (period == OFTEN)
    world.reconciler.wake(id)
    assert (await world.phase(id, Phase.STOPPED)).intent.power is Power.OFF
    await world.check(id)
