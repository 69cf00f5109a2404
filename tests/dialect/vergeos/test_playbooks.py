"""What playbooks ask, twice: things are found by name, compared, and changed only where they differ (check 25)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dialect.served import fresh
from dialect.vergeos.conftest import GIB, Api
from dialect.vergeos.test_parts import DRF
from dialect.vergeos.test_vms import VMF

pytestmark = pytest.mark.asyncio(loop_scope="session")
NICF = (
    "$key,name,orderid,interface,description,enabled,macaddress,ipaddress,vnet,machine,status#status as status,"
    "status#display(status) as status_display,vnet#machine#status#status as vnet_status,stats#rxbps as rxbps,"
    "stats#txbps as txbps,vnet#name as vnet_name,vnet#$key as vnet_key,status#speed as speed,"
    "stats#rx_bytes as rx_bytes,stats#tx_bytes as tx_bytes"
)
CIF = "$key,name,owner,filesize,allocated_bytes,used_bytes,modified,render,contains_variables,creator"


async def named(api: Api, name: str) -> dict[str, Any] | None:
    """The VM of that name, as playbooks look for one."""
    rows = await api.get("vms", filter=f"(name eq '{name}') and is_snapshot eq false", fields=VMF, limit=1)
    return rows[0] if rows else None


async def present(api: Api, name: str, **wanted: Any) -> bool:
    """Whether anything had to be done for a VM to be so."""
    now = await named(api, name)
    if now is None:
        await api.made("vms", name=name, **wanted)
        return True
    differs = {field: value for field, value in wanted.items() if now.get(field) != value}
    if differs:
        await api.put(f"vms/{now['$key']}", **differs)
    return bool(differs)


async def power(api: Api, name: str, word: str) -> bool:
    """Whether anything had to be done for a VM to be `running` or `stopped`; it is waited for, once a look."""
    now = await named(api, name)
    assert now is not None
    if now["status"] == word:
        return False
    await api.post("vm_actions", vm=now["$key"], action={"running": "poweron", "stopped": "kill"}[word])
    async with asyncio.timeout(20):
        while (await api.get(f"vms/{now['$key']}", fields=VMF))["status"] != word:
            await asyncio.sleep(0.02)
    return True


async def absent(api: Api, name: str) -> bool:
    """Whether there was one to be removed."""
    now = await named(api, name)
    if now is not None:
        await api.delete(f"vms/{now['$key']}")
    return now is not None


async def test_a_vm_is_there_runs_stops_and_goes(api: Api) -> None:
    name = fresh("play")
    of_no_column = {"machine_subtype": "10.0", "bios_type": "seabios", "network": "Internal"}
    wanted: dict[str, Any] = {
        "description": "by a playbook", "enabled": True, "os_family": "linux", "cpu_cores": 2, "ram": 2048,
    }  # fmt: skip
    assert await absent(api, name) is False
    assert await present(api, name, **wanted, machine_type="q35", **of_no_column)
    now = await named(api, name)
    assert now is not None
    assert {field: now[field] for field in wanted} == wanted
    assert now["machine_type"] == "pc-q35-10.0"
    assert not set(of_no_column) & set(now)
    assert not await present(api, name, **wanted)
    assert not await present(api, name, **wanted, machine_type="pc-q35-10.0")
    assert await present(api, name, **wanted | {"cpu_cores": 4, "ram": 4096})
    assert not await present(api, name, cpu_cores=4, ram=4096)
    for word in ("running", "stopped"):
        assert await power(api, name, word)
        assert not await power(api, name, word)
    assert await absent(api, name)
    assert not await absent(api, name)


async def test_a_drive_is_there_and_goes(api: Api) -> None:
    vm = await api.vm(machine_type="q35")

    async def drives() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await api.get(
            "machine_drives", filter=f"machine eq {vm.machine}", fields=DRF, sort="+orderid"
        )
        return rows

    assert await drives() == []
    wanted = {"name": "data", "interface": "virtio-scsi", "media": "disk", "readonly": False}
    key = await api.made("machine_drives", machine=vm.machine, enabled=True, disksize=10 * GIB, **wanted)
    (row,) = await drives()
    assert {field: row[field] for field in wanted} == wanted
    assert row["disksize"] == 10 * GIB
    assert await api.get(f"machine_drives/{key}", fields="$key,machine") == {"$key": key, "machine": vm.machine}
    await api.put(f"machine_drives/{key}", readonly=True)
    assert [row["readonly"] for row in await drives()] == [True]
    await api.delete(f"machine_drives/{key}")
    assert await drives() == []


async def test_a_nic_is_there_is_disabled_and_goes(api: Api) -> None:
    vm = await api.vm(machine_type="q35")
    fields = "$key,name,type,machine#status#running as running,machine#status#status as status"
    (net,) = await api.get("vnets", filter="name eq 'Internal'", fields=fields, limit=1)
    assert (net["running"], net["status"]) == (True, "running")

    async def nics() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = await api.get(
            "machine_nics", filter=f"machine eq {vm.machine}", fields=NICF, sort="+orderid"
        )
        return rows

    wanted = {"interface": "virtio", "enabled": True, "vnet": net["$key"]}
    key = await api.made("machine_nics", machine=vm.machine, **wanted)
    (row,) = await nics()
    assert len(row) == 20
    assert {field: row[field] for field in wanted} == wanted
    assert (row["vnet_name"], row["vnet_key"], row["vnet_status"]) == ("Internal", net["$key"], "running")
    await api.put(f"machine_nics/{key}", enabled=False)
    assert [row["enabled"] for row in await nics()] == [False]
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    assert [row["status"] for row in await nics()] == ["down"]
    await api.delete(f"machine_nics/{key}")
    assert await nics() == []


async def test_a_snapshot_is_taken_restored_and_removed(api: Api) -> None:
    vm = await api.vm(machine_type="q35", description="then")
    body = {"machine": vm.machine, "name": "before", "created_manually": True, "quiesce": False}
    key = await api.made("machine_snapshots", **body)
    every = await api.get("machine_snapshots", fields="all")
    assert [row["name"] for row in every if row["machine"] == vm.machine] == ["before"]
    await api.put(f"vms/{vm.key}", description="now")
    snap = await api.get(f"machine_snapshots/{key}", fields="$key,name,machine,snap_machine")
    (hidden,) = await api.get(
        "vms", filter=f"machine eq {snap['snap_machine']}", fields="$key,name,machine,is_snapshot"
    )
    made = await api.act(hidden["$key"], "clone", name=f"{snap['name']} restored {vm.key}")
    assert int(made["response"]["vmkey"]) not in (vm.key, hidden["$key"])
    assert await api.get(f"vms/{made['response']['vmkey']}", fields="description") == {"description": "then"}
    await api.delete(f"machine_snapshots/{key}")
    assert await api.get("machine_snapshots", filter=f"machine eq {vm.machine}") == []


async def test_first_boot_files_are_there_change_and_go(api: Api) -> None:
    vm = await api.vm(machine_type="q35")
    owner = f"vms/{vm.key}"
    keys: dict[str, int] = {}
    for run in (1, 2):
        await api.put(f"vms/{vm.key}", cloudinit_datasource="nocloud")
        there = await api.get("cloudinit_files", filter=f"owner eq '{owner}'", fields=CIF)
        assert {row["name"]: row["$key"] for row in there} == keys
        for name in ("/user-data", "/meta-data", "/network-config"):
            body = {"contents": f"# {name} {run}", "render": "No"}
            if run == 1:
                keys[name] = await api.made("cloudinit_files", name=name, owner=owner, **body)
            else:
                await api.put(f"cloudinit_files/{keys[name]}", **body)
    raw = await api.ask("GET", f"cloudinit_files/{keys['/user-data']}", download=1)
    assert raw.text == "# /user-data 2"
    await api.put(f"vms/{vm.key}", cloudinit_datasource="")  # off, as playbooks say it
    assert await api.get(f"vms/{vm.key}", fields="cloudinit_datasource") == {"cloudinit_datasource": "none"}
    for key in keys.values():
        await api.delete(f"cloudinit_files/{key}")
    assert await api.get("cloudinit_files", filter=f"owner eq '{owner}'", fields=CIF) == []
