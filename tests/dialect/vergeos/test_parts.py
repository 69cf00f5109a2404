"""Drives, NICs, first-boot files and the media catalogue (vergeos.md §2.6 to §2.12; checks 14, 15, 20, 21)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api, Vm, volume_of
from dialect.vergeos.test_power import fake_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
DRF = (
    "$key,name,orderid,interface,media,description,enabled,serial,preferred_tier,readonly,ms_2023_kek_applied,disksize,"
    "used_bytes,media_source,machine,status#status as status,status#display(status) as status_display,"
    "media_source#name as media_file,media_source#allocated_bytes as allocated_bytes"
)
MIB = 2**20


async def upload(api: Api, name: str, data: bytes) -> int:
    """A file of the catalogue, written as clients do: in pieces, at once, in any order."""
    made = await api.post("files", name=name, allocated_bytes=str(len(data)))
    key = int(made["$key"])
    pieces = [(at, data[at : at + 262144]) for at in range(0, len(data), 262144)]

    async def put(at: int, piece: bytes) -> None:
        headers = {**api.headers, "Content-Type": "application/octet-stream"}
        answer = await api.http.put(f"/api/v4/files/{key}?filepos={at}", content=piece, headers=headers)
        assert answer.status_code == 200, answer.text

    await asyncio.gather(*(put(at, piece) for at, piece in reversed(pieces)))
    return key


# -- drives ------------------------------------------------------------------------------------------------------------


async def test_a_drive_is_made_read_grown_and_removed(api: Api) -> None:
    vm = await api.vm()
    receipt = await api.post(
        "machine_drives", machine=str(vm.machine), interface="virtio-scsi", media="disk", enabled=True, name="d",
        disksize=8 * MIB, preferred_tier="1",
    )  # fmt: skip
    assert "response" not in receipt
    key = int(receipt["$key"])
    told = await api.get(f"machine_drives/{key}", fields=DRF)
    expected = {"$key": key, "name": "d", "disksize": 8 * MIB, "preferred_tier": "1", "media_source": None}
    assert {name: told[name] for name in expected} == expected
    assert (told["machine"], told["status"], told["media_file"]) == (vm.machine, "offline", None)
    await api.put(f"machine_drives/{key}", disksize=16 * MIB, description="x")
    assert (await api.get(f"machine_drives/{key}", fields="disksize"))["disksize"] == 16 * MIB
    await api.refused(422, "shrunk", "PUT", f"machine_drives/{key}", {"disksize": 8 * MIB})
    rows = await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="$key", sort="+orderid")
    assert rows == [{"$key": key}]
    await api.delete(f"machine_drives/{key}")
    assert await api.get("machine_drives", filter=f"machine eq {vm.machine}") == []


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"media": "disk"}, "disksize is a required parameter"), ({"media": "9p"}, "media"),
        ({"media": "disk", "disksize": 100}, "disksize"), ({"media": "cdrom", "media_source": 999}, "media_source"),
        ({"media": "disk", "disksize": MIB, "interface": "floppy"}, "interface"),
        ({"media": "import", "media_source": 999}, "media_source"), ({"media": "import"}, "media_source"),
        ({"media": "disk", "disksize": MIB, "preferred_tier": "6"}, "preferred_tier"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_drive_is_named(api: Api, body: dict[str, Any], text: str) -> None:
    vm = await api.vm()
    answer = await api.ask("POST", "machine_drives", {"machine": vm.machine, **body})
    assert answer.status_code in (404, 422)
    assert text in answer.json()["err"]
    assert await api.get("machine_drives", filter=f"machine eq {vm.machine}") == []
    await api.refused(404, "machine", "POST", "machine_drives", {"machine": 999999, "media": "disk", "disksize": MIB})
    await api.refused(422, "machine", "POST", "machine_drives", {"media": "disk", "disksize": MIB})


async def test_a_drive_of_a_running_vm_is_plugged_in_and_out(api: Api) -> None:
    vm = await api.running()
    key = await api.drive(vm, interface="virtio")

    async def word() -> str:
        return str((await api.get(f"machine_drives/{key}", fields="status#status as s"))["s"])

    assert await word() == "offline"
    await api.refused(422, "Device is a required parameter", "POST", "vm_actions",
                      {"vm": vm.key, "action": "hotplugdrive", "params": {}})  # fmt: skip
    await api.act(vm, "hotplugdrive", device=str(key))
    assert await word() == "online"
    await api.refused(409, "Unable to delete online drive", "DELETE", f"machine_drives/{key}")
    await api.act(vm, "hotplugdrive", device=key, unplug=True)
    assert await word() == "offline"
    await api.delete(f"machine_drives/{key}")
    other = await api.drive(vm, interface="ahci")
    body = {"vm": vm.key, "action": "hotplugdrive", "params": {"device": other}}
    await api.refused(422, "hot plugged", "POST", "vm_actions", body)
    off = await api.vm()
    body = {"vm": off.key, "action": "hotplugdrive", "params": {"device": await api.drive(off)}}
    await api.refused(409, "not running", "POST", "vm_actions", body)


async def disks_of(served: Served, api: Api, vm: Vm) -> list[str]:
    """The names of a VM's drives as its machine has them, in order."""
    machine = served.hypervisor.vms[await fake_of(served, api, vm)]._machine
    volumes = [disk.path.stem for disk in machine.disks]
    rows = await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="name,$key,disksize")
    names = {}
    for row in rows:
        names[row["disksize"]] = row["name"]
    folder = served.parts.config.data / "volumes"
    return [names[(folder / f"{volume}.raw").stat().st_size] for volume in volumes]


