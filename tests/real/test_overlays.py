"""What instances write above volumes that they only read: theirs alone, bounded, and wherever their disk is."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from hypeman import APIStatusError
from hypeman.types import Instance

from polyvisor.client import Client
from polyvisor.client.errors import Refused
from polyvisor.wire.native import AttachVolume, MountRequest
from real.guests import Guests, sh
from real.upstream import Machines
from serving import Server

SIZE = "64MB"


async def filled(machines: Machines) -> str:
    """The id of a volume that holds a file, and which nobody holds."""
    id = "vol-" + uuid.uuid4().hex[:8]
    await machines.sdk.volumes.create(name=id, size_gb=1, id=id)
    mount: Any = {"volume_id": id, "mount_path": "/data"}
    writer = await machines.make(cmd=["sleep", "3600"], volumes=[mount])
    await machines.say(
        writer.id, "mkdir -m 751 /data/folder; echo base > /data/folder/file; echo base > /data/gone; sync"
    )
    with pytest.raises(APIStatusError) as held:
        await machines.sdk.volumes.delete(id)
    assert (held.value.status_code, held.value.body["code"]) == (409, "conflict")  # type: ignore[index]
    with pytest.raises(APIStatusError):  # one writer
        await machines.sdk.instances.create(
            name=writer.name + "-2",
            image=writer.image,
            size="256MB",
            volumes=[{"volume_id": id, "mount_path": "/data"}],
        )
    with pytest.raises(APIStatusError) as refused:
        await machines.sdk.instances.fork(writer.id, name=writer.name + "-fork", from_running=True)
    assert refused.value.status_code == 501
    assert "use readonly+overlay" in refused.value.body["message"]  # type: ignore[index]
    await machines.sdk.instances.delete(writer.id)
    return id


def above(volume: str) -> Any:
    """A mount with an overlay."""
    return {
        "volume_id": volume, "mount_path": "/data", "readonly": True, "overlay": True, "overlay_size": SIZE,
    }  # fmt: skip


async def test_two_instances_write_above_one_volume_and_each_sees_its_own(machines: Machines) -> None:
    volume = await filled(machines)
    one, two = [await machines.make(cmd=["sleep", "3600"], volumes=[above(volume)]) for _ in range(2)]
    assert one.volumes is not None
    assert one.volumes[0].to_dict() == above(volume) | {"overlay_size": "64.0 MB"}
    assert one.overlay_size == "10.0 GB"  # its own disk's, without what is kept for the volume's
    for vm in (one, two):
        assert await machines.say(vm.id, "cat /data/folder/file; stat -c %a /data/folder") == "base\n751"
    await machines.say(one.id, "echo one > /data/folder/file; rm /data/gone; echo new > /data/new")
    await machines.say(two.id, "echo two >> /data/folder/file")
    assert await machines.say(one.id, "cat /data/folder/file; ls /data") == "one\nfolder\nlost+found\nnew"
    assert await machines.say(two.id, "cat /data/folder/file; ls /data") == "base\ntwo\nfolder\ngone\nlost+found"
    assert "lower" not in await machines.say(one.id, "cut -d' ' -f2 /proc/mounts")
    await it_is_bounded(machines, one)
    await it_is_kept(machines, one)
    await copies_have_it(machines, one)
    for vm in (one, two):
        await machines.sdk.instances.delete(vm.id)
    reader = await machines.make(
        cmd=["sleep", "3600"], volumes=[{"volume_id": volume, "mount_path": "/v", "readonly": True}]
    )
    assert await machines.say(reader.id, "cat /v/folder/file; ls /v") == "base\nfolder\ngone\nlost+found"


async def it_is_bounded(machines: Machines, vm: Instance) -> None:
    """No more is written than its size; the instance's own disk is none the smaller."""
    fill = "dd if=/dev/zero of=/data/fill bs=1M count=200 2>&1; echo; du -k /data/fill | cut -f1; rm /data/fill"
    said = (await machines.say(vm.id, fill)).splitlines()
    assert any("No space left on device" in line for line in said), said
    assert 30 * 1024 < int(said[-1]) < 64 * 1024
    await machines.say(vm.id, "dd if=/dev/zero of=/root/fill bs=1M count=100 2>/dev/null && rm /root/fill")


