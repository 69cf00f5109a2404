"""Forks and snapshots with memory while things die: the source runs, and nothing is left of what was not made."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polyvisor.client import Client, Refused
from polyvisor.host.paths import MEMFD_NAME, Paths
from polyvisor.wire.native import CreateInstance, CreateSnapshot, CreateVolume, ForkInstance, Instance, MountRequest
from real.guests import Guests, run, sh
from real.test_killed import BOOT_ID, fill, in_order, settled, small
from real.test_memory import COUNTS, Make, counting
from serving import Server, machines_of

__all__ = ["small"]  # a fixture
Kind = Callable[[Client, str, str], object]


def memories(server: Server) -> int:
    """How many memfds with machines' memory the server itself holds open."""
    links = [str(link.readlink()) for link in Path(f"/proc/{server.pid}/fd").iterdir() if link.is_symlink()]
    return sum(MEMFD_NAME in link for link in links)


def names(folder: Path) -> set[str]:
    """What is in a directory."""
    return {path.name for path in folder.iterdir()}


async def nothing_left(server: Server, client: Client, limit: float = 20.0) -> None:
    """Only what instances and listed snapshots need is there, as soon as what is under way is over."""
    paths = Paths(server.data)
    found = await settled(client)
    in_order(server, found)
    kept = {snapshot.id async for snapshot in client.snapshots.list()}
    up = {vm.id for vm in found if vm.pid}
    holds = [(paths.instance(vm.id) / "memory.json") for vm in found]  # type: ignore[arg-type]  # an id as text
    mapped = sum(file.exists() and '"base": ""' not in file.read_text() for file in holds)

    def left() -> list[object]:
        return [
            names(paths.snapshots) - kept,
            {name.removesuffix(".ram") for name in names(paths.shm)} - up,
            max(0, len(names(paths.memory)) - len(kept) - mapped),
            max(0, memories(server) - len(kept) - mapped),
        ]

    end = time.monotonic() + limit
    while any(left()):
        assert time.monotonic() < end, left()
        await asyncio.sleep(0.1)


async def goes_on(client: Client, source: Instance, boot: str) -> None:
    """It runs, as the same boot, and its counter counts."""
    assert (await client.instances.get(source.id)).state == "running"
    assert await sh(client, source.id, BOOT_ID) == boot
    before = await counting(client, source.id)
    await asyncio.sleep(0.3)
    assert await counting(client, source.id) > before


async def begin(client: Client, source: str, what: str) -> None:
    """Ask, and go away before the answer comes."""
    with contextlib.suppress(Refused, OSError, Exception):
        if what == "fork":
            await client.instances.fork(source, ForkInstance(name=f"fork{time.monotonic_ns()}"), wait="accepted")
        else:
            await client.instances.snapshot(source, CreateSnapshot(kind="full"))


@pytest.mark.lengthy
@pytest.mark.parametrize("what", ["fork", "snapshot"])
async def test_a_kill_9_of_the_server_at_many_moments(what: str, another: Make) -> None:
    server = another()
    async with server.client() as client:
        await client.volumes.create(CreateVolume(name="shared", size="64M"))
        shared = [MountRequest(volume="shared", path="/v", read_only=True)]
        source = await Guests(client).boot(memory="96M", command=["sh", "-c", COUNTS], volumes=shared)
        boot = await sh(client, source.id, BOOT_ID)
    for turn in range(12):
        async with server.client() as client:
            asking = asyncio.create_task(begin(client, source.id, what))
            await asyncio.sleep(0.015 * turn)
            server.kill()
            await asking
        server.start()
        async with server.client() as client:
            found = await settled(client)
            await goes_on(client, source, boot)
            for vm in found:
                assert vm.state in ("running", "failed"), (turn, vm)
                if vm.id != source.id and vm.state == "running":
                    await client.instances.wait(vm.id, ["ready"], timeout=30)
                    assert await sh(client, vm.id, "hostname; ls /v") == f"{vm.name}\nlost+found"
            await nothing_left(server, client)
            for vm in found:
                if vm.id != source.id:
                    await client.instances.delete(vm.id, force=True)
            async for snapshot in client.snapshots.list():
                assert snapshot.state == "ready"
                await client.snapshots.delete(snapshot.id)
            await nothing_left(server, client)
            assert (await client.volumes.get("shared")).attached == [source.id]


@pytest.mark.lengthy
@pytest.mark.parametrize("what", ["fork", "snapshot"])
async def test_a_kill_9_of_the_source_at_many_moments(what: str, client: Client, guests: Guests, base: Server) -> None:
    for turn in range(6):
        source = await guests.boot(memory="96M")
        assert source.pid
        asking = asyncio.create_task(begin(client, source.id, what))
        await asyncio.sleep(0.01 + 0.015 * turn)
        os.kill(source.pid, signal.SIGKILL)
        await asking
        await client.instances.wait(source.id, ["ended"], timeout=30)
        for vm in await settled(client):
            if vm.name.startswith("fork"):
                assert vm.state in ("running", "failed"), (turn, vm)
                await client.instances.delete(vm.id, force=True)
        async for snapshot in client.snapshots.list():
            await client.snapshots.delete(snapshot.id)
        await client.instances.delete(source.id, force=True)
    await nothing_left(base, client)


