"""VMs made of files of the catalogue, and files made of VMs (vergeos.md §2.11)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import GIB, Api, Vm
from polyvisor.dialects.vergeos import make_app
from polyvisor.host.hypervisor.fake.host import FakeImages
from polyvisor.host.images import ova
from polyvisor.model.appliance import Appliance, Cable
from polyvisor.model.units import MIB, Bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")
IMPF = (
    "$key,id,name,vm,vm#$display as vm_display,uuid,file,file#$display as file_display,volume,volume#$display as "
    "volume_display,volume_path,status,status_info,importing,aborted,preserve_macs,preserve_drive_format,"
    "preferred_tier,timestamp,modified"
)
DISKS = (os.urandom(70_000) + bytes(MIB - 70_000), b"second" + bytes(512 * 1024 - 6))


async def uploaded(api: Api, name: str, data: bytes) -> int:
    """A file of the catalogue."""
    key = await api.made("files", name=name, allocated_bytes=str(len(data)))
    headers = {**api.headers, "Content-Type": "application/octet-stream"}
    answer = await api.http.put(f"/api/v4/files/{key}?filepos=0", content=data, headers=headers)
    assert answer.status_code == 200, answer.text
    return key


def appliance(folder: Path, **more: Any) -> bytes:
    """An OVA of two disks and two NICs."""
    disks = []
    for place, data in enumerate(DISKS):
        (folder / f"{place}").write_bytes(data)
        disks.append((folder / f"{place}", len(data)))
    nics = (Cable("VM Network", "00:50:56:aa:00:01"), Cable("Other", ""))
    about = Appliance(**{"name": "old", "vcpus": 2, "memory": Bytes(2 * GIB), "uefi": True, "nics": nics, **more})
    ova.write(folder / "out.ova", about, disks)
    return (folder / "out.ova").read_bytes()


async def begun(api: Api, file: int, **more: Any) -> str:
    """The key of an import that has been started."""
    made = await api.post("vm_imports", **{"name": fresh("i"), "file": file, "importing": True, **more})
    assert len(made["$key"]) == 40
    return str(made["$key"])


async def ended(api: Api, key: str) -> dict[str, Any]:
    """An import when it is over, as clients look for it."""
    async with asyncio.timeout(20):
        while True:
            (row,) = await api.get("vm_imports", filter=f"id eq '{key}'", fields=IMPF)
            if row["status"] not in ("initializing", "importing"):
                assert row["importing"] is False
                return dict(row)
            await asyncio.sleep(0.02)


async def bytes_of(served: Served, api: Api, machine: int) -> list[bytes]:
    """What is on a machine's drives, in order."""
    found = []
    for row in await api.get("machine_drives", filter=f"machine eq {machine}", fields="$key,media", sort="orderid"):
        assert row["media"] == "disk"
        async with served.parts.store.read() as unit:
            kept = json.loads((await unit.rows.get("vergeos", row["$key"])).data)
        found.append((served.parts.config.data / "volumes" / f"{kept['volume']}.raw").read_bytes())
    return found


def images_of(served: Served) -> FakeImages:
    """Where disks are unpacked."""
    found = served.parts.host.images
    assert isinstance(found, FakeImages)
    return found


@pytest.fixture
def gate(served: Served) -> Iterator[asyncio.Event]:
    """Disks are unpacked when it is opened."""
    gate = images_of(served).gate
    gate.clear()
    yield gate
    gate.set()


async def volumes(served: Served) -> set[str]:
    """The files of all volumes."""
    return {file.name for file in (served.parts.config.data / "volumes").iterdir()}


# -- in ----------------------------------------------------------------------------------------------------------------


async def test_an_appliance_becomes_a_vm(served: Served, api: Api, tmp_path: Path) -> None:
    file = await uploaded(api, fresh("a") + ".ova", appliance(tmp_path))
    row = await ended(api, await begun(api, file, preserve_macs=True))
    assert (row["status"], row["status_info"], row["aborted"]) == ("complete", "", False)
    assert row["file"] == file and row["vm_display"] == row["name"]
    vm = await api.get(f"vms/{row['vm']}", fields="most")
    assert (vm["name"], vm["cpu_cores"], vm["ram"], vm["uefi"]) == (row["name"], 2, 2048, True)
    assert (vm["imported"], vm["created_from"]) == (True, "import_ovf")
    assert await bytes_of(served, api, vm["machine"]) == list(DISKS)
    nics = await api.get("machine_nics", filter=f"machine eq {vm['machine']}", fields="macaddress,vnet#name as net")
    assert (nics[0]["net"], nics[0]["macaddress"]) == ("Internal", "00:50:56:aa:00:01")
    assert nics[1]["net"] is None
    lines = await api.get("vm_import_logs", filter=f"vm_import eq '{row['$key']}'", fields="$key,level,text,timestamp")
    assert len(lines) == 4 and lines[0]["timestamp"] > 10**15
    await api.act(vm["$key"], "poweron")
    again = await ended(api, await begun(api, file))
    other = await api.get(f"vms/{again['vm']}", fields="machine")
    macs = await api.get("machine_nics", filter=f"machine eq {other['machine']}", fields="macaddress")
    assert "00:50:56:aa:00:01" not in {nic["macaddress"] for nic in macs}
    warned = await api.get("vm_import_logs", filter=f"vm_import eq '{again['$key']}' and level eq 'warning'")
    assert len(warned) == 1


