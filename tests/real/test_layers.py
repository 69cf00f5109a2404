"""Snapshots of real guests that write meanwhile, forks of them beside their source, and chains as deep as allowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from contract.hypervisor.conftest import a_blueprint, known_facts
from contract.hypervisor.test_hypervisor import said
from contract.storage.disks import Killed, Killer
from polyvisor.host.boot import BootFiles
from polyvisor.host.hypervisor.qemu.chain import LONGER
from polyvisor.host.hypervisor.qemu.driver import Qemu
from polyvisor.host.hypervisor.qemu.live import QemuVm
from polyvisor.host.images.local import LocalImages
from polyvisor.host.local import LocalHost
from polyvisor.host.network.user import UserNetwork
from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage, layers
from polyvisor.model.faults import NoCapacity, Unavailable, WrongState
from polyvisor.model.host import Blueprint, Sight
from polyvisor.model.ids import Digest, HostId, SnapshotId
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import Machine

LIMIT = 60.0
WRITER = "i=0; while :; do i=$((i+1)); echo $i >> /log; sync; done"


class Holding(Qemu):
    """A driver that remembers its latest machine."""

    vm: QemuVm

    async def launch(self, machine: Machine) -> QemuVm:
        """See Hypervisor."""
        self.vm = await super().launch(machine)
        return self.vm


class Bench:
    """A host of a test's own, that can begin again on what it left."""

    def __init__(self, root: Path, shared: Path, image: Digest) -> None:
        self.paths = Paths(root / "data")
        self.paths.make()
        self._shared = shared
        self._image = image
        self._made: list[Blueprint] = []

    async def begin(self) -> None:
        """Another manager."""
        self.storage = FileStorage(self.paths)
        images, boot = LocalImages(self._shared / "images"), BootFiles(self._shared / "boot")
        self.qemu = Holding(await known_facts())
        self.host = LocalHost(HostId("h"), self.paths, self.qemu, self.storage, UserNetwork(), images, boot)
        await self.host.adopt([(one, None) for one in self._made])

    async def made(self, origin: str = "", disk: int = 64 * MIB) -> Blueprint:
        """An instance that does not run."""
        one = a_blueprint()
        one = replace(one, spec=replace(one.spec, image=self._image, disk=Bytes(disk), origin=origin))
        self._made.append(one)
        await self.host.make_disks(one)
        return one

    async def snapshot(self, one: Blueprint, name: str) -> None:
        """Of its disk."""
        await self.host.snapshot(one, SnapshotId(name), memory=False)

    async def started(self, one: Blueprint) -> Guest:
        """Its guest, once it is up."""
        await self.host.launch(one)
        return await self.guest(one)

    async def guest(self, one: Blueprint) -> Guest:
        """Its guest, once it answers."""
        async with asyncio.timeout(LIMIT):
            while True:
                with contextlib.suppress(Unavailable):
                    guest = await self.host.guest(one.id)
                    await guest.until_ready()
                    return guest
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        """No machine is left."""
        for one in self._made:
            with contextlib.suppress(Unavailable):
                await self.host.kill(one.id)
        await self.host.close(idle=True)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what all tests can share."""
    folder = tmp_path_factory.mktemp("shared")
    for name in ("boot", "images"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
async def bench(tmp_path: Path, shared: Path) -> AsyncIterator[Bench]:
    """A host with an image."""
    image = await LocalImages(shared / "images").build("busybox", lambda text, fraction: None)
    made = Bench(tmp_path, shared, image.id)
    await made.begin()
    yield made
    await made.end()


async def out(guest: Guest, script: str) -> str:
    """What a script says."""
    told, wrong, end = await said(guest, "sh", "-c", script)
    assert end.code == 0, wrong
    return told.decode()


async def lines(guest: Guest) -> list[int]:
    """What the writer wrote, which must be whole."""
    found = [int(line) for line in (await out(guest, "cat /log")).split()]
    assert found == list(range(1, len(found) + 1))
    return found


async def test_a_guest_writes_on_while_its_disk_is_switched_and_nothing_is_lost(bench: Bench) -> None:
    one = await bench.made()
    guest = await bench.started(one)
    await out(guest, f"({WRITER}) > /dev/null 2>&1 & echo $! > /run/writer")
    await out(guest, "echo kept > /kept")  # not synced: the snapshot asks for it
    before = {}
    for name in ("a", "b", "c"):
        await asyncio.sleep(0.3)
        before[name] = len(await lines(guest))
        await bench.snapshot(one, name)
    last = len(await lines(guest))
    assert "error" not in (await out(guest, "dmesg | grep -i -e vdb -e ext4; true")).lower()
    await bench.host.remove_snapshot(SnapshotId("b"))
    await bench.storage.compact()
    for name in ("a", "c"):  # beside their source, which has the same files open
        fork = await bench.made(name)
        found = await bench.started(fork)
        assert before[name] - 1 <= len(await lines(found)) <= last
        assert await out(found, "cat /kept") == "kept\n"
        await out(found, "echo $(hostname) >> /kept; sync")
        await bench.host.kill(fork.id)
    assert len(await lines(guest)) > last
    await out(guest, "kill $(cat /run/writer); sync")
    with pytest.raises(WrongState):
        await bench.host.revert(one, SnapshotId("a"))
    last = len(await lines(guest))
    await bench.host.kill(one.id)
    assert len(await lines(await bench.started(one))) == last
    await bench.host.kill(one.id)
    await bench.host.revert(one, SnapshotId("a"))
    assert before["a"] - 1 <= len(await lines(await bench.started(one))) < last


async def test_a_paused_guest_has_a_snapshot_taken_and_goes_on(bench: Bench) -> None:
    one = await bench.made()
    guest = await bench.started(one)
    await out(guest, f"({WRITER}) > /dev/null 2>&1 & true")
    await bench.host.pause(one.id)
    await bench.snapshot(one, "s")
    assert (await bench.host.look(one)).sight is Sight.PAUSED
    await bench.host.resume(one.id)
    known = len(await lines(guest))
    await asyncio.sleep(0.3)
    assert len(await lines(guest)) > known


@pytest.mark.parametrize("at", ["layer made", "overlay made", "recorded", "switched", "held"])
async def test_a_manager_killed_in_a_snapshot_is_followed_by_one_that_finishes(at: str, bench: Bench) -> None:
    one = await bench.made()
    guest = await bench.started(one)
    await out(guest, f"({WRITER}) > /dev/null 2>&1 & true")
    points = ["layer made", "overlay made", "recorded", "switched", "held"]
    bench.storage.on_point(Killer(points.index(at) + 1))
    with pytest.raises(Killed):
        await bench.snapshot(one, "s")
    await bench.host.close(idle=False)
    await bench.begin()
    await bench.host.sweep(frozenset({one.id}), frozenset(), frozenset({"s"}))
    guest = await bench.guest(one)
    known = len(await lines(guest))
    await bench.snapshot(one, "s")
    last = len(await lines(guest))
    fork = await bench.made("s")
    found = len(await lines(await bench.started(fork)))
    assert found <= last + 1
    if at in ("layer made", "overlay made", "recorded"):  # until the switch, it wrote to what is the snapshot's now
        assert found >= known - 1
    await bench.host.kill(one.id)
    assert len(await lines(await bench.started(one))) >= last - 1  # the one that was being written may be lost


async def test_a_larger_fork_has_more_room(bench: Bench) -> None:
    one = await bench.made()
    guest = await bench.started(one)
    await out(guest, "echo kept > /kept")
    room = int(await out(guest, "df -k / | tail -n 1 | awk '{print $2}'"))
    await bench.snapshot(one, "s")
    fork = await bench.made("s", disk=256 * MIB)
    found = await bench.started(fork)
    assert await out(found, "cat /kept") == "kept\n"
    assert int(await out(found, "df -k / | tail -n 1 | awk '{print $2}'")) > 3 * room


async def test_a_chain_as_deep_as_allowed_boots(bench: Bench) -> None:
    one = await bench.made()
    for number in range(layers.DEEPEST):
        await bench.snapshot(one, f"s{number}")
    with pytest.raises(NoCapacity):
        await bench.snapshot(one, "one more")
    guest = await bench.started(one)
    assert await out(guest, "echo deep > /deep; sync; echo 3 > /proc/sys/vm/drop_caches; cat /deep") == "deep\n"


async def test_a_machine_may_be_switched_for_ever_while_snapshots_are_removed(bench: Bench) -> None:
    """It opens anew what was joined on the disk, and closes what it had open."""
    one = await bench.made()
    guest = await bench.started(one)
    vm = bench.qemu.vm
    await out(guest, f"({WRITER}) > /dev/null 2>&1 & true")
    images = await bench.host.images.path(one.spec.image)
    for number in range(60):
        await bench.storage.snapshot(one, images, f"t{number}", vm.switch)
        if number >= 2:
            await bench.host.remove_snapshot(SnapshotId(f"t{number - 2}"))
        if number % 3 == 0:
            await bench.storage.compact()
            await lines(guest)
    assert await vm.written("pvdata") == 60
    files = [str(fd.readlink()) for fd in Path(f"/proc/{vm.record.pid}/fd").iterdir()]
    assert len([name for name in files if ".qcow2" in name]) < 2 * (LONGER + 6)  # each in its set, and as it is used
    fork = await bench.made("t59")  # beside its source
    await lines(await bench.started(fork))
    last = len(await lines(guest))
    await bench.host.kill(one.id)
    assert len(await lines(await bench.started(one))) >= last - 1  # the one that was being written may be lost
