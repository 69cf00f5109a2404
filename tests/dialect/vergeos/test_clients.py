"""What clients in other languages ask, with the types that they insist on (vergeos.md §2.1; checks 24, 26, 27, 30)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api
from polyvisor.dialects.vergeos.sources import DIALECT
from polyvisor.model.foreign import Row
from polyvisor.model.principal import SYSTEM, Action

pytestmark = pytest.mark.asyncio(loop_scope="session")
GO = """
$key uuid machine name description enabled created modified is_snapshot owner owner_user creator cluster
cluster_failover cpu_cores cpu_type ram machine_type iommu usb_legacy uefi secure_boot boot_order boot_delay console
video sound serial_port os_family os_description rtc_base allow_hotplug guest_agent nested_virtualization
disable_hypervisor allow_export cloudinit_datasource preferred_node ha_group snapshot_profile on_power_loss
migration_method power_cycle_timeout need_restart created_from imported
"""
FLAGS = """
enabled is_snapshot iommu usb_legacy uefi secure_boot serial_port allow_hotplug guest_agent nested_virtualization
disable_hypervisor allow_export need_restart imported powerstate
"""
NUMBERS = {"$key", "machine", "created", "modified", "cpu_cores", "ram", "boot_delay", "power_cycle_timeout"}
STATE = "machine#status#status as status,machine#status#running as running"


async def test_a_typed_client_finds_numbers_flags_and_texts(api: Api) -> None:
    assert await api.get("clusters", fields="$key", limit=1) == [{"$key": (await api.get("clusters"))[0]["$key"]}]
    cluster = str((await api.get("clusters"))[0]["$key"])
    made = await api.post(
        "vms", name=fresh("tf"), enabled=True, machine_type="pc-q35-10.0", cluster=cluster, cpu_cores=1, ram=1024,
        cloudinit_datasource="nocloud", cloudinit_files=[{"name": "user-data", "contents": "#cloud-config"}],
    )  # fmt: skip
    assert (type(made["$key"]), type(made["response"]["machine"]), type(made["$row"])) == (str, str, int)
    go, flags = GO.split(), set(FLAGS.split())
    row = await api.get(f"vms/{made['$key']}", fields=",".join([*go, "machine#status#running as powerstate"]))
    assert set(go) - {"owner", "owner_user"} <= set(row)
    assert {name for name in NUMBERS if type(row[name]) is not int} == set()
    assert {name for name in flags if type(row[name]) is not bool} == set()
    texts = set(row) - NUMBERS - flags
    assert {name for name in texts if not isinstance(row[name], str | None)} == set()
    assert (row["cluster"], row["preferred_node"], row["snapshot_profile"]) == (cluster, None, None)
    for action, word in (("poweron", "running"), ("kill", "stopped")):
        await api.post("vm_actions", vm=made["$key"], action=action)  # no parameters at all
        async with asyncio.timeout(20):
            while (told := await api.get(f"vms/{made['$key']}", fields=STATE))["status"] != word:
                await asyncio.sleep(0.02)
        assert told["running"] is (word == "running")
    await api.delete(f"vms/{made['$key']}")
    await api.refused(404, "not found", "GET", f"vms/{made['$key']}", fields=",".join(go))


async def test_who_builds_images_waits_for_a_disk_and_finds_an_address(api: Api) -> None:
    made = await api.post("vms", name=fresh("build"), enabled=True, ram=1024, cpu_cores=1, uefi=False, boot_delay=0)
    (net,) = await api.get("vnets", filter="name eq 'Internal'", fields="$key")
    machine = int(made["response"]["machine"])
    fields = "id,machine,name,cluster,description,display,preferred_node,snapshot_profile,console,video"
    row = await api.get(f"vms/{made['$key']}", fields=f"{fields},machine#status#running as powerstate")
    assert (row["id"], row["machine"], row["powerstate"]) == (made["$key"], machine, False)
    assert all(isinstance(row[name], str | None) for name in row if name not in ("machine", "powerstate"))
    body = {"machine": machine, "name": "os", "media": "disk", "interface": "virtio-scsi", "disksize": 2**22}
    drive = await api.post("machine_drives", **body, preferred_tier="1", enabled=True)
    state = await api.get(f"machine_drives/{drive['$key']}", fields="status#status as powerState")
    assert state == {"powerState": "offline"}
    row = await api.get(f"machine_drives/{drive['$key']}", fields="machine,name,media_source,preferred_tier")
    assert row == {"machine": machine, "name": "os", "media_source": None, "preferred_tier": "1"}
    await api.made("machine_nics", machine=machine, vnet=net["$key"], enabled=True, interface="virtio")
    await api.post("vm_actions", vm=made["$key"], action="poweron", params=None)
    async with asyncio.timeout(20):
        while not (guest := await _guest(api, made["$key"])):
            await asyncio.sleep(0.05)
    (card,) = guest["network"]
    (address,) = card["ip-addresses"]
    assert address["ip-address-type"] == "ipv4"
    (nic,) = await api.get("machine_nics", filter=f"machine eq {machine}", fields="ipaddress,macaddress")
    assert (address["ip-address"], card["hardware-address"]) == (nic["ipaddress"], nic["macaddress"])
    await api.post("vm_actions", vm=made["$key"], action="kill")
    async with asyncio.timeout(20):
        while (await api.get(f"vms/{made['$key']}", fields=STATE))["running"]:
            await asyncio.sleep(0.02)
    await api.delete(f"vms/{made['$key']}")


async def _guest(api: Api, key: str) -> Any:
    """What a guest says of itself; an empty list while it says nothing."""
    told = await api.get(f"vms/{key}", fields="dashboard")
    return told["machine"]["status"]["agent_guest_info"]


async def test_who_collects_figures_has_every_machine_in_each_table(api: Api) -> None:
    (net,) = await api.get("vnets", filter="name eq 'Internal'", fields="$key")
    vms = [await api.vm(), await api.running(), await api.vm()]
    drives = {await api.drive(vm) for vm in vms}
    nics = {await api.made("machine_nics", machine=vm.machine, vnet=net["$key"]) for vm in vms}
    machines = {vm.machine for vm in vms}
    for table in ("machine_status", "machine_stats"):
        assert machines <= {row["machine"] for row in await api.get(table, fields="all")}
    assert drives <= {row["parent_drive"] for row in await api.get("machine_drive_stats", fields="all")}
    assert drives <= {row["$key"] for row in await api.get("machine_drives", fields="$key,machine,disksize")}
    rows = await api.get("machine_nics", fields="$key,machine,stats[rx_bytes,tx_bytes,rx_pckts,tx_pckts] as stats")
    assert nics <= {row["$key"] for row in rows}
    assert all(type(row["stats"]["rx_bytes"]) is int for row in rows)
    (named,) = await api.get("settings", filter="key eq 'cloud_name'", fields="key,value")
    assert named["value"]
    (status,) = await api.get("cluster_status", fields="cluster,total_nodes,online_nodes,total_ram,running_machines")
    assert (status["total_nodes"], status["online_nodes"]) == (1, 1)
    assert status["running_machines"] >= 1


async def test_a_long_table_is_read_at_once_or_in_pages_while_others_write(served: Served, api: Api) -> None:
    rows = served.parts.engine.rows
    category = await api.made("tag_categories", name=fresh("many"), taggable_vms=True)
    (project,) = {row.project for row in await rows.of(DIALECT, ["tag_categories"]) if row.key == category}
    wanted = [
        Row(DIALECT, "tags", fresh(f"{number}"), project, "", json.dumps({"name": f"{number}", "category": category}))
        for number in range(2350)
    ]
    made = await rows.add(SYSTEM, wanted, Action.INSTANCE_ALTER)
    mine = {row.key for row in made}
    asked = {"filter": f"category eq {category}", "fields": "$key"}

    async def disturb() -> None:
        while True:
            await api.delete(f"tags/{await api.made('tags', name=fresh('t'), category=category)}")

    other = asyncio.create_task(disturb())
    try:
        for limit in ({}, {"limit": 0}):
            assert mine <= {row["$key"] for row in await api.get("tags", **asked, **limit)}
        seen: list[int] = []
        while page := await api.get("tags", **asked, limit=100, offset=len(seen)):
            seen += [row["$key"] for row in page]
            if len(page) < 100:
                break
        assert len(seen) == len(set(seen))
        assert mine <= set(seen)
    finally:
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        await rows.remove(SYSTEM, made, Action.INSTANCE_ALTER)
    newest = await api.get("vms", fields="$key,created", sort="-created", limit=5)
    assert [row["created"] for row in newest] == sorted((row["created"] for row in newest), reverse=True)