async def it_is_kept(machines: Machines, vm: Instance) -> None:
    """Over a stop, a standby, and a machine that was torn away."""
    sdk = machines.sdk
    await sdk.instances.stop(vm.id)
    await sdk.instances.start(vm.id)
    await machines.until(vm.id, "Running")
    assert await machines.say(vm.id, "cat /data/folder/file; ls /data") == "one\nfolder\nlost+found\nnew"
    await sdk.instances.standby(vm.id)
    await sdk.instances.restore(vm.id)
    assert await machines.say(vm.id, "echo later > /data/later; cat /data/folder/file") == "one"


async def copies_have_it(machines: Machines, vm: Instance) -> None:
    """Forks with memory and of the disk alone, and snapshots, each with an overlay of its own."""
    sdk = machines.sdk
    fork = machines.also(await sdk.instances.fork(vm.id, name=vm.name + "-fork", from_running=True))
    assert fork.volumes == vm.volumes
    await machines.say(fork.id, "cat /data/later; echo fork > /data/folder/file")
    assert await machines.say(vm.id, "cat /data/folder/file") == "one"
    taken = await sdk.instances.snapshots.create(vm.id, kind="Standby")
    await machines.say(vm.id, "echo after > /data/folder/file; sync")
    again = machines.also(await sdk.snapshots.fork(taken.id, name=vm.name + "-again"))
    assert await machines.say(again.id, "cat /data/folder/file") == "one"
    cold = machines.also(
        await sdk.instances.fork(vm.id, name=vm.name + "-cold", from_running=True, target_state="Stopped")
    )
    await sdk.instances.start(cold.id)
    await machines.until(cold.id, "Running")
    assert await machines.say(cold.id, "cat /data/folder/file; cat /data/later") == "after\nlater"
    for one in (fork, again, cold):
        await sdk.instances.delete(one.id)
    await sdk.snapshots.delete(taken.id)


async def test_a_volume_with_an_overlay_comes_and_goes(client: Client, guests: Guests, machines: Machines) -> None:
    volume = await filled(machines)
    mounts = [MountRequest(volume=volume, path="/data", read_only=True, overlay="32M")]
    vm = await guests.boot(memory="128M", disk="64M", volumes=mounts)
    assert (vm.disk, vm.volumes[0].overlay) == (64 * 1024**2, 32 * 1024**2)
    await sh(client, vm.id, "echo mine > /data/folder/file")
    await client.instances.detach(vm.id, volume)
    assert await sh(client, vm.id, "ls /data; cat /sys/block/loop*/loop/backing_file 2>/dev/null | wc -l") == "0"
    back = await client.instances.attach(vm.id, AttachVolume(volume=volume, path="/data", read_only=True))
    assert back.volumes[0].overlay == 32 * 1024**2
    assert await sh(client, vm.id, "cat /data/folder/file") == "mine"
    for wrong, why in (
        (MountRequest(volume=volume, path="/x", overlay="32M"), "only read"),
        (MountRequest(volume=volume, read_only=True, overlay="32M"), "path"),
        (MountRequest(volume=volume, path="/x", read_only=True, overlay="1K"), "is not between"),
    ):
        with pytest.raises(Refused, match=why):
            await guests.make(volumes=[wrong])


async def test_what_is_asked_wrongly_is_refused_by_name(base: Server, machines: Machines) -> None:
    volume = "vol-" + uuid.uuid4().hex[:8]
    await machines.sdk.volumes.create(name=volume, size_gb=1, id=volume)
    headers = {"Authorization": f"Bearer {base.facts['api_key']}"}
    for change, code, why in (
        ({"readonly": False}, "invalid_request", "overlay requires readonly=true"),
        ({"overlay_size": None}, "invalid_request", "overlay_size is required"),
        ({"overlay_size": "x"}, "invalid_overlay_size", f"invalid overlay_size for volume {volume}: strconv"),
        ({"overlay_size": "1KB"}, "invalid_overlay_size", "must be"),
        ({"overlay": False}, "invalid_request", "overlay_size is for volumes with overlay=true"),
    ):
        mount = {key: value for key, value in (above(volume) | change).items() if value is not None}
        async with httpx.AsyncClient(base_url=base.facts["url"], headers=headers, trust_env=False) as http:
            body = {"name": "h" + uuid.uuid4().hex[:8], "image": "busybox", "volumes": [mount]}
            answer = await http.post("/instances", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
        assert why in answer.json()["message"]
    await machines.sdk.volumes.delete(volume)