async def test_a_disk_becomes_a_vm_of_one(served: Served, api: Api) -> None:
    file = await uploaded(api, fresh("d") + ".raw", DISKS[0])
    made = await api.post("vm_imports", name=fresh("i"), file=file)
    (row,) = await api.get("vm_imports", filter=f"id eq '{made['$key']}'", fields=IMPF)
    assert (row["status"], row["vm"], row["importing"]) == ("initializing", None, False)
    await api.put(f"vm_imports/{made['$key']}", preferred_tier="2")
    answer = await api.ask("PUT", f"vm_imports/{made['$key']}", {}, action="import")
    assert answer.status_code == 200, answer.text
    row = await ended(api, made["$key"])
    assert row["status"] == "complete", row
    vm = await api.get(f"vms/{row['vm']}", fields="machine,created_from,cpu_cores,ram")
    assert (vm["created_from"], vm["cpu_cores"], vm["ram"]) == ("import", 1, 1024)
    assert await bytes_of(served, api, vm["machine"]) == [DISKS[0]]
    for action in ("import", "abort"):
        await api.refused(409, "import", "PUT", f"vm_imports/{made['$key']}", {}, action=action)
    await api.refused(409, "complete", "PUT", f"vm_imports/{made['$key']}", {"name": "x"})
    await api.delete(f"vm_imports/{made['$key']}")
    assert await api.get("vm_import_logs", filter=f"vm_import eq '{made['$key']}'") == []
    assert (await api.get(f"vms/{row['vm']}", fields="$key"))["$key"] == row["vm"]


async def test_what_cannot_be_asked_for(api: Api, stranger: Api) -> None:
    file = await uploaded(api, fresh("d"), DISKS[1])
    for status, text, body in (
        (422, "file is a required", {"name": fresh("i")}), (404, "'file'", {"name": fresh("i"), "file": 99999}),
        (404, "'volume'", {"name": fresh("i"), "volume": "a" * 40}), (422, "'name'", {"file": file}),
        (404, "'shared_object'", {"name": fresh("i"), "shared_object": 3}),
        (422, "interface", {"name": fresh("i"), "file": file, "override_drive_interface": "floppy"}),
    ):  # fmt: skip
        await api.refused(status, text, "POST", "vm_imports", body)
    vm = await api.vm()
    await api.refused(422, "already in use", "POST", "vm_imports", {"name": vm.name, "file": file})
    key = await begun(api, file)
    await ended(api, key)
    assert await stranger.get("vm_imports") == [] and await stranger.get("vm_import_logs") == []
    await stranger.refused(404, "vm_imports", "DELETE", f"vm_imports/{key}")
    await stranger.refused(404, "'file'", "POST", "vm_imports", {"name": fresh("i"), "file": file})


async def test_hostile_files_leave_nothing_but_the_reason(served: Served, api: Api, tmp_path: Path) -> None:
    good = appliance(tmp_path)
    cut = good[:-MIB]
    wrong = good.replace(b"second", b"forged")
    short = appliance(tmp_path, vcpus=100_000)
    before = await volumes(served)
    vms = len(await api.get("vms"))
    for data, reason in (
        (cut, "cut off"), (wrong, "manifest"), (short, "cpu_cores"), (b"vhdxfile" + bytes(4096), "VHDX"),
        (b"KDMV" + bytes(4096), "VMDK"), (b"QFI\xfb" + bytes(4096), ""),
    ):  # fmt: skip
        file = await uploaded(api, fresh("bad"), data)
        row = await ended(api, await begun(api, file))
        assert (row["status"], row["vm"]) == ("error", None)
        assert reason in row["status_info"] and row["status_info"], row
        await api.delete(f"files/{file}")
    assert await volumes(served) == before
    assert len(await api.get("vms")) == vms


