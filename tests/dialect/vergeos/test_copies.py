"""Snapshots, what is restored from them, and clones (vergeos.md §2.9, §3.4, §3.5; checks 16 to 19)."""

from __future__ import annotations

import time

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api, Vm, volume_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
SNPF = (
    "$key,name,description,created,expires,expires_type,quiesced,created_manually,machine,snap_machine,snapshot_period"
)


async def only_drive(api: Api, machine: int) -> int:
    """The key of the one drive of a machine."""
    (row,) = await api.get("machine_drives", filter=f"machine eq {machine}", fields="$key")
    return int(row["$key"])


async def taken(api: Api, vm: Vm, **more: object) -> int:
    """A snapshot's key."""
    return await api.made("machine_snapshots", machine=vm.machine, name=fresh("s"), **more)


async def test_a_snapshot_is_listed_with_its_hidden_vm(api: Api) -> None:
    vm = await api.vm()
    key = await taken(api, vm, created_manually=True, quiesce=False, expires=0)
    (row,) = await api.get("machine_snapshots", filter=f"machine eq {vm.machine}", fields=SNPF, sort="-created")
    assert (row["$key"], row["expires"], row["machine"]) == (key, 0, vm.machine)
    assert row["snap_machine"] not in (vm.machine, None)
    hidden = await api.get("vms", filter=f"machine eq {row['snap_machine']}", fields="$key,name,machine,is_snapshot")
    assert [one["is_snapshot"] for one in hidden] == [True]
    await api.refused(409, "snapshot", "POST", "vm_actions", {"vm": hidden[0]["$key"], "action": "poweron"})
    await api.delete(f"machine_snapshots/{key}")
    assert await api.get("machine_snapshots", filter=f"machine eq {vm.machine}") == []
    assert await api.get("vms", filter=f"machine eq {row['snap_machine']}") == []


async def test_one_that_nobody_says_how_long_is_kept_three_days(api: Api) -> None:
    vm = await api.vm()
    key = await taken(api, vm)
    left = (await api.get(f"machine_snapshots/{key}", fields="expires"))["expires"] - time.time()
    assert 72 * 3600 - 60 < left <= 72 * 3600
    body = {"machine": vm.machine, "name": (await api.get(f"machine_snapshots/{key}", fields="name"))["name"]}
    await api.refused(422, "already in use", "POST", "machine_snapshots", body)
    await api.refused(404, "machine", "POST", "machine_snapshots", {"machine": vm.key, "name": "x"})
    await api.refused(422, "expires", "POST", "machine_snapshots", {"machine": vm.machine, "name": "x", "expires": -1})


async def test_a_vm_is_restored_in_place(served: Served, api: Api) -> None:
    vm = await api.vm(description="then", cpu_cores=2)
    drive = await api.drive(vm, name="d")
    (await volume_of(served, drive)).write_bytes(b"then" * 1024 * 1024)
    key = await taken(api, vm, expires=0)
    (await volume_of(served, drive)).write_bytes(b"now!" * 1024 * 1024)
    await api.put(f"vms/{vm.key}", description="now", cpu_cores=4)
    hidden = await api.get("vms", filter="is_snapshot eq true", fields="$key,machine", sort="-$key")
    snap = (await api.get(f"machine_snapshots/{key}", fields="snap_machine"))["snap_machine"]
    target = next(one["$key"] for one in hidden if one["machine"] == snap)
    for body in (
        {"vm": target, "action": "restore"},
        {"vm": vm.key, "action": "restore", "params": {"snapshot": key, "preserve_macs": False}},
        {"vm": vm.key, "action": "restore", "params": {"snapshot_id": str(key)}},
    ):
        await api.put(f"vms/{vm.key}", description="now")
        assert (await api.ask("POST", "vm_actions", body)).status_code == 201
        told = await api.get(f"vms/{vm.key}", fields="description,cpu_cores,machine")
        assert told == {"description": "then", "cpu_cores": 2, "machine": vm.machine}
        file = await volume_of(served, await only_drive(api, vm.machine))
        assert file.read_bytes()[:8] == b"thenthen"
        file.write_bytes(b"now!" * 1024 * 1024)
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    body = {"vm": vm.key, "action": "restore", "params": {"snapshot": key}}
    await api.refused(409, "VM must be powered off", "POST", "vm_actions", body)