async def test_drives_are_booted_in_their_order(served: Served, api: Api) -> None:
    iso = await upload(api, fresh("boot") + ".iso", os.urandom(3 * MIB))
    vm = await api.vm(boot_order="cd")
    await api.made("machine_drives", machine=vm.machine, media="cdrom", media_source=iso, name="cd")
    await api.drive(vm, name="second", disksize=2 * MIB, orderid=5)
    await api.drive(vm, name="first", disksize=1 * MIB, orderid=1)
    for order, expected in (("cd", ["first", "second", "cd"]), ("dc", ["cd", "first", "second"])):
        await api.put(f"vms/{vm.key}", boot_order=order)
        await api.act(vm, "poweron")
        await api.until(vm, "running")
        assert await disks_of(served, api, vm) == expected
        await api.act(vm, "kill")
        await api.until(vm, "stopped")


async def test_a_disabled_drive_is_not_there_until_it_is_enabled(served: Served, api: Api) -> None:
    vm = await api.vm()
    key = await api.drive(vm, name="x", enabled=False)
    for enabled in (False, True, False):
        await api.put(f"machine_drives/{key}", enabled=enabled)
        await api.act(vm, "poweron")
        await api.until(vm, "running")
        assert await disks_of(served, api, vm) == (["x"] if enabled else [])
        await api.act(vm, "kill")
        await api.until(vm, "stopped")


async def test_an_image_is_imported_and_becomes_a_disk(api: Api) -> None:
    vm = await api.vm()
    data = os.urandom(3 * MIB) + bytes(700)
    file = await upload(api, fresh("disk") + ".raw", data)
    key = await api.made("machine_drives", machine=vm.machine, media="import", media_source=file, name="i")
    told = await api.get(f"machine_drives/{key}", fields="media,disksize,status#status as s")
    assert told == {"media": "disk", "disksize": 3 * MIB + 1024, "s": "offline"}
    bad = await upload(api, fresh("bad") + ".qcow2", b"QFI\xfb" + os.urandom(4096))
    answer = await api.ask("POST", "machine_drives", {"machine": vm.machine, "media": "import", "media_source": bad})
    assert answer.status_code == 422
    assert "qcow2" in answer.json()["err"]
    assert len(await api.get("machine_drives", filter=f"machine eq {vm.machine}")) == 1


async def test_a_drive_is_erased_while_the_vm_is_off(served: Served, api: Api) -> None:
    vm = await api.vm()
    file = await upload(api, fresh("disk") + ".raw", os.urandom(MIB))
    key = await api.made("machine_drives", machine=vm.machine, media="import", media_source=file)
    await api.act(vm, "erase_drive", drive=key)
    assert (await api.get(f"machine_drives/{key}", fields="disksize"))["disksize"] == MIB
    assert (await volume_of(served, key)).read_bytes() == bytes(MIB)
    await api.refused(
        422, "Drive is a required parameter", "POST", "vm_actions", {"vm": vm.key, "action": "erase_drive"}
    )
    await api.act(vm, "refresh")


# -- NICs --------------------------------------------------------------------------------------------------------------


