"""Standby and restore: memory, processes and the clock are where they were."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import AttachVolume, CreateVolume, ForkInstance, MountRequest
from real.guests import Guests, run, sh
from real.test_killed import BOOT_ID, in_order, settled
from serving import Server, machines_of

Make = Callable[..., Server]
COUNTS = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done"


async def counting(client: Client, key: str) -> int:
    """What a counter in the guest stands at."""
    return int(await sh(client, key, "until cat /tmp/count | grep .; do :; done"))


async def another_boot(client: Client, key: str, known: str) -> str:
    """The guest's boot id, once it is another one."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(Refused):
                if (now := await sh(client, key, BOOT_ID)) != known:
                    return now
            await asyncio.sleep(0.1)


async def test_standby_and_restore_again_and_again(client: Client, guests: Guests, base: Server) -> None:
    script = "mkdir -p /run/t; mount -t tmpfs none /run/t; echo kept > /run/t/file; echo disk > /root/file;" + COUNTS
    vm = await guests.boot(memory="128M", command=["sh", "-c", script])
    boot = await sh(client, vm.id, BOOT_ID)
    for _ in range(3):
        before = await counting(client, vm.id)
        asleep = await client.instances.standby(vm.id)
        assert (asleep.state, asleep.pid) == ("suspended", None)
        assert vm.pid not in machines_of(base.data)
        await asyncio.sleep(1.5)
        awake = await client.instances.restore(vm.id, wait="ready")
        before_it, told, after_it = time.time(), int(await sh(client, vm.id, "date +%s")), time.time()
        assert awake.state == "running"
        assert before <= await counting(client, vm.id)
        assert await sh(client, vm.id, BOOT_ID) == boot
        assert await sh(client, vm.id, "cat /run/t/file /root/file") == "kept\ndisk"
        assert before_it - 2 < told < after_it + 1  # a second off at most, and it tells whole ones


async def test_what_was_restored_boots_anew_when_its_guest_wants_to(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="96M")
    boot = await sh(client, vm.id, BOOT_ID)
    await sh(client, vm.id, "echo there > /root/file; sync")
    await client.instances.standby(vm.id)
    await client.instances.restore(vm.id)
    with pytest.raises(Refused):
        await run(client, vm.id, "sh", "-c", "reboot -f; sleep 60")
    second = await another_boot(client, vm.id, boot)
    assert await sh(client, vm.id, "cat /root/file") == "there"
    await client.instances.standby(vm.id)
    await client.instances.restore(vm.id)
    await client.instances.reset(vm.id)
    await another_boot(client, vm.id, second)


async def test_start_goes_on_and_stop_gives_it_up(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="96M")
    boot = await sh(client, vm.id, BOOT_ID)
    for verb in ("pause", "detach"):
        await client.instances.standby(vm.id)
        with pytest.raises(Refused, match="suspended"):
            await (client.instances.pause(vm.id) if verb == "pause" else client.instances.reset(vm.id))
        assert (await client.instances.start(vm.id, wait="ready")).ready
        assert await sh(client, vm.id, BOOT_ID) == boot
    await client.instances.standby(vm.id)
    assert (await client.instances.stop(vm.id)).state == "stopped"
    assert (await client.instances.start(vm.id, wait="ready")).ready
    assert await sh(client, vm.id, BOOT_ID) != boot
    await client.instances.standby(vm.id)
    await client.instances.delete(vm.id, force=True)


async def test_a_volume_and_a_paused_machine_come_along(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="96M")
    volume = await client.volumes.create(CreateVolume(name="m" + vm.id[:8], size="64M"))
    try:
        await client.instances.attach(vm.id, AttachVolume(volume=volume.name, path="/data"))
        await sh(client, vm.id, "echo one > /data/file")
        await client.instances.pause(vm.id)
        await client.instances.standby(vm.id)
        await client.instances.restore(vm.id)
        assert await sh(client, vm.id, "cat /data/file; echo two > /data/file; sync; cat /data/file") == "one\ntwo"
        await client.instances.detach(vm.id, volume.name)
    finally:
        await guests.discard()
        await client.volumes.delete(volume.name)


@pytest.fixture
async def volumes(client: Client) -> AsyncIterator[list[str]]:
    """Five volumes, gone after the test. Set up before `guests`, so that nobody holds one by then."""
    names = [f"v{uuid.uuid4().hex[:8]}" for _ in range(5)]
    for name in names:
        await client.volumes.create(CreateVolume(name=name, size="32M"))
    yield names
    for name in names:
        await client.volumes.delete(name)