async def test_a_snapshot_is_restored_to_a_vm_of_its_own(served: Served, api: Api) -> None:
    vm = await api.running()
    drive = await api.drive(vm, name="d")
    await api.act(vm, "hotplugdrive", device=drive)
    (await volume_of(served, drive)).write_bytes(b"data" * 1024 * 1024)
    key = await taken(api, vm, expires=0)
    snap = (await api.get(f"machine_snapshots/{key}", fields="snap_machine"))["snap_machine"]
    (hidden,) = await api.get("vms", filter=f"machine eq {snap}", fields="$key")
    made = (await api.act(hidden["$key"], "clone", name=fresh("restored")))["response"]
    assert set(made) == {"vmkey", "machinekey", "machinestatuskey", "clusterkey"}
    assert all(isinstance(value, str) for value in made.values())
    other = Vm(int(made["vmkey"]), int(made["machinekey"]), "")
    assert await api.status(other) == "stopped"
    file = await volume_of(served, await only_drive(api, other.machine))
    assert file.read_bytes()[:8] == b"datadata"
    await api.act(other, "poweron")
    await api.until(other, "running")
    await api.act(vm, "kill")
    await api.until(vm, "stopped")
    await api.delete(f"vms/{vm.key}")  # what was restored stands alone
    assert file.read_bytes()[:8] == b"datadata"


async def test_a_clone_is_another_vm(served: Served, api: Api) -> None:
    net = (await api.get("vnets", filter="name eq 'Internal'"))[0]["$key"]
    vm = await api.vm(description="d", cpu_cores=3, uefi=True)
    drive = await api.drive(vm, name="d")
    nic = await api.made("machine_nics", machine=vm.machine, vnet=net, macaddress="02:00:00:12:34:56")
    await api.made("cloudinit_files", name="/user-data", owner=f"vms/{vm.key}", contents="x")
    (await volume_of(served, drive)).write_bytes(b"data" * 1024 * 1024)
    name = fresh("clone")
    made = (await api.act(vm, "clone", name=name, preserve_macs=False, quiesce="true"))["response"]
    told = await api.get(f"vms/{made['vmkey']}", fields="name,description,cpu_cores,uefi,created_from,machine,uuid")
    uuid = (await api.get(f"vms/{vm.key}", fields="uuid"))["uuid"]
    assert (told["name"], told["description"], told["cpu_cores"], told["uefi"]) == (name, "d", 3, True)
    assert (told["created_from"], str(told["machine"])) == ("clone", made["machinekey"])
    assert told["uuid"] != uuid
    status = await api.get(f"machine_status/{made['machinestatuskey']}", fields="powerstate,status")
    assert status == {"powerstate": False, "status": "stopped"}
    file = await volume_of(served, await only_drive(api, told["machine"]))
    assert file.read_bytes() == (await volume_of(served, drive)).read_bytes()
    assert file != await volume_of(served, drive)
    (other,) = await api.get("machine_nics", filter=f"machine eq {told['machine']}", fields="macaddress,vnet")
    assert other["vnet"] == net
    assert other["macaddress"] != (await api.get(f"machine_nics/{nic}", fields="macaddress"))["macaddress"]
    assert len(await api.get("cloudinit_files", filter=f"owner eq 'vms/{made['vmkey']}'")) == 1
    await api.refused(
        422, "already in use", "POST", "vm_actions", {"vm": vm.key, "action": "clone", "params": {"name": name}}
    )
    assert len(await api.get("vms", filter=f"name eq '{name}'")) == 1


async def test_one_made_of_an_image_is_cloned_and_snapshotted_with_its_own_disk(served: Served, api: Api) -> None:
    made = await served.make(name=fresh("micro"))
    (row,) = await api.get("vms", filter=f"name eq '{made['name']}'", fields="$key,machine")
    vm = Vm(row["$key"], row["machine"], made["name"])
    key = await taken(api, vm, expires=0)
    assert len(await api.get("machine_snapshots", filter=f"machine eq {vm.machine}")) == 1
    told = (await api.act(vm, "clone", name=fresh("copy")))["response"]
    copy = Vm(int(told["vmkey"]), int(told["machinekey"]), "")
    assert await api.status(copy) == "stopped"
    await api.act(copy, "poweron")
    await api.until(copy, "running")
    await api.delete(f"machine_snapshots/{key}")
    assert (await served.http.get("/api/v1/snapshots", params={"instance": made["id"]})).json()["items"] == []


async def test_one_that_another_api_took_is_listed_and_restored(served: Served, api: Api) -> None:
    made = await served.make(name=fresh("micro"))
    body = {"name": fresh("theirs")}
    answer = await served.http.post(f"/api/v1/instances/{made['id']}/snapshots", json=body, params={"wait": "launched"})
    assert answer.status_code in (200, 201), answer.text
    (row,) = await api.get("vms", filter=f"name eq '{made['name']}'", fields="$key,machine")
    (snap,) = await api.get("machine_snapshots", filter=f"machine eq {row['machine']}", fields="$key,name,snap_machine")
    assert snap["name"] == body["name"]
    (hidden,) = await api.get("vms", filter=f"machine eq {snap['snap_machine']}", fields="$key,is_snapshot")
    assert hidden["is_snapshot"] is True
    await api.delete(f"machine_snapshots/{snap['$key']}")
    assert await api.get("machine_snapshots", filter=f"machine eq {row['machine']}") == []