async def test_a_nic_is_made_changed_and_removed(api: Api) -> None:
    net = (await api.get("vnets", filter="name eq 'Internal'", fields="$key,name"))[0]["$key"]
    vm = await api.vm()
    receipt = await api.post("machine_nics", machine=str(vm.machine), vnet=str(net), name="n", interface="virtio")
    assert "response" not in receipt
    key = int(receipt["$key"])
    told = await api.get(
        f"machine_nics/{key}", fields="vnet#$key as k,vnet#name as n,macaddress,vnet#machine#status#status as s"
    )
    assert (told["k"], told["n"], told["s"]) == (net, "Internal", "running")
    assert len(told["macaddress"].split(":")) == 6
    await api.refused(422, "vnet", "POST", "machine_nics", {"machine": vm.machine, "vnet": net})
    await api.refused(404, "vnet", "POST", "machine_nics", {"machine": vm.machine, "vnet": 999})
    await api.refused(422, "macaddress", "PUT", f"machine_nics/{key}", {"macaddress": "zz"})
    await api.put(f"machine_nics/{key}", macaddress="AA:BB:CC:00:11:22")
    assert (await api.get(f"machine_nics/{key}", fields="macaddress"))["macaddress"] == "aa:bb:cc:00:11:22"
    other = await api.vm()
    body = {"machine": other.machine, "vnet": net, "macaddress": "aa:bb:cc:00:11:22"}
    await api.refused(422, "already in use", "POST", "machine_nics", body)
    second = await api.made("machine_nics", machine=other.machine, vnet=net)
    path = f"machine_nics/{second}"
    await api.refused(422, "already in use", "PUT", path, {"macaddress": "aa:bb:cc:00:11:22"})
    await api.put(f"machine_nics/{key}", vnet=None)
    assert (await api.get(f"machine_nics/{key}", fields="vnet"))["vnet"] is None
    await api.delete(f"machine_nics/{key}")
    assert await api.get("machine_nics", filter=f"machine eq {vm.machine}") == []


async def test_a_nic_comes_to_a_running_vm(api: Api) -> None:
    net = (await api.get("vnets", filter="name eq 'Internal'"))[0]["$key"]
    vm = await api.running()
    key = await api.made("machine_nics", machine=vm.machine, vnet=net)
    assert (await api.get(f"machine_nics/{key}", fields="status#status as s"))["s"] == "down"
    await api.act(vm, "hotplugnic", device=key)
    told = await api.get(f"machine_nics/{key}", fields="status#status as s,ipaddress")
    assert told["s"] == "up"
    assert told["ipaddress"]
    assert (await api.get(f"vms/{vm.key}", fields="need_restart"))["need_restart"] is False
    await api.refused(409, "online", "DELETE", f"machine_nics/{key}")
    await api.act(vm, "hotplugnic", device=key, unplug=True)
    assert (await api.get(f"machine_nics/{key}", fields="status#status as s"))["s"] == "down"
    await api.delete(f"machine_nics/{key}")


async def test_networks_are_the_hosts(api: Api) -> None:
    net = (await api.get("vnets", filter="name eq 'Internal'"))[0]["$key"]
    await api.post("vnet_actions", vnet=net, action="poweron", params={"apply": True})
    await api.refused(409, "stays on", "POST", "vnet_actions", {"vnet": net, "action": "kill"})
    await api.refused(422, "is not in list", "POST", "vnet_actions", {"vnet": net, "action": "dance"})
    await api.refused(404, "not found", "POST", "vnet_actions", {"vnet": 999, "action": "poweron"})


async def test_a_drive_too_many_leaves_nothing(api: Api) -> None:
    vm = await api.vm()
    body = {"machine": vm.machine, "interface": "virtio-scsi", "media": "disk", "disksize": MIB}
    while (answer := await api.ask("POST", "machine_drives", body)).status_code == 201:
        pass
    assert answer.status_code == 422, answer.text
    drives = await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="disksize")
    assert {drive["disksize"] for drive in drives} == {MIB}
    assert len(drives) == 12
    assert (await api.ask("POST", "machine_drives", body)).status_code == 422
    assert len(await api.get("machine_drives", filter=f"machine eq {vm.machine}")) == len(drives)


# -- first-boot files --------------------------------------------------------------------------------------------------


