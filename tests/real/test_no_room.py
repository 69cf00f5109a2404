"""Where /dev/shm has no room, machines sleep, are forked and kept all the same."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import CreateSnapshot, ForkInstance
from real.guests import Guests, sh
from real.test_fork_faults import memories, names
from real.test_killed import BOOT_ID, in_order, settled
from real.test_memory import COUNTS, Make, another_boot, counting
from serving import Server, machines_of

OWN_SHM = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"', "sh")


@pytest.fixture
def cramped(another: Make) -> Iterator[Server]:
    """A server with less room in /dev/shm than the smallest machine needs, as in a container."""
    yield another(prefix=OWN_SHM)


async def again(client: Client, id: str, boot: str, before: int) -> int:
    """It is the same boot, and has gone on counting; where it stands."""
    assert await sh(client, id, BOOT_ID) == boot
    assert await counting(client, id) >= before
    return await counting(client, id)


async def test_standby_forks_and_snapshots_with_memory(cramped: Server) -> None:
    async with cramped.client() as client:
        source = await Guests(client).boot(memory="96M", command=["sh", "-c", COUNTS])
        shm = Path(f"/proc/{source.pid}/root/dev/shm")
        assert [file for file in shm.rglob("*") if file.is_file()] == []
        assert memories(cramped) == 0
        boot, before = await sh(client, source.id, BOOT_ID), await counting(client, source.id)
        for _ in range(2):
            await client.instances.standby(source.id)
            assert machines_of(cramped.data) == []
            await client.instances.restore(source.id, wait="ready")
            before = await again(client, source.id, boot, before)
        await client.instances.reset(source.id)
        boot = await another_boot(client, source.id, boot)
        before = await counting(client, source.id)
        forks = await asyncio.gather(
            *(client.instances.fork(source.id, ForkInstance(name=f"fork{n}"), wait="ready") for n in range(2))
        )
        child = await client.instances.fork(forks[0].id, ForkInstance(name="child"), wait="ready")
        kept = await client.instances.snapshot(source.id, CreateSnapshot(name="kept", kind="full"))
        assert kept.size > 10 * 2**20
    cramped.kill()
    cramped.start()
    async with cramped.client() as client:
        found = await settled(client)
        in_order(cramped, found)
        for vm in (source, *forks, child):
            assert await sh(client, vm.id, "hostname") == vm.name
            await again(client, vm.id, boot, before)
        late = await client.instances.fork(source.id, ForkInstance(name="late"), wait="ready")
        await client.instances.standby(source.id)
    cramped.kill()
    cramped.start()
    async with cramped.client() as client:
        await client.instances.restore(source.id, wait="ready")
        for vm in (source, late):
            await again(client, vm.id, boot, before)
        asleep = await client.instances.get(source.id)
        assert asleep.pid
        os.kill(asleep.pid, signal.SIGKILL)
        await client.instances.wait(source.id, ["ended"], timeout=30)
        await client.snapshots.delete("kept")
        for vm in (source, late, child, *forks):
            await client.instances.delete(vm.id, force=True)
        async with asyncio.timeout(20):
            while names(cramped.data / "memory") or memories(cramped):
                await asyncio.sleep(0.1)