async def test_a_snapshot_with_memory_outlives_its_source_and_the_server(another: Make) -> None:
    server = another()
    async with server.client() as client:
        source = await Guests(client).boot(memory="96M", command=["sh", "-c", COUNTS])
        boot, before = await sh(client, source.id, BOOT_ID), await counting(client, source.id)
        await sh(client, source.id, "echo kept > /root/file")
        kept = await client.instances.snapshot(source.id, CreateSnapshot(name="kept", kind="full"))
        assert kept.size > 10 * 2**20
        await client.instances.delete(source.id, force=True)
    server.kill()
    server.start()
    async with server.client() as client:
        first = await client.instances.create(CreateInstance(snapshot="kept", name="first"), wait="ready")
        second = await client.instances.create(CreateInstance(snapshot="kept", name="second"), wait="ready")
        for vm in (first, second):
            assert await sh(client, vm.id, BOOT_ID) == boot
            assert await counting(client, vm.id) >= before
            assert await sh(client, vm.id, "hostname; cat /root/file") == f"{vm.name}\nkept"
        third = await client.instances.fork(first.id, ForkInstance(name="third"), wait="ready")
        later = await client.instances.snapshot(third.id, CreateSnapshot(name="later", kind="full"))
        await client.snapshots.delete("kept")
        for vm in (first, third):
            await client.instances.delete(vm.id, force=True)
        await client.instances.standby(second.id)
    server.kill()
    server.start()
    async with server.client() as client:
        await client.instances.restore(second.id, wait="ready")
        fourth = await client.instances.create(CreateInstance(snapshot=later.id, name="fourth"), wait="ready")
        for id in (second.id, fourth.id):
            assert await sh(client, id, BOOT_ID) == boot
            await client.instances.delete(id, force=True)
        await client.snapshots.delete("later")
        await nothing_left(server, client)
        assert names(server.data / "layers") == set()


async def test_a_full_disk_stops_neither_standby_nor_snapshot_nor_the_machine(small: Server) -> None:
    async with small.client() as client:
        guests = Guests(client)
        vm = await guests.boot(memory="256M", disk="1G", command=["sh", "-c", COUNTS])
        boot = await sh(client, vm.id, BOOT_ID)
        await run(
            client,
            vm.id,
            "sh",
            "-c",
            "mkdir /run/t; mount -t tmpfs -o size=170m t /run/t; head -c 90000000 /dev/urandom > /run/t/f",
        )
        digest = await sh(client, vm.id, "sha256sum < /run/t/f")
        fill(small.data, 80 * 2**20)
        for _ in range(2):
            with pytest.raises(Refused, match="full"):
                await client.instances.snapshot(vm.id, CreateSnapshot(kind="full"))
            await goes_on(client, vm, boot)
            await nothing_left(small, client)
        (small.data / "filler").unlink()
        fork = await client.instances.fork(vm.id, ForkInstance(name="fork"), wait="ready")
        await sh(client, fork.id, "head -c 60000000 /dev/urandom > /run/t/g")
        fill(small.data, 40 * 2**20)
        with pytest.raises(Refused, match="full"):
            await client.instances.standby(fork.id)
        assert (await client.instances.get(fork.id)).state == "running"
        assert await sh(client, fork.id, "sha256sum < /run/t/f") == digest
        await nothing_left(small, client)
        await client.instances.standby(vm.id)  # its memory is in RAM for now
        await asyncio.sleep(1)
        (small.data / "filler").unlink()
        await client.instances.restore(vm.id, wait="ready")
        assert await sh(client, vm.id, "sha256sum < /run/t/f") == digest
        await goes_on(client, vm, boot)
        await client.instances.delete(fork.id, force=True)
        await nothing_left(small, client)


async def test_a_crowd_of_forks(another: Make) -> None:
    server = another()
    async with server.client() as client:
        source = await Guests(client).boot(memory="96M", command=["sh", "-c", COUNTS], name="source")
        boot = await sh(client, source.id, BOOT_ID)
        moved, stop = [0], asyncio.Event()

        async def watch() -> None:
            last = await counting(client, source.id)
            while not stop.is_set():
                now = await counting(client, source.id)
                moved[0] += now > last
                last = now

        watching = asyncio.create_task(watch())
        ask = [ForkInstance(name=f"fork-{n}") for n in range(25)]
        forks = await asyncio.gather(*(client.instances.fork(source.id, a, wait="ready", timeout=240) for a in ask))
        stop.set()
        await watching
        assert moved[0] > 1  # it goes on meanwhile, if slowly: two dozen machines share two cores here
        told = await asyncio.gather(*(sh(client, vm.id, "hostname; cat /sys/class/net/eth0/address") for vm in forks))
        assert len({line for text in told for line in text.split()}) == 50
        assert {vm.state for vm in forks} == {"running"}
        assert len({vm.address for vm in forks}) == 25
        assert set(await asyncio.gather(*(sh(client, vm.id, BOOT_ID) for vm in forks))) == {boot}
        await goes_on(client, source, boot)
        await nothing_left(server, client)
        await asyncio.gather(*(client.instances.delete(vm.id, force=True) for vm in (*forks, source)))
        await nothing_left(server, client)
        for folder in ("memory", "layers", "snapshots", "instances"):
            assert names(server.data / folder) == set(), folder
        assert machines_of(server.data) == []
    shm = Paths(server.data).shm
    assert names(shm) == set()
    assert server.stop() == 0
    assert not shm.exists()