async def test_first_boot_files_are_read_as_they_were_written(served: Served, api: Api) -> None:
    contents = "#cloud-config\nhostname: «x»\n"
    vm = await api.vm(cloudinit_datasource="nocloud", cloudinit_files=[{"name": "meta-data", "contents": "{}"}])
    key = await api.made("cloudinit_files", name="/user-data", owner=f"vms/{vm.key}", render="no", contents=contents)
    rows = await api.get("cloudinit_files", filter=f"owner eq 'vms/{vm.key}'", fields="$key,name,owner,filesize")
    assert [row["name"] for row in rows] == ["meta-data", "/user-data"]
    raw = await api.ask("GET", f"cloudinit_files/{key}", download=1)
    assert raw.content == contents.encode()
    await api.put(f"cloudinit_files/{key}", render="variables")
    assert (await api.get(f"cloudinit_files/{key}", fields="render,contains_variables"))["contains_variables"] is True
    assert "contents" not in await api.get(f"cloudinit_files/{key}")
    await api.refused(422, "contents", "PUT", f"cloudinit_files/{key}", {"contents": "x" * 65537})
    await api.refused(422, "already in use", "POST", "cloudinit_files", {"name": "user-data", "owner": f"vms/{vm.key}"})
    await api.refused(404, "owner", "POST", "cloudinit_files", {"name": "x", "owner": "vms/999999"})
    await api.refused(422, "owner", "POST", "cloudinit_files", {"name": "x"})
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    machine = served.hypervisor.vms[await fake_of(served, api, vm)]._machine
    seed = machine.blueprint.spec.cloud_init
    assert seed.user_data == contents
    assert dict(seed.files) == {"meta-data": "{}"}
    await api.delete(f"cloudinit_files/{key}")
    assert len(await api.get("cloudinit_files", filter=f"owner eq 'vms/{vm.key}'")) == 1


@pytest.mark.parametrize("source", ["nocloud", "none"])
async def test_a_file_that_no_seed_can_have_leaves_nothing(api: Api, source: str) -> None:
    vm = await api.vm(cloudinit_datasource=source)
    key = await api.made("cloudinit_files", name="note", owner=f"vms/{vm.key}", contents="x")
    for name in ("..", "agent", "/", "näme"):
        await api.refused(422, "name", "POST", "cloudinit_files", {"name": name, "owner": f"vms/{vm.key}"})
        await api.refused(422, "name", "PUT", f"cloudinit_files/{key}", {"name": name})
        body = {"name": fresh("vm"), "cloudinit_files": [{"name": name, "contents": "x"}]}
        await api.refused(422, "name", "POST", "vms", body)
        assert await api.get("vms", filter=f"name eq '{body['name']}'") == []
    rows = await api.get("cloudinit_files", filter=f"owner eq 'vms/{vm.key}'", fields="$key,name")
    assert rows == [{"$key": key, "name": "note"}]
    await api.made("cloudinit_files", name="other", owner=f"vms/{vm.key}", contents="y")


async def test_files_that_come_at_once_are_all_in_the_seed(served: Served, api: Api) -> None:
    vm = await api.vm(cloudinit_datasource="nocloud")
    names = [f"file{n}" for n in range(6)]
    await asyncio.gather(*(api.made("cloudinit_files", name=name, owner=f"vms/{vm.key}") for name in names))
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    machine = served.hypervisor.vms[await fake_of(served, api, vm)]._machine
    assert [name for name, _ in machine.blueprint.spec.cloud_init.files] == names


# -- files -------------------------------------------------------------------------------------------------------------


async def test_a_file_comes_in_pieces_and_is_read_as_a_whole(api: Api) -> None:
    data = os.urandom(MIB + 777)
    name = fresh("file") + ".iso"
    key = await upload(api, name, data)
    told = await api.get(f"files/{key}", fields="name,type,filesize,allocated_bytes")
    assert told == {"name": name, "type": "iso", "filesize": len(data), "allocated_bytes": len(data)}
    assert (await api.ask("GET", f"files/{key}", download=1)).content == data
    assert (await api.get("files", filter="name bw 'file-' and type eq 'iso'", fields="$key")) != []
    await api.refused(422, "already in use", "POST", "files", {"name": name, "allocated_bytes": 1})
    await api.refused(422, "allocated_bytes", "POST", "files", {"name": fresh("f")})
    beyond = await api.http.put(f"/api/v4/files/{key}?filepos={len(data)}", content=b"x", headers=api.headers)
    assert beyond.status_code == 422
    wrong = await api.http.put(f"/api/v4/files/{key}?filepos=-1", content=b"x", headers=api.headers)
    assert wrong.status_code == 422
    assert (await api.ask("GET", f"files/{key}", download=1)).content == data
    await api.delete(f"files/{key}")
    await api.refused(404, "not found", "GET", f"files/{key}")


async def test_a_file_that_a_vm_reads_stays(api: Api) -> None:
    key = await upload(api, fresh("held") + ".iso", b"x" * 4096)
    vm = await api.vm()
    drive = await api.made("machine_drives", machine=vm.machine, media="cdrom", media_source=key)
    assert (await api.get(f"machine_drives/{drive}", fields="media_source#name as m"))["m"].startswith("held")
    await api.refused(409, "attached", "DELETE", f"files/{key}")
    answer = await api.http.put(f"/api/v4/files/{key}?filepos=0", content=b"y", headers=api.headers)
    assert answer.status_code == 409
    await api.put(f"machine_drives/{drive}", media_source=None)
    await api.delete(f"files/{key}")
