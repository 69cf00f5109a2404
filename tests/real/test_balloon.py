"""Memory that a guest frees or gives up is the host's again, and no image pays for it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from polyvisor.client import Client
from polyvisor.host.paths import Paths
from polyvisor.wire.native import CreateInstance, CreateSnapshot, ForkInstance, ReclaimMemory
from real.guests import Guests, sh
from real.test_killed import BOOT_ID
from serving import Server

FILL = "mkdir -p /run/t; mount -t tmpfs -o size=100% none /run/t; head -c 104857600 /dev/urandom > /run/t/fill; sync"
FREE = "rm /run/t/fill"
CACHE = "dd if=/dev/zero of=/root/f bs=1M count=140; cat /root/f > /dev/null; sync"  # more than it keeps of its memory
MIB = 2**20
LIMIT = 120


def held(path: Path) -> int:
    """Bytes that a sparse file takes."""
    return path.stat().st_blocks * 512


def own(pid: int) -> int:
    """Bytes of a process that are nobody else's."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) * 1024


async def until(true: Callable[[], bool]) -> None:
    """Wait for it: a guest reports what is free every few seconds."""
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.1)


async def pid_of(client: Client, key: str) -> int:
    """Its process."""
    pid = (await client.instances.get(key)).pid
    assert pid is not None
    return pid


async def test_what_a_guest_frees_goes_back_and_is_not_saved(client: Client, guests: Guests, base: Server) -> None:
    vm = await guests.boot(memory="256M")
    file = Paths(base.data).shm / f"{vm.id}.ram"
    await sh(client, vm.id, FILL)
    full = held(file)
    assert full > 100 * MIB
    await sh(client, vm.id, FREE)
    await until(lambda: held(file) < full - 70 * MIB)
    boot = await sh(client, vm.id, BOOT_ID)
    await client.instances.standby(vm.id)
    pages = list((base.data / "memory").glob("*/pages.ram"))
    await client.instances.restore(vm.id, wait="ready")
    assert await sh(client, vm.id, BOOT_ID) == boot
    assert all(held(path) < full - 70 * MIB for path in pages if path.exists())


async def privately(client: Client, base: Server, key: str) -> None:
    """One that maps an image gives its own pages back, and the image stays what it was."""
    pid = await pid_of(client, key)
    before = own(pid)
    await sh(client, key, FILL)
    assert own(pid) > before + 100 * MIB
    await sh(client, key, FREE)
    await until(lambda: own(pid) < before + 40 * MIB)


async def test_a_fork_gives_its_own_pages_back(client: Client, guests: Guests, base: Server) -> None:
    vm = await guests.boot(memory="256M")
    await sh(client, vm.id, "mkdir -p /run/k; mount -t tmpfs none /run/k; head -c 8000000 /dev/urandom > /run/k/kept")
    told = await sh(client, vm.id, "md5sum < /run/k/kept")
    snapshot = await client.instances.snapshot(vm.id, CreateSnapshot(kind="full"))
    image = base.data / "memory" / snapshot.id / "pages.ram"
    was = hashlib.sha256(image.read_bytes()).digest()
    fork = await client.instances.fork(vm.id, ForkInstance(), wait="ready")
    guests.also(fork.name)
    await privately(client, base, fork.id)
    second = await guests.make(None, "ready", snapshot=snapshot.id)
    await privately(client, base, second.id)
    third = await client.instances.fork(second.id, ForkInstance(), wait="ready")
    guests.also(third.name)
    for each in (vm, fork, second, third):
        assert await sh(client, each.id, "md5sum < /run/k/kept") == told
    assert hashlib.sha256(image.read_bytes()).digest() == was
    await client.snapshots.delete(snapshot.id)