async def test_each_volume_is_in_the_slot_where_it_was(client: Client, volumes: list[str], guests: Guests) -> None:
    """Two from the launch on, others plugged in and out: numbered anew, none would be where the guest knows it."""
    cold = [MountRequest(volume=name, path=f"/{name}") for name in volumes[:2]]
    vm = await guests.boot(memory="96M", volumes=cold)
    for name in volumes[2:]:
        await client.instances.attach(vm.id, AttachVolume(volume=name, path=f"/{name}"))
    here = [volumes[1], volumes[3], volumes[4]]
    for name in here:
        await sh(client, vm.id, f"echo {name} > /{name}/file; sync")
    await client.instances.detach(vm.id, volumes[0])
    await client.instances.detach(vm.id, volumes[2])
    boot = await sh(client, vm.id, BOOT_ID)
    for turn in range(3):
        await client.instances.standby(vm.id)
        await client.instances.restore(vm.id, wait="ready")
        script = f"echo 3 > /proc/sys/vm/drop_caches; cat {' '.join(f'/{name}/file' for name in here)}; "
        assert await sh(client, vm.id, script + f"echo {turn} > /{here[0]}/turn; sync") == "\n".join(here)
    await client.instances.detach(vm.id, volumes[4])
    await client.instances.attach(vm.id, AttachVolume(volume=volumes[0], path="/again"))
    await client.instances.standby(vm.id)
    await client.instances.restore(vm.id, wait="ready")
    await sh(client, vm.id, "echo there > /again/file; sync; cat /again/file")
    assert await sh(client, vm.id, BOOT_ID) == boot
    await client.instances.reset(vm.id)
    await another_boot(client, vm.id, boot)
    assert await sh(client, vm.id, f"cat /{volumes[1]}/turn /{volumes[3]}/file") == f"2\n{volumes[3]}"


async def test_a_fork_of_one_that_had_volumes_has_its_ports(client: Client, volumes: list[str], guests: Guests) -> None:
    cold = [MountRequest(volume=name, path=f"/{name}") for name in volumes[:2]]
    vm = await guests.boot(memory="96M", volumes=cold)
    for name in volumes[:2]:
        await client.instances.detach(vm.id, name)
    guests.also(f"{vm.name}-fork")
    fork = await client.instances.fork(vm.id, ForkInstance(name=f"{vm.name}-fork"), wait="ready")
    await client.instances.attach(fork.id, AttachVolume(volume=volumes[0], path="/v"))
    assert await sh(client, fork.id, "echo there > /v/file; cat /v/file") == "there"


@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [
        ("version", "6.0.0", "another hypervisor version: 6.0.0"),
        ("size", 128 * 2**20, "another memory: 134217728"),
        ("accelerator", "hvf", "another accelerator: hvf"),
        ("machine", "pc-i440fx", "another machine: pc-i440fx, this is microvm,"),
        ("cpu", "qemu64", "another cpu: qemu64, this is "),
        ("features", {"7.0.ebx": 32}, r"another cpu: this one lacks features of it \(cpuid 7.0.ebx:00000020\)"),
        ("tsc_khz", 5, "another cpu: its counter ran at 5 kHz"),
    ],
)
async def test_memory_that_does_not_fit_is_refused_by_what_differs(
    fact: str, value: object, reason: str, client: Client, guests: Guests, base: Server
) -> None:
    vm = await guests.boot(memory="96M")
    boot = await sh(client, vm.id, BOOT_ID)
    await client.instances.standby(vm.id)
    image = json.loads((base.data / "instances" / vm.id / "memory.json").read_text())["saved"]
    file = base.data / "memory" / image / "facts.json"
    async with asyncio.timeout(30):
        while (facts := json.loads(file.read_text()))["host_boot"]:  # it is put on disk beside us
            await asyncio.sleep(0.05)
    file.write_text(json.dumps(facts | {fact: value}))
    for verb in (client.instances.restore, client.instances.start):
        with pytest.raises(Refused, match=reason):
            await verb(vm.id)
        assert (await client.instances.get(vm.id)).state == "suspended"
    file.write_text(json.dumps(facts))
    await client.instances.restore(vm.id, wait="ready")
    assert await sh(client, vm.id, BOOT_ID) == boot


async def test_a_kill_9_of_the_server_or_the_machine_leaves_the_old_or_the_new(another: Make) -> None:
    """At no particular step: at many moments of both changes."""
    server = another()
    async with server.client() as client:
        vm = await Guests(client).boot(memory="96M")
        boot = await sh(client, vm.id, BOOT_ID)
    for turn in range(8):
        async with server.client() as client:
            if turn % 2 == 0:
                await client.instances.standby(vm.id, wait="accepted")
            else:
                await client.instances.restore(vm.id, wait="accepted")
            await asyncio.sleep(0.02 * (turn // 2))
        server.kill()
        server.start()
        async with server.client() as client:
            found = await settled(client)
            assert found[0].state == ("running" if turn % 2 else "suspended")
            in_order(server, found)
            if turn % 2:
                assert await sh(client, vm.id, BOOT_ID) == boot
    async with server.client() as client:
        gone = await client.instances.get(vm.id)
        assert gone.pid
        os.kill(gone.pid, signal.SIGKILL)
        await client.instances.wait(vm.id, ["stopped"])
        async with asyncio.timeout(10):
            while list((server.data / "memory").iterdir()):
                await asyncio.sleep(0.1)
