"""Create, start and delete with real machines, disturbed at every step: as `fault/test_steps` on the fake."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.hypervisor.conftest import known_facts
from fault.test_steps import CHANGES, DELETES, S, assert_refused
from fault.world import ROOT, Switchboard, Trap, World, copy, template
from polyvisor.host.boot import BootFiles
from polyvisor.host.hypervisor.qemu.driver import Qemu
from polyvisor.host.images.local import LocalImages
from polyvisor.host.local import LocalHost
from polyvisor.host.storage import FileStorage
from polyvisor.model.faults import NoCapacity
from polyvisor.model.ids import InstanceId, machine_uuid
from polyvisor.model.operation import Outcome
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName

POINTS = [(name, step) for name in ("create", "start") for step in CHANGES[name].steps]


class RealWorld(World):
    """The same server over QEMU. Kernel and image are shared by all tests of the session."""

    def __init__(self, data: Path, shared: Path) -> None:
        super().__init__(data)
        self._shared = shared

    async def make_host(self) -> LocalHost:
        """What machines run on."""
        self.qemu = Qemu(await known_facts())
        return LocalHost(
            await self.store.host_id(), self.paths, self.qemu, FileStorage(self.paths), Switchboard(self.plugged),
            LocalImages(self._shared / "images"), BootFiles(self._shared / "boot"),
        )  # fmt: skip

    def has_process(self, id: InstanceId) -> bool:
        """Whether a machine of it is there."""
        return machine_uuid(id) in {uuid for _, uuid in self.qemu.find()}

    async def clear(self) -> None:
        """No machine is left."""
        async with self.store.read() as unit:
            instances = await unit.instances.all()
        for instance in instances:
            await self.engine.power.delete(ROOT, instance.id)
            assert await self.until(instance.id, lambda i: False) is None


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what all tests can share."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("boot", "images"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
async def world(shared: Path, tmp_path: Path) -> AsyncIterator[RealWorld]:
    """A server that has just started."""
    (tmp_path / "template").mkdir()
    made = RealWorld(copy(await template(tmp_path / "template"), tmp_path / "data"), shared)
    await made.begin()
    yield made
    made.traps.clear()
    await made.clear()
    await made.end()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "step"), POINTS)
async def test_a_refused_step_is_taken_back(name: str, step: StepName, when: str, world: RealWorld) -> None:
    change = CHANGES[name]
    id = await change.given(world)
    world.traps.append(Trap(when, step, NoCapacity("scripted")))
    asked = await change.ask(world, id)
    await assert_refused(world, change, step, asked.instance.id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "step"), POINTS)
async def test_a_manager_killed_at_a_step_is_followed_by_one_that_finishes(
    name: str, step: StepName, when: str, world: RealWorld
) -> None:
    """The step that was under way is run again by the next manager: each is safe to repeat."""
    change = CHANGES[name]
    id = await change.given(world)
    world.traps.append(Trap(when, step, Crash()))
    asked = await change.ask(world, id)
    await world.reborn()
    instance = await world.settled(asked.instance.id)
    assert instance is not None and change.after(instance)
    await world.check(instance.id)


@pytest.mark.parametrize("what", [NoCapacity("scripted"), Crash()], ids=["refused", "killed"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [S.KILL, S.UNPLUG, S.REMOVE_DISKS])
async def test_a_delete_only_goes_forward(step: StepName, when: str, what: BaseException, world: RealWorld) -> None:
    id = await DELETES["delete"](world)
    world.traps.append(Trap(when, step, what))
    await world.engine.power.delete(ROOT, id)
    if isinstance(what, Crash):
        await world.reborn()
    assert await world.until(id, lambda i: False) is None
    await world.check(id)
    assert (await world.operations(id))[0].outcome is Outcome.DONE
