"""Many at once, for a long time, on a disk that is full for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from fault.world import LIMIT, ROOT, P, World
from polyvisor.model.faults import Busy, Exists, Fault, NoCapacity, NotFound, OverQuota, WrongState
from polyvisor.model.host import HostReport, Sight
from polyvisor.model.identity import Project, Quotas
from polyvisor.model.ids import HostId, InstanceId, ProjectId
from polyvisor.model.instance import Phase, Power
from polyvisor.model.operation import Outcome
from polyvisor.model.principal import Principal, member
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.ports.store import Store, Unit


async def ids(world: World) -> list[InstanceId]:
    """Everybody on record."""
    async with world.store.read() as unit:
        return [i.id for i in await unit.instances.all()]


async def limited(world: World, **limits: int) -> Principal:
    """A principal of a project with quotas."""
    now = world.clock()
    project = Project(ProjectId("q" * 24), "limited", now, P, Quotas(**limits))
    async with world.store.write() as unit:
        await unit.identities.add_project(project)
    return member("tenant", project.id)


async def test_two_hundred_creates_at_once_all_succeed(world: World) -> None:
    async with asyncio.timeout(50):
        asked = await asyncio.gather(
            *(world.engine.instances.create(ROOT, world.wanted(name=f"n{n}")) for n in range(200))
        )
        for one in asked:
            await world.phase(one.instance.id, Phase.RUNNING)
    assert len({a.instance.id for a in asked}) == 200
    assert len(world.hypervisor.find()) == 200
    numbers = {(await world.get(a.instance.id)).number for a in asked}
    assert len(numbers) == 200
    await world.again()
    assert len(world.hypervisor.find()) == 200
    assert world.reconciler._alarms == {}


async def test_of_creates_beyond_a_quota_exactly_those_that_fit_succeed(world: World) -> None:
    tenant = await limited(world, instances=7)
    answers = await asyncio.gather(
        *(world.engine.instances.create(tenant, world.wanted(power=Power.OFF)) for _ in range(40)),
        return_exceptions=True,
    )
    refused = [a for a in answers if isinstance(a, BaseException)]
    assert len(refused) == 33
    assert all(isinstance(a, OverQuota) and a.field == "instances" for a in refused)
    for id in await ids(world):
        await world.phase(id, Phase.PREPARED)
    assert len(list(world.paths.instances.iterdir())) == 7


async def test_of_creates_beyond_the_memory_exactly_those_that_fit_succeed(world: World) -> None:
    async def small() -> HostReport:
        return HostReport(
            HostId(world.host.id), 4, Bytes(GIB), Bytes(GIB), "fake", "1", "none", "user", frozenset(), True
        )

    world.host.report = small  # type: ignore[method-assign]  # a host with little memory
    wanted = world.wanted(memory=Bytes(256 * MIB), power=Power.OFF)
    answers = await asyncio.gather(
        *(world.engine.instances.create(ROOT, wanted) for _ in range(20)), return_exceptions=True
    )
    refused = [a for a in answers if isinstance(a, BaseException)]
    assert len(answers) - len(refused) == 6  # one and a half times the memory is promised
    assert all(isinstance(a, NoCapacity) and a.field == "memory" for a in refused)
    assert len(await ids(world)) == 6


async def test_one_name_is_given_once(world: World) -> None:
    answers = await asyncio.gather(
        *(world.engine.instances.create(ROOT, world.wanted(name="same", power=Power.OFF)) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(a, Exists) for a in answers) == 19


async def test_one_idempotency_key_makes_one_instance(world: World) -> None:
    asked = await asyncio.gather(
        *(world.engine.instances.create(ROOT, world.wanted(name="it"), "key") for _ in range(20))
    )
    assert len({a.instance.id for a in asked}) == 1
    assert len(await ids(world)) == 1
    volumes = await asyncio.gather(
        *(world.engine.volumes.create(ROOT, "data", Bytes(64 * MIB), "other") for _ in range(20))
    )
    assert len({v.id for v in volumes}) == 1


async def test_an_idempotency_key_answers_with_the_operation_that_is_still_open(world: World) -> None:
    world.knob.delay["launch"] = 0.05
    first = await world.engine.instances.create(ROOT, world.wanted(), "key")
    again = await world.engine.instances.create(ROOT, world.wanted(), "key")
    assert again.operation == first.operation
    await world.settled(first.instance.id)
    await world.engine.power.delete(ROOT, first.instance.id)
    assert await world.until(first.instance.id, lambda i: False) is None
    with pytest.raises(NotFound):
        await world.engine.instances.create(ROOT, world.wanted(), "key")


async def test_an_image_in_use_is_kept_and_one_deleted_under_a_create_is_missed(world: World) -> None:
    for n in range(12):
        create, delete = await asyncio.gather(
            world.engine.instances.create(ROOT, world.wanted(power=Power.OFF)),
            _delete_image(world, after=n * 0.001),
            return_exceptions=True,
        )
        if isinstance(create, BaseException):
            assert isinstance(create, NotFound)
            assert create.field == "image"
        else:
            assert isinstance(delete, Busy | NotFound) or delete is None
            found = await world.settled(create.instance.id)
            assert found is not None
            assert found.observed.phase is Phase.PREPARED
            if isinstance(delete, Busy):
                async with world.store.read() as unit:
                    assert await unit.images.find(found.spec.image, P)
            await world.engine.power.delete(ROOT, found.id)
            await world.until(found.id, lambda i: False)


async def _delete_image(world: World, after: float) -> None:
    await asyncio.sleep(after)
    await world.engine.images.delete(ROOT, "busybox")


async def test_a_tenant_cannot_delete_what_is_everybodys(world: World) -> None:
    tenant = await limited(world)
    await world.create(power=Power.OFF)
    with pytest.raises(Fault) as refused:
        await world.engine.images.delete(tenant, "busybox")
    assert refused.type.__name__ == "Forbidden"


async def test_many_come_and_go_and_nothing_is_kept_in_memory(world: World) -> None:
    async def live() -> None:
        asked = await world.engine.instances.create(ROOT, world.wanted())
        await world.phase(asked.instance.id, Phase.RUNNING)
        await world.engine.power.delete(ROOT, asked.instance.id)
        await world.until(asked.instance.id, lambda i: False)

    for _ in range(4):
        await asyncio.gather(*(live() for _ in range(20)))
    async with asyncio.timeout(LIMIT):
        while world.reconciler._actors:
            await asyncio.wait(world.reconciler._actors.values())
    kept: list[Sized] = [
        world.reconciler._actors, world.reconciler._bells, world.reconciler._alarms, world.reconciler.runner._ahead,
        world.host._vms, world.host._deaf, world.host._watcher._tasks, world.host._watcher._ready, world.plugged,
        world.engine.images._pulls, dict(world.engine.volumes._repeats),
    ]  # fmt: skip
    assert [len(some) for some in kept] == [0] * len(kept)
    assert list(world.paths.instances.iterdir()) == []


async def test_random_wishes_all_settle(world: World) -> None:
    chance = random.Random(5)
    some = [await world.create(name=f"n{n}") for n in range(8)]
    await world.volume()
    power, volumes = world.engine.power, world.engine.volumes
    verbs: list[Callable[[Principal, InstanceId], Awaitable[object]]]
    verbs = [power.start, power.stop, power.restart, power.reset, power.pause, power.resume]
    for _ in range(120):
        id = chance.choice(some)
        try:
            match chance.randrange(9):
                case 0:
                    await volumes.attach(ROOT, id, "data")
                case 1:
                    await volumes.detach(ROOT, id, "data")
                case 2:
                    await power.stop(ROOT, id, force=True)
                case _:
                    await chance.choice(verbs)(ROOT, id)
        except (WrongState, Busy, NotFound, Exists):
            await asyncio.sleep(0)
        if chance.random() < 0.03:
            await world.again()
            power, volumes = world.engine.power, world.engine.volumes
            verbs = [power.start, power.stop, power.restart, power.reset, power.pause, power.resume]
    for id in some:
        await world.check(id)
    holders = (await world.engine.volumes.get(ROOT, "data")).attached
    mounted = [id for id in some if (await world.get(id)).mounts]
    assert list(holders) == mounted
    plugged = [id for id in some if id in world.hypervisor.vms and world.vm(id).disks()]
    assert set(plugged) <= set(mounted)


class FullDisk:
    """A store whose disk is full when told: reading goes on, no commit does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.full = False
        self.refused = asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, *, lasting: bool = True) -> AbstractAsyncContextManager[Unit]:
        """As the store's, refused at its end."""
        return self._write(lasting)

    @asynccontextmanager
    async def _write(self, lasting: bool) -> AsyncIterator[Unit]:
        async with self._store.write(lasting=lasting) as unit:
            yield unit
            if self.full:
                self.refused.set()
                raise NoCapacity("the disk is full")


