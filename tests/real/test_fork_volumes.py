"""Volumes and memory: one that is only read is shared by forks and kept in mind by snapshots, others are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from polyvisor.client import Client, Refused
from polyvisor.wire.native import AttachVolume, CreateSnapshot, ForkInstance, Instance, MountRequest, Volume
from real.guests import Guests, sh
from real.test_killed import BOOT_ID
from real.test_memory import another_boot
from real.test_volumes import Volumes

READ = "echo 3 > /proc/sys/vm/drop_caches; cat /a/file; cat /b/file"
PLACES = "for d in /sys/block/vd*; do readlink -f $d; cat $d/serial $d/ro; echo; done"


@pytest.fixture
async def volumes(client: Client) -> AsyncIterator[Volumes]:
    """Set up before `guests`, so that those are gone first."""
    made = Volumes(client)
    yield made
    await made.discard()


@pytest.fixture
async def filled(client: Client, volumes: Volumes) -> list[Volume]:
    """Two volumes with a file each, which says its volume's name."""
    made = [await volumes.make() for _ in "ab"]
    writer = Guests(client)
    vm = await writer.boot(
        memory="96M", volumes=[MountRequest(volume=v.name, path=f"/{v.name}") for v in made], template=False
    )
    for volume in made:
        await sh(client, vm.id, f"echo {volume.name} > /{volume.name}/file")
    await client.instances.stop(vm.id)
    await writer.discard()
    return made


async def reader(client: Client, guests: Guests, filled: list[Volume]) -> Instance:
    """One that reads both, of which one was there at its launch."""
    at_launch = [MountRequest(volume=filled[0].name, path="/a", read_only=True)]
    vm = await guests.boot(memory="96M", volumes=at_launch)
    await client.instances.attach(vm.id, AttachVolume(volume=filled[1].name, path="/b", read_only=True))
    return vm


async def fork(client: Client, guests: Guests, source: str, **wanted: object) -> Instance:
    """A fork that is discarded with the rest."""
    made = await client.instances.fork(source, ForkInstance.model_validate(wanted), wait="ready")
    guests.also(made.name)
    return made


async def test_a_read_only_volume_is_in_both_at_the_same_place(
    client: Client, filled: list[Volume], guests: Guests
) -> None:
    source = await reader(client, guests, filled)
    boot = await sh(client, source.id, BOOT_ID)
    told = "\n".join(volume.name for volume in filled)
    first = await fork(client, guests, source.id)
    second = await fork(client, guests, first.id)
    for vm in (source, first, second):
        assert await sh(client, vm.id, READ) == told
        assert await sh(client, vm.id, PLACES) == await sh(client, source.id, PLACES)
        assert await sh(client, vm.id, BOOT_ID) == boot
        assert "Read-only" in await sh(client, vm.id, "touch /a/x 2>&1 || true")
        mounts = (await client.instances.get(vm.id)).volumes
        assert [(m.name, m.path, m.read_only) for m in mounts] == [
            (filled[0].name, "/a", True), (filled[1].name, "/b", True),
        ]  # fmt: skip
    assert sorted((await client.volumes.get(filled[0].name)).attached) == sorted([source.id, first.id, second.id])
    await client.instances.detach(first.id, filled[0].name)
    await client.instances.standby(second.id)
    await client.instances.restore(second.id, wait="ready")
    await client.instances.reset(first.id)
    await another_boot(client, first.id, boot)
    assert await sh(client, first.id, "ls -A /a; cat /b/file") == filled[1].name
    await client.instances.delete(first.id, force=True)
    for vm in (source, second):
        assert await sh(client, vm.id, READ) == told
    disk = await fork(client, guests, source.id, kind="disk")
    assert await sh(client, disk.id, READ) == told
    assert await sh(client, disk.id, BOOT_ID) != boot


