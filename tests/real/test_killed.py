"""What production does: the server killed, a hypervisor killed or hung, a full disk. Nothing is lost, nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import CreateInstance, Instance, RestartRequest
from real.conftest import finish
from real.guests import Guests, run, sh
from serving import Server, machines_of

BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
Make = Callable[..., Server]


async def settled(client: Client, limit: float = 60.0) -> list[Instance]:
    """Every instance, once none has an operation under way."""
    async with asyncio.timeout(limit):
        while True:
            found = [instance async for instance in client.instances.list()]
            if not any(instance.operation for instance in found):
                return found
            await asyncio.sleep(0.02)


def in_order(server: Server, instances: list[Instance]) -> None:
    """Processes, directories and records say the same; one that failed to be made has no directory any more."""
    running = {i.pid for i in instances if i.pid}
    assert set(machines_of(server.data)) == running
    there = {path.name for path in (server.data / "instances").iterdir()}
    assert {i.id for i in instances if i.state != "failed"} <= there <= {i.id for i in instances}


async def test_kill_9_of_the_server_with_ten_running_and_one_of_each_under_way(another: Make) -> None:
    server = another()
    async with server.client() as client:
        guests = Guests(client)
        ten = await asyncio.gather(*(guests.boot(memory="96M", timeout=300) for _ in range(10)))
        boots = await asyncio.gather(*(sh(client, vm.id, BOOT_ID) for vm in ten))
        stopped = await guests.make(power="off", wait="launched", name="starting", memory="96M")
        deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
        stopping = await guests.boot(name="stopping", command=deaf, memory="96M")
        deleting = await guests.boot(name="deleting", memory="96M")
        await asyncio.gather(
            guests.make(name="creating", memory="96M"),
            client.instances.start(stopped.id, wait="accepted"),
            client.instances.stop(stopping.id, grace=2, wait="accepted"),
            client.instances.delete(deleting.id, force=True, wait="accepted"),
        )
    server.kill()
    server.start()
    async with server.client() as client:
        again = await asyncio.gather(*(sh(client, vm.id, BOOT_ID) for vm in ten))
        found = {i.name: i for i in await settled(client)}
    assert again == boots
    assert found.keys() == {vm.name for vm in ten} | {"creating", "starting", "stopping"}
    assert {found[name].state for name in ("creating", "starting")} == {"running"}
    assert found["stopping"].state == "stopped"
    in_order(server, list(found.values()))


async def test_kill_9_again_and_again_while_things_change(another: Make) -> None:
    server = another()
    names = [f"vm{n}" for n in range(4)]
    for turn in range(4):
        async with server.client() as client:
            for name in names:
                with contextlib.suppress(Refused):
                    if turn == 0:
                        await client.instances.create(CreateInstance(image="busybox", name=name, memory="96M"))
                    elif turn % 2:
                        await client.instances.restart(name, force=True, wait="accepted")
                    else:
                        await client.instances.stop(name, force=True, wait="accepted")
        await asyncio.sleep(0.15 * turn)  # wherever that is
        server.kill()
        server.start()
    async with server.client() as client:
        found = await settled(client)
        assert [i.name for i in found] == names
        assert all(i.state in ("running", "stopped") for i in found)
        in_order(server, found)


async def test_sigterm_leaves_machines_running(another: Make) -> None:
    server = another()
    async with server.client() as client:
        vm = await Guests(client).boot(memory="96M")
        boot = await sh(client, vm.id, BOOT_ID)
    assert server.stop() == 0
    assert machines_of(server.data) == [vm.pid]
    server.start()
    async with server.client() as client:
        assert await sh(client, vm.id, BOOT_ID) == boot


async def test_what_ended_while_nobody_looked_is_told(another: Make) -> None:
    """A workload that exits, a guest that powers off and a process that is killed, all with the server away."""
    server = another()
    async with server.client() as client:
        guests = Guests(client)
        leaves = await guests.boot(command=["sh", "-c", "mkfifo /tmp/go; read x < /tmp/go; exit 4"], memory="96M")
        powers_off, killed = await guests.boot(memory="96M"), await guests.boot(memory="96M")
        assert killed.pid
        script = "(sleep 1; echo > /tmp/go) > /dev/null 2>&1 &"
        await run(client, leaves.id, "sh", "-c", script)
        await run(client, powers_off.id, "sh", "-c", "(sleep 1; poweroff -f) > /dev/null 2>&1 &")
    server.kill()
    os.kill(killed.pid, signal.SIGKILL)
    await asyncio.sleep(3)
    server.start()
    async with server.client() as client:
        told = [(await client.instances.wait(vm.id, ["ended"])).exit for vm in (leaves, powers_off, killed)]
    assert [exit.reason for exit in told if exit] == ["exited", "shutdown", "crashed"]
    assert told[0] and told[0].code == 4


async def test_a_killed_hypervisor_is_told_and_its_policy_obeyed(client: Client, guests: Guests) -> None:
    plain = await guests.boot(memory="96M")
    stubborn = await guests.boot(memory="96M", restart=RestartRequest(mode="always", backoff=0.1))
    assert plain.pid and stubborn.pid
    os.kill(plain.pid, signal.SIGKILL)
    os.kill(stubborn.pid, signal.SIGKILL)
    ended = await client.instances.wait(plain.id, ["ended"])
    assert (ended.state, ended.exit and ended.exit.reason) == ("stopped", "crashed")
    assert ended.error is not None
    async with asyncio.timeout(60):
        while (now := await client.instances.get(stubborn.id)).incarnation < 2 or not now.ready:
            await asyncio.sleep(0.05)
    assert now.restarts == 1 and now.pid != stubborn.pid


async def test_a_panicked_guest_has_crashed(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="96M")
    with contextlib.suppress(Refused):
        await run(client, vm.id, "sh", "-c", "sleep 1; echo c > /proc/sysrq-trigger; sleep 60")
    ended = await client.instances.wait(vm.id, ["ended"], timeout=30)
    assert ended.exit and ended.exit.reason == "crashed"


async def test_a_hung_hypervisor_is_lost_and_found_again(client: Client, guests: Guests) -> None:
    vm = await guests.boot(memory="96M")
    assert vm.pid
    os.kill(vm.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(60):
            while (await client.instances.get(vm.id)).state != "lost":
                with contextlib.suppress(Refused):
                    await client.instances.pause(vm.id, timeout=1)
        assert (await client.hosts.about()).name == "polyvisor"  # nobody else waits for it
    finally:
        os.kill(vm.pid, signal.SIGCONT)
    await client.instances.wait(vm.id, ["running", "paused"], timeout=60)


async def test_a_hung_hypervisor_can_be_ended(another: Make) -> None:
    """By force, by a delete, and after a restart of the server, which is not held up by it."""
    server = another()
    async with server.client() as client:
        guests = Guests(client)
        one, two, three = [await guests.boot(memory="96M") for _ in range(3)]
        for vm in (one, two, three):
            assert vm.pid
            os.kill(vm.pid, signal.SIGSTOP)
        async with asyncio.timeout(40):
            await client.instances.stop(one.id, force=True)
            await client.instances.delete(two.id, force=True)
    server.kill()
    server.start()  # within its own limit
    async with server.client() as client:
        await client.instances.delete(three.id, force=True)
        in_order(server, await settled(client))


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(base: Server, tmp_path: Path) -> Iterator[Server]:
    """A server whose data directory is a file system of 512 MiB."""
    data = tmp_path / "small"
    data.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512M,mode=0700", "none", str(data)], check=True, timeout=10)
    server = Server(data)
    try:
        for source in (base.data / "boot").glob("*-*"):
            (data / "boot").mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", str(source), str(data / "boot")], check=True, timeout=30)
        share_kernel(base.data, data)
        yield server.start()
        (data / "filler").unlink(missing_ok=True)
        finish(server)
    finally:
        server.kill()
        subprocess.run(["umount", "-l", str(data)], check=True, timeout=10)


def share_kernel(base: Path, data: Path) -> None:
    """Only what tells that the kernel is there: its files are made already."""
    kernel = base / "boot" / "kernel"
    for path in (*kernel.glob("boot/vmlinuz-*"), *kernel.glob("lib/modules/*")):
        there = data / "boot" / "kernel" / path.relative_to(kernel)
        there.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            there.mkdir()
        else:
            there.touch()
            os.truncate(there, path.stat().st_size)
            os.utime(there, ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))


def fill(data: Path, leave: int) -> None:
    """Use the file system up but for `leave` bytes."""
    free = os.statvfs(data).f_bavail * os.statvfs(data).f_frsize
    with (data / "filler").open("ab") as file:
        file.write(bytes(max(0, free - leave)))


async def test_a_full_disk(small: Server) -> None:
    async with small.client() as client:
        guests = Guests(client)
        vm = await guests.boot(memory="96M", disk="1G")
        boot = await sh(client, vm.id, BOOT_ID)
        before = sorted(path.name for path in (small.data / "instances").iterdir())
        fill(small.data, 32 * 2**20)
        with pytest.raises(Refused) as caught:
            await guests.make(name="never", memory="96M", wait="launched")
        assert (caught.value.kind, caught.value.status) == ("NoCapacity", 507)
        fill(small.data, 4 * 2**20)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(
                sh(client, vm.id, "head -c 30000000 /dev/zero | tr '\\0' x > /big; sync; md5sum < /big")
            )
            async with asyncio.timeout(60):
                while (now := await client.instances.get(vm.id)).state != "paused":
                    await asyncio.sleep(0.1)
            assert now.error is not None and "full" in now.error.message
            (small.data / "filler").unlink()
        assert writing.result().split()[0] == hashlib.md5(b"x" * 30_000_000).hexdigest()
        await client.instances.wait(vm.id, ["running"], timeout=10)
        assert await sh(client, vm.id, BOOT_ID) == boot
        after = sorted(path.name for path in (small.data / "instances").iterdir())
        names = {instance.name async for instance in client.instances.list()}
        assert after == before or names == {vm.name, "never"}