async def test_an_import_is_aborted(served: Served, api: Api, tmp_path: Path, gate: asyncio.Event) -> None:
    file = await uploaded(api, fresh("a") + ".ova", appliance(tmp_path))
    before = await volumes(served)
    key = await begun(api, file)
    async with asyncio.timeout(10):
        while (row := (await api.get("vm_imports", filter=f"id eq '{key}'", fields=IMPF))[0])["vm"] is None:
            await asyncio.sleep(0.02)
    assert (row["status"], row["importing"]) == ("importing", True)
    await api.refused(409, "imported", "POST", "vm_actions", {"vm": row["vm"], "action": "poweron"})
    await api.refused(409, "running", "PUT", f"vm_imports/{key}", {}, action="import")
    await api.refused(409, "running", "DELETE", f"vm_imports/{key}")
    answer = await api.ask("PUT", f"vm_imports/{key}", {}, action="abort")
    assert answer.status_code == 200
    row = (await api.get("vm_imports", filter=f"id eq '{key}'", fields=IMPF))[0]
    assert (row["status"], row["aborted"], row["importing"], row["vm"]) == ("aborted", True, False, None)
    assert await api.get("vms", filter=f"name eq '{row['name']}'") == []
    assert await volumes(served) == before
    gate.set()
    assert (await api.ask("PUT", f"vm_imports/{key}", {}, action="import")).status_code == 200
    assert (await ended(api, key))["status"] == "complete"


async def test_one_that_a_restart_cut_has_failed(
    served: Served, api: Api, tmp_path: Path, gate: asyncio.Event
) -> None:  # fmt: skip
    """The next server is the dialect made anew over the same store: it knows nothing of the work that went on."""
    file = await uploaded(api, fresh("a") + ".ova", appliance(tmp_path))
    before = await volumes(served)
    key = await begun(api, file)
    async with asyncio.timeout(20):
        while (row := (await api.get("vm_imports", filter=f"id eq '{key}'", fields=IMPF))[0])["vm"] is None:
            await asyncio.sleep(0.05)
    (job,) = (task for task in asyncio.all_tasks() if task.get_name() == f"import/{key}")
    transport = httpx.ASGITransport(make_app(served.parts.engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://next") as http:
        after = Api(http, api.headers)
        (row,) = await after.get("vm_imports", filter=f"id eq '{key}'", fields=IMPF)
        assert (row["status"], row["importing"], row["vm"]) == ("error", False, None)
        assert "server ended" in row["status_info"]
        assert await after.get("vms", filter=f"name eq '{row['name']}'") == []
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    assert await volumes(served) == before


# -- out ---------------------------------------------------------------------------------------------------------------


async def with_disks(served: Served, api: Api) -> Vm:
    """A VM with two disks that hold something, and a NIC."""
    vm = await api.vm(cpu_cores=3, uefi=True)
    for data in DISKS:
        await api.drive(vm, disksize=MIB)
        row = (await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="$key", sort="-orderid"))[0]
        async with served.parts.store.read() as unit:
            kept = json.loads((await unit.rows.get("vergeos", row["$key"])).data)
        (served.parts.config.data / "volumes" / f"{kept['volume']}.raw").write_bytes(data.ljust(MIB, b"\0"))
    await api.made("machine_nics", machine=vm.machine, vnet=(await api.get("vnets", fields="$key"))[0]["$key"])
    return vm


@pytest.mark.parametrize("runs", [False, True])
async def test_a_vm_goes_out_and_comes_in_again(served: Served, api: Api, runs: bool) -> None:
    vm = await with_disks(served, api)
    if runs:
        await api.act(vm, "poweron")
        await api.until(vm, "running")
    told = (await api.act(vm, "export", name=fresh("e") + ".ova"))["response"]
    row = await ended(api, await begun(api, int(told["file"]), preserve_macs=False))
    assert row["status"] == "complete", row
    made = await api.get(f"vms/{row['vm']}", fields="machine,cpu_cores,ram,uefi")
    assert (made["cpu_cores"], made["ram"], made["uefi"]) == (3, 512, True)
    assert await bytes_of(served, api, made["machine"]) == [data.ljust(MIB, b"\0") for data in DISKS]
    assert len(await api.get("machine_nics", filter=f"machine eq {made['machine']}")) == 1


async def test_one_disk_goes_out(served: Served, api: Api) -> None:
    vm = await with_disks(served, api)
    keys = [row["$key"] for row in await api.get("machine_drives", filter=f"machine eq {vm.machine}", sort="orderid")]
    before = len(await volumes(served))
    for form in ("raw", "qcow2"):
        answer = await api.ask("PUT", f"vms/{vm.key}", {"format": form, "drive": keys[1]}, action="export")
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["name"] == f"{vm.name}.{form}"
        got = await api.ask("GET", f"files/{told['file']}", download=1)
        assert got.content == DISKS[1].ljust(MIB, b"\0")
    assert len(await volumes(served)) == before + 2
    act = {"vm": vm.key, "action": "export"}
    for status, text, params in (
        (422, "drive", {"format": "raw"}), (404, "drive", {"format": "raw", "drive": 1}),
        (422, "format", {"format": "vdi"}), (422, "already in use", {"format": "raw", "drive": keys[0]}),
        (422, "name", {"name": "a/b"}),
    ):  # fmt: skip
        await api.refused(status, text, "POST", "vm_actions", {**act, "params": params})
    await api.put(f"vms/{vm.key}", allow_export=False)
    await api.refused(409, "export", "POST", "vm_actions", act)
