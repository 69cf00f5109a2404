"""A driver of each kind with a machine to launch. Another kind is one line in `DRIVERS` and what it says of itself."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyvisor.host.boot import BootFiles, guest_config
from polyvisor.host.hypervisor.fake.driver import FakeHypervisor
from polyvisor.host.hypervisor.fake.host import FakeStorage
from polyvisor.host.hypervisor.qemu.argv import Facts
from polyvisor.host.hypervisor.qemu.driver import Qemu, open_qemu
from polyvisor.host.hypervisor.qemu.live import QemuVm
from polyvisor.host.images.local import LocalImages
from polyvisor.host.paths import CONFIG, Paths
from polyvisor.host.storage import FileStorage
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId, machine_uuid, mint
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import DiskFile, Hypervisor, LiveVm, Machine
from polyvisor.ports.storage import Storage


@dataclass
class Bench:
    """A driver, how to make a machine for it, and how to make its guest power off by itself."""

    driver: Hypervisor
    another: Callable[[], Awaitable[Hypervisor]]  # the driver of a later manager
    machine: Callable[[], Awaitable[Machine]]
    disk: Callable[[], DiskFile]
    power_off: Callable[[LiveVm], Awaitable[None]]
    overlay: Callable[[Machine], Awaitable[DiskFile]]  # a new one above the machine's own disk
    written: Callable[[LiveVm], Awaitable[int]]  # the generation of the one that it writes to


async def overlay_of(storage: Storage, machine: Machine, image: Path) -> DiskFile:
    """What a machine is switched to by a snapshot."""
    seen: list[DiskFile] = []

    async def switch(disk: DiskFile, *, ahead: bool = False) -> None:
        seen.append(disk)

    await storage.snapshot(machine.blueprint, image, mint(), switch)
    return seen[-1]


def a_blueprint() -> Blueprint:
    """Of a small micro instance."""
    id = InstanceId(mint())
    spec = Spec(
        Digest("sha256:" + "a" * 64), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(96 * MIB), Bytes(64 * MIB)
    )
    return Blueprint(id, 1, ProjectId("p" * 24), "it", spec, None)


async def fake(tmp: Path, shared: Path) -> Bench:
    """The fake one."""
    paths = Paths(tmp / "data")
    paths.make()
    ids: dict[str, InstanceId] = {}

    async def another() -> Hypervisor:
        return FakeHypervisor(paths.instances)

    async def machine() -> Machine:
        blueprint = a_blueprint()
        await FakeStorage(paths).make(blueprint, tmp)
        ids[machine_uuid(blueprint.id)] = blueprint.id
        return Machine(blueprint, paths.instance(blueprint.id), (), None)

    def disk() -> DiskFile:
        path = paths.volume(mint())
        path.touch()
        return DiskFile(path, "raw", path.stem[:20])

    async def power_off(vm: LiveVm) -> None:
        await vm.press()

    async def overlay(machine: Machine) -> DiskFile:
        return await overlay_of(FakeStorage(paths), machine, tmp)

    async def written(vm: LiveVm) -> int:
        facts = json.loads((paths.instances / ids[vm.record.uuid] / "fake.json").read_text())
        return int(facts["written"].get("pvdisk", 0))

    return Bench(await another(), another, machine, disk, power_off, overlay, written)


async def qemu(tmp: Path, shared: Path) -> Bench:
    """The real one, with a real guest. What is slow to make is made once, in `shared`."""
    paths = Paths(tmp / "data")
    paths.make()
    boot = BootFiles(shared / "boot")
    image = await LocalImages(shared / "images").build("busybox", lambda text, fraction: None)
    root = await LocalImages(shared / "images").path(image.id)
    kernel, initrd = await boot.kernel()
    facts = await known_facts()

    async def another() -> Hypervisor:
        return Qemu(facts)

    async def machine() -> Machine:
        blueprint = a_blueprint()
        storage = FileStorage(paths)
        await storage.make(blueprint, root)
        config = guest_config(blueprint)
        (paths.instance(blueprint.id) / CONFIG).write_bytes(config)
        disks = storage.disks(blueprint, root)
        return Machine(blueprint, paths.instance(blueprint.id), disks, None, kernel, initrd, config)

    def disk() -> DiskFile:
        path = paths.volume(mint())
        with path.open("wb") as file:
            file.truncate(MIB)
        return DiskFile(path, "raw", path.stem[:20])

    async def power_off(vm: LiveVm) -> None:
        await (await vm.guest()).shutdown()

    async def overlay(machine: Machine) -> DiskFile:
        return await overlay_of(FileStorage(paths), machine, root)

    async def written(vm: LiveVm) -> int:
        assert isinstance(vm, QemuVm)
        return await vm.written("pvdata")

    return Bench(await another(), another, machine, disk, power_off, overlay, written)


_known: list[Facts] = []
_folder = tempfile.TemporaryDirectory(prefix="polyvisor-driver-")


async def known_facts() -> Facts:
    """Found once: the probe of an accelerator that does not work takes its time."""
    if not _known:
        _known.append((await open_qemu(Path(_folder.name))).facts)
    return _known[0]


DRIVERS: dict[str, Callable[[Path, Path], Awaitable[Bench]]] = {"fake": fake, "qemu": qemu}


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what all tests can share."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("boot", "images"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(params=DRIVERS)
async def bench(request: pytest.FixtureRequest, tmp_path: Path, shared: Path) -> Bench:
    """One driver of each kind."""
    return await DRIVERS[request.param](tmp_path, shared)


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