async def test_one_that_was_restored_from_the_disk_leaves_the_file_alone(
    client: Client, guests: Guests, base: Server
) -> None:
    """A snapshot of one in standby is the same file by another name: a hole in the one would be a hole in the other."""
    vm = await guests.boot(memory="256M")
    await sh(client, vm.id, FILL)
    told = await sh(client, vm.id, "md5sum < /run/t/fill")
    await client.instances.standby(vm.id)
    await until(lambda: len(list((base.data / "memory").glob("*/pages.ram"))) == 1)
    snapshot = await client.instances.snapshot(vm.id, CreateSnapshot(kind="full"))
    image = base.data / "memory" / snapshot.id / "pages.ram"
    was, size = hashlib.sha256(image.read_bytes()).digest(), held(image)
    await client.instances.restore(vm.id, wait="ready")
    await sh(client, vm.id, FREE)
    await privately(client, base, vm.id)
    assert (hashlib.sha256(image.read_bytes()).digest(), held(image)) == (was, size)
    await client.instances.standby(vm.id)
    await client.instances.restore(vm.id, wait="ready")
    fork = await guests.make(None, "ready", snapshot=snapshot.id)
    assert await sh(client, fork.id, "md5sum < /run/t/fill") == told
    await client.snapshots.delete(snapshot.id)


async def free_in(client: Client, key: str) -> tuple[int, int]:
    """`MemTotal` of a guest, and what is left to it: free memory and what it would forget for it, in bytes."""
    told = await sh(client, key, "awk '/^MemTotal|^MemAvailable/ {print $2}' /proc/meminfo")
    total, free = (int(word) * 1024 for word in told.split())
    return total, free


async def test_a_guest_lends_memory_and_has_it_back(client: Client, guests: Guests, base: Server) -> None:
    """Asked while it holds nothing: its free memory falls. What it had touched is the host's until it is given back."""
    vm = await guests.boot(memory="256M")
    file = Paths(base.data).shm / f"{vm.id}.ram"
    await sh(client, vm.id, CACHE)
    full, (total, _) = held(file), await free_in(client, vm.id)
    asked = await client.hosts.reclaim(ReclaimMemory(bytes="1G", hold="10m", reason="a test"))
    try:
        mine = next(action for action in asked.actions if action.instance == vm.id)
        assert (mine.status, mine.target, mine.floor) == ("applied", 128 * MIB, 128 * MIB)
        async with asyncio.timeout(LIMIT):
            while (now := await free_in(client, vm.id))[0] - now[1] < 110 * MIB:
                await asyncio.sleep(0.2)
        await until(lambda: held(file) < full - 30 * MIB)
        await client.instances.standby(vm.id)
        await client.instances.restore(vm.id, wait="ready")
    finally:
        ended = await client.hosts.reclaim(ReclaimMemory(bytes=0))
    assert (ended.applied, ended.hold_until) == (0, None)
    async with asyncio.timeout(LIMIT):
        while (await free_in(client, vm.id))[1] < total * 3 // 4:
            await asyncio.sleep(0.2)


async def test_a_fork_lends_as_well(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="256M")
    fork = await client.instances.fork(vm.id, ForkInstance(), wait="ready")
    guests.also(fork.name)
    assert fork.pid is not None
    await sh(client, fork.id, CACHE)
    before = own(fork.pid)
    try:
        asked = await client.hosts.reclaim(ReclaimMemory(bytes="1G"))
        assert {action.status for action in asked.actions if action.instance in (vm.id, fork.id)} == {"applied"}
        pid = fork.pid
        await until(lambda: own(pid) < before - 30 * MIB)
    finally:
        await client.hosts.reclaim(ReclaimMemory(bytes=0))
    assert await sh(client, fork.id, "wc -c < /root/f") == str(140 * MIB)


async def test_a_host_under_pressure_is_lent_memory(another: Callable[..., Server], tmp_path: Path) -> None:
    """The threshold is one that no host is above, so the pressure lasts; a guest that needs memory takes it back."""
    settings = tmp_path / "settings.toml"
    settings.write_text('[memory]\nreclaim_below = "1000T"\nreclaim_floor = 60\n')
    server = another("--config", str(settings))
    async with server.client() as client:
        vm = await client.instances.create(CreateInstance(image="busybox", memory="256M"), wait="ready")
        async with asyncio.timeout(LIMIT):
            while (now := await free_in(client, vm.id))[0] - now[1] < 100 * MIB:
                await asyncio.sleep(0.5)
        told = await client.hosts.reclaim(ReclaimMemory(bytes=0, dry_run=True))
        assert told.host_pressure == "pressure"
        assert [action.floor for action in told.actions] == [154 * MIB]
        await sh(
            client,
            vm.id,
            "mkdir -p /run/t; mount -t tmpfs -o size=100% none /run/t; head -c 150000000 /dev/zero > /run/t/f",
        )
        assert await sh(client, vm.id, "wc -c < /run/t/f") == "150000000"
