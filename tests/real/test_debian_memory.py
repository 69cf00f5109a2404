"""The full shape in memory: standby, restore and forks of Debian 12, under BIOS and UEFI. One boot for each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyvisor.client import Client
from polyvisor.wire.native import CloudInitRequest, CreateInstance, CreateSnapshot, ForkInstance, PortRequest
from real.guests import Guests, lasting, run, sh
from real.test_debian import UP, boot_id, key, ssh
from real.test_killed import BOOT_ID
from serving import Server

__all__ = ["key"]  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
WHO = "hostname; cat /etc/machine-id /sys/class/net/e*/address; cut -d ' ' -f 2 /etc/ssh/ssh_host_*_key.pub"
SETTING = "/sys/firmware/efi/efivars/Polyvisor-5a1e2c30-94f7-4b5e-9d0a-3f0e6f2d7c11"
REMEMBER = f"printf '\\007\\0\\0\\0{{}}' > /tmp/v; chattr -i {SETTING} 2> /dev/null; cat /tmp/v > {SETTING}"
RECALL = f"cat {SETTING} | tail -c +5"  # such a file cannot be sought in


@pytest.fixture(scope="module", params=["bios", "uefi"])
def source(request: pytest.FixtureRequest, base: Server, debian: str, key: Path) -> Iterator[str]:
    """The id of a guest of that firmware. A UEFI one has put a word into its NVRAM."""
    init = CloudInitRequest(ssh_keys=[key.with_suffix(".pub").read_text().strip()], user="dev")
    fields = {"firmware": request.param, "memory": "512M", "cloud_init": init, "timeout": UP}
    with lasting(base, debian, name=f"mem-{request.param}", **fields) as id:
        asyncio.run(_settle(base, id))
        yield id


async def _settle(base: Server, id: str) -> None:
    async with base.client() as client:
        await sh(client, id, "cloud-init status --wait > /dev/null; echo here > /root/disk; sync")
        if (await client.instances.get(id)).firmware == "uefi":
            await sh(client, id, REMEMBER.format("first"))


async def works(client: Client, id: str) -> None:
    """It reads and writes its disk, its clock is right, and its firmware answers."""
    script = "cat /root/disk; echo more > /root/more; sync; until systemctl -q is-active ssh; do sleep 1; done"
    assert await sh(client, id, script) == "here"
    vm = await client.instances.get(id)
    if vm.firmware == "uefi":
        assert await sh(client, id, RECALL) == "first"
        await sh(client, id, REMEMBER.replace("Polyvisor-", "Another-").format("second"))


async def boots_anew(client: Client, id: str) -> None:
    """A reboot from inside is one, and what NVRAM held is still there."""
    before = await boot_id(client, id)
    await run(client, id, "systemctl", "reboot", "--no-block")
    async with asyncio.timeout(UP):
        while await boot_id(client, id) in (before, ""):
            await asyncio.sleep(1)
    await works(client, id)


async def test_it_goes_on_after_standby(client: Client, source: str, key: Path) -> None:
    boot = await sh(client, source, BOOT_ID)
    for _ in range(2):
        assert (await client.instances.standby(source)).state == "suspended"
        vm = await client.instances.restore(source, wait="ready")
        assert await sh(client, source, BOOT_ID) == boot
        await works(client, source)
        assert await ssh(vm, key, "dev", "hostname") == vm.name


async def test_a_fork_is_another_machine_and_boots_anew(
    client: Client, guests: Guests, source: str, key: Path, tmp_path: Path
) -> None:
    vm = await client.instances.get(source)
    boot, before = await sh(client, source, BOOT_ID), set((await sh(client, source, WHO)).splitlines())
    guests.also(f"{vm.name}-fork")
    ports = [PortRequest(guest=22), PortRequest(guest=8000)]
    asked = ForkInstance(name=f"{vm.name}-fork", ports=ports)
    fork = await client.instances.fork(source, asked, wait="ready", timeout=240)
    assert await sh(client, fork.id, BOOT_ID) == boot
    after = (await sh(client, fork.id, WHO)).splitlines()
    assert not before & set(after)
    assert after[0] == fork.name
    await works(client, fork.id)
    known = tmp_path / "known"
    assert await ssh(fork, key, "dev", "hostname", known=known) == fork.name
    assert known.read_text().split()[-1] in after
    assert await ssh(vm, key, "dev", "hostname") == vm.name
    await boots_anew(client, fork.id)
    fork = await client.instances.get(fork.id)  # another process has other host ports
    assert await ssh(fork, key, "dev", "hostname", known=known) == fork.name
    await works(client, source)


async def test_what_a_snapshot_kept_outlives_what_came_later(client: Client, guests: Guests, source: str) -> None:
    vm = await client.instances.get(source)
    kept = await client.instances.snapshot(source, CreateSnapshot(name=f"{vm.name}-kept", kind="full"))
    try:
        assert (await client.instances.get(source)).state == "running"
        await sh(client, source, "rm /root/disk; sync")
        if vm.firmware == "uefi":
            await sh(client, source, REMEMBER.format("later"))
        guests.also(f"{vm.name}-made")
        made = CreateInstance(snapshot=kept.id, name=f"{vm.name}-made")
        await works(client, (await client.instances.create(made, wait="ready", timeout=240)).id)
        await client.instances.stop(source, force=True)
        await client.instances.revert(source, kept.id)
        assert (await client.instances.start(source, wait="ready", timeout=240)).ready
        await works(client, source)
        await boots_anew(client, source)
    finally:
        await guests.discard()
        await client.snapshots.delete(kept.id)