async def test_a_snapshot_with_memory_knows_of_them(client: Client, filled: list[Volume], guests: Guests) -> None:
    source = await reader(client, guests, filled)
    boot = await sh(client, source.id, BOOT_ID)
    told = "\n".join(volume.name for volume in filled)
    kept = await client.instances.snapshot(source.id, CreateSnapshot(kind="full"))
    try:
        assert [m.name for m in kept.volumes] == [volume.name for volume in filled]
        await client.instances.standby(source.id)
        asleep = await client.instances.snapshot(source.id, CreateSnapshot(kind="full"))
        await client.instances.stop(source.id)
        await client.instances.detach(source.id, filled[1].name)
        with pytest.raises(Refused, match=rf"volumes: .*read-only: {filled[0].name} at /a, {filled[1].name} at /b"):
            await client.instances.revert(source.id, kept.id)
        await client.instances.attach(source.id, AttachVolume(volume=filled[1].name, path="/b", read_only=True))
        await client.instances.revert(source.id, kept.id)
        await client.instances.start(source.id, wait="ready")
        made = [await guests.boot(None, snapshot=snapshot.id) for snapshot in (kept, asleep)]
        for vm in (source, *made):
            assert await sh(client, vm.id, READ) == told
            assert await sh(client, vm.id, BOOT_ID) == boot
        await client.snapshots.delete(asleep.id)
        for vm in (source, *made):
            await client.instances.delete(vm.id, force=True)
        again = await guests.boot(None, snapshot=kept.id)
        await client.instances.delete(again.id, force=True)
        await refused_later(client, guests, filled, kept.id)
    finally:
        await client.snapshots.delete(kept.id)


async def refused_later(client: Client, guests: Guests, filled: list[Volume], snapshot: str) -> None:
    """Once one was written to, and once it is gone. Nothing is made then."""
    writer = await guests.boot(memory="96M", volumes=[MountRequest(volume=filled[0].name, path="/w")])
    await sh(client, writer.id, "echo more > /w/file; sync")
    await client.instances.detach(writer.id, filled[0].name)
    before = [vm.id async for vm in client.instances.list()]
    for kind in ("Unsupported", "NotFound"):
        if kind == "NotFound":
            await client.volumes.delete(filled[0].name)
        with pytest.raises(Refused) as caught:
            await guests.make(None, snapshot=snapshot)
        assert (caught.value.kind, caught.value.problem.field) == (kind, "volumes"), caught.value
        assert [vm.id async for vm in client.instances.list()] == before


async def test_a_writable_volume_is_refused_by_name_or_left_out(
    client: Client, filled: list[Volume], guests: Guests
) -> None:
    name = filled[1].name
    source = await guests.boot(
        memory="96M",
        volumes=[
            MountRequest(volume=filled[0].name, path="/a", read_only=True), MountRequest(volume=name, path="/b"),
        ],
    )  # fmt: skip
    await sh(client, source.id, "echo kept > /root/file; sync")
    boot = await sh(client, source.id, BOOT_ID)
    cannot = f"volumes: {name} can be written, so it cannot belong to two; detach it or fork without it"
    for wanted, problem in (
        (ForkInstance(), ("WrongState", "volumes", cannot)),
        (ForkInstance(kind="disk"), ("WrongState", "volumes", cannot)),
        (ForkInstance(without=[filled[0].name]), ("WrongState", "volumes", cannot)),
        (ForkInstance(without=["other"]), ("NotFound", "without", "without: no volume 'other' is attached to")),
        (ForkInstance(without=[name], kind="full"), ("Invalid", "without", "without: a fork with memory has what")),
    ):
        with pytest.raises(Refused) as caught:
            await client.instances.fork(source.id, wanted)
        assert (caught.value.kind, caught.value.problem.field) == problem[:2]
        assert caught.value.problem.message.startswith(problem[2])
    with pytest.raises(Refused) as caught:
        await client.instances.snapshot(source.id, CreateSnapshot(kind="full"))
    assert (caught.value.kind, caught.value.problem.field) == ("WrongState", "volumes")
    assert caught.value.problem.message.startswith(f"volumes: {name} can be written")
    left_out = await fork(client, guests, source.id, without=[filled[1].id])
    assert [m.name for m in left_out.volumes] == [filled[0].name]
    assert await sh(client, left_out.id, "cat /root/file /a/file; ls -A /b 2>/dev/null") == f"kept\n{filled[0].name}"
    await asyncio.gather(*(sh(client, source.id, f"echo more > /b/{n}") for n in "12"))
    await client.instances.detach(source.id, name)
    warm = await fork(client, guests, source.id)
    assert await sh(client, warm.id, BOOT_ID) == boot
