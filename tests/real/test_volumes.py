"""Volumes: disks that outlive the guests they are attached to, at launch, hot, and in turn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from polyvisor.client import Client, Refused
from polyvisor.model.instance import MAX_ON_BUS, Bus
from polyvisor.wire.native import AttachVolume, CreateVolume, MountRequest, Volume
from real.guests import Guests, sh


class Volumes:
    """Volumes that are gone after the test."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._made: list[str] = []

    async def make(self, size: int | str = "64M") -> Volume:
        """A new one."""
        name = "v" + uuid.uuid4().hex[:8]
        self._made.append(name)
        return await self._client.volumes.create(CreateVolume(name=name, size=size))

    async def discard(self) -> None:
        """Delete them all."""
        left = {volume.name async for volume in self._client.volumes.list()}
        for name in self._made:
            if name in left:
                await self._client.volumes.delete(name)


@pytest.fixture
async def volumes(client: Client) -> AsyncIterator[Volumes]:
    """Set up before `guests`, so that those are gone first."""
    made = Volumes(client)
    yield made
    await made.discard()


async def test_what_is_written_is_read_by_another_guest(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make()
    one = await guests.boot(volumes=[MountRequest(volume=volume.name, path="/srv/data")])
    digest = await sh(client, one.id, "head -c 3000000 /dev/urandom > /srv/data/f; sync; sha256sum < /srv/data/f")
    with pytest.raises(Refused) as caught:
        await client.volumes.delete(volume.name)
    assert (caught.value.kind, caught.value.status) == ("Busy", 409)
    await client.instances.stop(one.id)  # leaves it clean, so that a reader sees all of it
    await client.instances.delete(one.id)
    two = await guests.boot(volumes=[MountRequest(volume=volume.id, path="/elsewhere", read_only=True)])
    assert await sh(client, two.id, "sha256sum < /elsewhere/f") == digest
    assert "Read-only" in await sh(client, two.id, "touch /elsewhere/x 2>&1 || true")


async def test_hot_attach_write_detach_and_attach_to_another(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make()
    one, two = await guests.boot(), await guests.boot()
    await client.instances.attach(one.id, AttachVolume(volume=volume.name, path="/mnt/v"))
    await sh(client, one.id, "echo hello > /mnt/v/file")
    for path in ("/mnt/w", ""):
        with pytest.raises(Refused) as caught:  # somebody else writes to it
            await client.instances.attach(two.id, AttachVolume(volume=volume.name, path=path))
        assert caught.value.kind == "Busy"
    await client.instances.detach(one.id, volume.name)
    assert await sh(client, one.id, "ls -A /mnt/v; ls /sys/block | grep -c vd") == "2"
    await client.instances.attach(two.id, AttachVolume(volume=volume.name, path="/mnt/v"))
    assert await sh(client, two.id, "cat /mnt/v/file") == "hello"


async def test_one_that_was_there_at_launch_can_be_unplugged(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make()
    vm = await guests.boot(volumes=[MountRequest(volume=volume.name, path="/v")])
    await sh(client, vm.id, "echo kept > /v/file")
    await client.instances.detach(vm.id, volume.name)
    assert await sh(client, vm.id, "ls /sys/block | grep -c vd") == "2"
    await client.instances.attach(vm.id, AttachVolume(volume=volume.name, path="/w"))
    assert await sh(client, vm.id, "cat /w/file") == "kept"
    await client.instances.restart(vm.id, force=True, wait="ready")  # hot-plugged now, there at launch then
    assert await sh(client, vm.id, "cat /w/file") == "kept"


async def test_a_busy_mount_is_not_torn_away(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make()
    vm = await guests.boot(volumes=[MountRequest(volume=volume.name, path="/v")])
    await sh(client, vm.id, "(cd /v; exec sleep 4321) > /dev/null 2>&1 &")
    with pytest.raises(Refused) as caught:
        await client.instances.detach(vm.id, volume.name)
    assert caught.value.kind == "Busy"
    assert (await client.instances.get(vm.id)).volumes[0].state == "attached"
    await sh(client, vm.id, "killall sleep; echo still > /v/there")


async def test_a_bare_disk_is_a_block_device(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make("32M")
    vm = await guests.boot(volumes=[MountRequest(volume=volume.name)])
    device = await sh(client, vm.id, f"cd /sys/block; grep -l {volume.id[:20]} */serial | cut -d/ -f1")
    assert await sh(client, vm.id, f"cat /sys/block/{device}/size") == str(32 * 2048)


async def test_growing_is_seen_inside_at_once_and_later(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make("64M")
    vm = await guests.boot(volumes=[MountRequest(volume=volume.name, path="/v")])
    size = "df -m /v | tail -n 1 | awk '{print $2}'"
    before = int(await sh(client, vm.id, size))
    await client.volumes.resize(volume.name, "256M")
    assert int(await sh(client, vm.id, size)) > 3 * before
    await client.instances.stop(vm.id, force=True)
    await client.volumes.resize(volume.name, "512M")
    await client.instances.start(vm.id, wait="ready")
    assert int(await sh(client, vm.id, size)) > 6 * before
    with pytest.raises(Refused) as caught:
        await client.volumes.resize(volume.name, "128M")
    assert (caught.value.kind, caught.value.problem.field) == ("Invalid", "size")


async def test_many_disks_at_once(client: Client, volumes: Volumes, guests: Guests) -> None:
    made = [await volumes.make("16M") for _ in range(MAX_ON_BUS[Bus.VIRTIO] + 1)]
    mounts = [MountRequest(volume=v.name, path=f"/v/{n}") for n, v in enumerate(made[:-2])]
    vm = await guests.boot(volumes=mounts)
    await client.instances.attach(vm.id, AttachVolume(volume=made[-2].name, path="/v/hot"))
    script = "for n in /v/*; do echo $n > $n/f; done; grep -c /v/ /proc/mounts"
    assert await sh(client, vm.id, script) == str(MAX_ON_BUS[Bus.VIRTIO])
    with pytest.raises(Refused) as caught:
        await client.instances.attach(vm.id, AttachVolume(volume=made[-1].name, path="/v/more"))
    assert (caught.value.kind, caught.value.problem.field) == ("Invalid", "volume")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (CreateVolume(name="a/b", size="1G"), "name"), (CreateVolume(name="a", size=1), "size"),
        (CreateVolume(name="a", size="99999999T"), "size"), (CreateVolume(name="a", size="x"), "size"),
    ],
)  # fmt: skip
async def test_wrong_volumes_are_refused(client: Client, request_: CreateVolume, field: str) -> None:
    with pytest.raises(Refused) as caught:
        await client.volumes.create(request_)
    assert (caught.value.kind, caught.value.problem.field) == ("Invalid", field)


async def test_wrong_mounts_are_refused_with_nothing_made(client: Client, volumes: Volumes, guests: Guests) -> None:
    volume = await volumes.make()
    for mount, kind in (
        (MountRequest(volume="no-such", path="/v"), "NotFound"),
        (MountRequest(volume=volume.name, path="v"), "Invalid"),
        (MountRequest(volume=volume.name, path="/a/../b"), "Invalid"),
        (MountRequest(volume=volume.name, path="/"), "Invalid"),
    ):
        with pytest.raises(Refused) as caught:
            await guests.make(name="never", volumes=[mount])
        assert caught.value.kind == kind
    assert "never" not in {instance.name async for instance in client.instances.list()}
