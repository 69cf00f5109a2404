"""A driver of each kind with a machine to launch. Another kind is one line in `DRIVERS` and what it says of itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyvisor.host.hypervisor.fake.driver import FakeHypervisor
from polyvisor.host.paths import Paths
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId, mint
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import DiskFile, Hypervisor, LiveVm, Machine


@dataclass
class Bench:
    """A driver, how to make a machine for it, and how to make its guest power off by itself."""

    driver: Hypervisor
    another: Callable[[], Awaitable[Hypervisor]]  # the driver of a later manager
    machine: Callable[[], Awaitable[Machine]]
    disk: Callable[[], DiskFile]
    power_off: Callable[[LiveVm], Awaitable[None]]


def a_blueprint() -> Blueprint:
    """Of a small micro instance."""
    id = InstanceId(mint())
    spec = Spec(
        Digest("sha256:" + "a" * 64), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(64 * MIB), Bytes(64 * MIB)
    )
    return Blueprint(id, 1, ProjectId("p" * 24), "it", spec, None)


async def fake(tmp: Path) -> Bench:
    """The fake one."""
    paths = Paths(tmp / "data")
    paths.make()

    async def another() -> Hypervisor:
        return FakeHypervisor(paths.instances)

    async def machine() -> Machine:
        blueprint = a_blueprint()
        paths.instance(blueprint.id).mkdir()
        return Machine(blueprint, paths.instance(blueprint.id), (), None)

    def disk() -> DiskFile:
        path = paths.volume(mint())
        path.touch()
        return DiskFile(path, "raw", path.stem[:20])

    async def power_off(vm: LiveVm) -> None:
        await vm.press()

    return Bench(await another(), another, machine, disk, power_off)


DRIVERS: dict[str, Callable[[Path], Awaitable[Bench]]] = {"fake": fake}


@pytest.fixture(params=DRIVERS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """One driver of each kind."""
    return await DRIVERS[request.param](tmp_path)


@pytest.fixture
async def machine(bench: Bench) -> Machine:
    """What to launch."""
    return await bench.machine()


@pytest.fixture
async def vm(bench: Bench, machine: Machine) -> AsyncIterator[LiveVm]:
    """One that runs; ended when the test is over."""
    launched = await bench.driver.launch(machine)
    yield launched
    await launched.kill()
    await launched.close()