async def test_a_full_disk_only_makes_things_wait(world: World) -> None:
    disks: list[FullDisk] = []

    def wrap(store: Store) -> Store:
        disks.append(FullDisk(store))
        return disks[-1]  # type: ignore[return-value]  # the rest is the store's own

    await world.end()
    world.wrap = wrap
    await world.begin()
    disk = disks[-1]
    one, two, three = [await world.create() for _ in range(3)]
    stop = await world.engine.power.stop(ROOT, one)
    await world.engine.power.delete(ROOT, two)
    disk.full = True
    world.vm(three).set(Sight.ENDED)
    async with asyncio.timeout(LIMIT):
        await disk.refused.wait()
    with pytest.raises(NoCapacity):
        await world.engine.power.stop(ROOT, three)
    with pytest.raises(NoCapacity):
        await world.engine.instances.create(ROOT, world.wanted())
    disk.full = False
    assert stop.operation is not None
    assert (await world.waits.finished(one, stop.operation, LIMIT)).outcome is Outcome.DONE
    assert await world.until(two, lambda i: False) is None
    await world.phase(three, Phase.STOPPED)
    for id in (one, three):
        await world.check(id)


async def test_a_refusal_that_cannot_be_written_down_is_still_taken_back(world: World) -> None:
    held: list[FullDisk] = []

    def wrap(store: Store) -> Store:
        held.append(FullDisk(store))
        return held[-1]  # type: ignore[return-value]  # the rest is the store's own

    await world.end()
    world.wrap = wrap
    await world.begin()
    disk = held[-1]
    hook = world.reconciler.runner.hook

    def fill(when: str, step: object) -> None:
        hook(when, step)  # type: ignore[arg-type]  # a step's name
        if (when, step) == ("after", "launch"):
            disk.full = True
            raise NoCapacity("no room for its journal")

    world.reconciler.runner.hook = fill
    asked = await world.engine.instances.create(ROOT, world.wanted())
    async with asyncio.timeout(LIMIT):
        await disk.refused.wait()
    world.reconciler.runner.hook = hook
    disk.full = False
    await world.phase(asked.instance.id, Phase.FAILED)
    await world.check(asked.instance.id)
    assert (await world.operations(asked.instance.id))[0].fault == "no room for its journal"
