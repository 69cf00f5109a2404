"""Compressed memory of real machines: what was in it is there afterwards, whatever comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from polyvisor.client import Client
from polyvisor.wire.native import (
    CreateInstance,
    CreateSnapshot,
    ForkInstance,
    Snapshot,
    StandbyInstance,
    UpdateInstance,
)
from real.guests import Guests, sh
from real.test_killed import BOOT_ID
from real.test_memory import COUNTS, counting
from serving import Server

Make = Callable[..., Server]
FILLED = "mkdir -p /run/t; mount -t tmpfs none /run/t; head -c 20000000 /dev/urandom > /run/t/file;"
SUM = "md5sum < /run/t/file"
LIMIT = 200


def packed(server: Server, pattern: str = "*/pages.ram.*") -> list[Path]:
    """The compressed pages on its disk."""
    return list((server.data / "memory").glob(pattern))


async def until(true: Callable[[], object]) -> None:
    """Wait for it."""
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.05)


async def compressed(client: Client, snapshot: Snapshot) -> Snapshot:
    """The snapshot once it is."""
    async with asyncio.timeout(LIMIT):
        while snapshot.compression_state == "compressing":
            await asyncio.sleep(0.1)
            snapshot = await client.snapshots.get(snapshot.id)
    assert snapshot.compression_state == "compressed", snapshot.compression_error
    return snapshot


async def test_standby_compressed_again_and_again(client: Client, guests: Guests, base: Server) -> None:
    """Memory of its own, then pages over a base, then one that was unpacked; each is compressed once."""
    vm = await guests.boot(memory="128M", command=["sh", "-c", FILLED + COUNTS])
    boot, told = (
        await sh(client, vm.id, BOOT_ID),
        await sh(client, vm.id, f"until [ -s /tmp/count ]; do :; done; {SUM}"),
    )
    for how in ("none", "zstd:3", "lz4", "none", "lz4:0", "zstd"):
        before = await counting(client, vm.id)
        await client.instances.standby(vm.id, StandbyInstance(compression=how))
        if how != "none":
            await until(lambda: packed(base) and not list((base.data / "memory").glob("*/pages.ram")))
        await client.instances.restore(vm.id, wait="ready")
        assert before <= await counting(client, vm.id)
        assert (await sh(client, vm.id, BOOT_ID), await sh(client, vm.id, SUM)) == (boot, told)
    await client.instances.update(vm.id, UpdateInstance(compression="zstd", compression_delay="1h"))
    await client.instances.standby(vm.id)
    await client.instances.delete(vm.id, force=True)
    await until(lambda: not list((base.data / "memory").iterdir()))


async def test_a_compressed_snapshot_is_forked(client: Client, guests: Guests, base: Server) -> None:
    vm = await guests.boot(memory="128M", command=["sh", "-c", FILLED + COUNTS], compression="zstd:1")
    told = await sh(client, vm.id, f"until [ -s /tmp/count ]; do :; done; {SUM}")
    taken = await client.instances.snapshot(vm.id, CreateSnapshot(kind="full"))
    snapshot = await compressed(client, taken)
    assert snapshot.compressed_size is not None and snapshot.uncompressed_size is not None
    assert 20_000_000 < snapshot.compressed_size < snapshot.uncompressed_size
    assert snapshot.size < taken.size
    fork = await guests.make(None, "ready", snapshot=snapshot.id)
    assert await sh(client, fork.id, SUM) == told
    await sh(client, fork.id, "echo mine > /run/t/mine")
    diff = await client.instances.snapshot(fork.id, CreateSnapshot(kind="full", compression="lz4:9"))
    diff = await compressed(client, diff)
    assert diff.compressed_size is not None and diff.compressed_size < snapshot.compressed_size
    second = await guests.make(None, "ready", snapshot=diff.id)
    assert await sh(client, second.id, f"cat /run/t/mine; {SUM}") == f"mine\n{told}"
    await client.instances.standby(second.id, StandbyInstance(compression="zstd"))
    await client.instances.restore(second.id)
    assert await sh(client, second.id, f"cat /run/t/mine; {SUM}") == f"mine\n{told}"
    live = await client.instances.fork(second.id, ForkInstance(), wait="ready")
    guests.also(live.name)
    assert await sh(client, live.id, SUM) == told
    for name in (snapshot.id, diff.id):
        await client.snapshots.delete(name)


async def test_a_server_killed_while_it_compresses(another: Make) -> None:
    server = another()
    async with server.client() as client:
        vm = await client.instances.create(
            CreateInstance(image="busybox", memory="128M", command=["sh", "-c", FILLED + COUNTS]), wait="ready"
        )
        told = await sh(client, vm.id, f"until [ -s /tmp/count ]; do :; done; {SUM}")
        snapshot = await client.instances.snapshot(vm.id, CreateSnapshot(kind="full", compression="zstd:15"))
        await client.instances.standby(vm.id, StandbyInstance(compression="zstd:15"))
        await until(lambda: packed(server, "*/*.part"))
    server.kill()
    server.start()
    async with server.client() as client:
        await until(lambda: packed(server, "*/*.part"))  # it is at it again
        await client.instances.restore(vm.id, wait="ready")
        assert await sh(client, vm.id, SUM) == told
        await client.instances.standby(vm.id, StandbyInstance(compression="zstd"))
        await compressed(client, snapshot)
        await until(lambda: len(packed(server)) >= 2)
    server.kill()
    server.start()
    async with server.client() as client:
        awake = asyncio.create_task(client.instances.restore(vm.id))
        await asyncio.sleep(0.1)
        server.kill()
        await asyncio.gather(awake, return_exceptions=True)
    server.start()
    async with server.client() as client:
        await client.instances.restore(vm.id, wait="ready")  # it may be on its way already
        assert await sh(client, vm.id, SUM) == told
        fork = await client.instances.create(CreateInstance(snapshot=snapshot.id), wait="ready")
        assert await sh(client, fork.id, SUM) == told
        await client.snapshots.delete(snapshot.id)
    assert packed(server, "*/*.part") == []
