"""`machine_devices`: the TPM of a VM (vergeos.md §2.8; check 28)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dialect.served import Served
from dialect.vergeos.conftest import Api, Vm
from polyvisor.model.ids import InstanceId
from polyvisor.model.spec import Spec

pytestmark = pytest.mark.asyncio(loop_scope="session")
DEVF = (
    "$key,machine,machine_type,name,description,type,orderid,uuid,enabled,optional,resource_group,created,modified,"
    "machine#name as machine_name,resource_group#name as resource_group_name,status#status as device_status,"
    "status#status_info as status_info"
)
TPM: dict[str, Any] = {"type": "tpm", "enabled": True, "optional": False, "name": "t"}


async def spec_of(served: Served, api: Api, vm: Vm) -> Spec:
    """What the engine knows of its machine."""
    async with served.parts.store.read() as unit:
        row = await unit.rows.get("vergeos", vm.key)
        return (await unit.instances.get(InstanceId(row.subject))).spec


async def listed(api: Api, vm: Vm, **params: str) -> list[dict[str, Any]]:
    """As clients ask."""
    rows: list[dict[str, Any]] = await api.get(
        "machine_devices", filter=f"machine eq {vm.machine}", fields=DEVF, sort="+orderid", **params
    )
    return rows


async def test_a_tpm_is_made_read_changed_and_removed(served: Served, api: Api) -> None:
    vm = await api.vm()
    assert await listed(api, vm) == []
    receipt = await api.post("machine_devices", machine=vm.machine, **TPM)
    key = int(receipt["$key"])
    told = await api.get(f"machine_devices/{key}", fields=DEVF)
    assert [told] == await listed(api, vm)
    expected = {
        "$key": key, "machine": vm.machine, "machine_type": "vm", "name": "t", "type": "tpm", "enabled": True,
        "optional": False, "machine_name": vm.name, "device_status": "offline", "status_info": "",
        "uuid": receipt["response"]["uuid"], "resource_group": None,
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert (await spec_of(served, api, vm)).has_tpm
    await api.put(f"machine_devices/{key}", name="other", description="x")
    assert (await listed(api, vm))[0]["name"] == "other"
    first = (await spec_of(served, api, vm)).tpm
    await api.put(f"machine_devices/{key}", enabled=False)
    assert (await listed(api, vm))[0]["enabled"] is False
    assert not (await spec_of(served, api, vm)).has_tpm
    await api.put(f"machine_devices/{key}", enabled=True)
    assert (await spec_of(served, api, vm)).tpm == first
    assert await api.get("machine_devices", filter=f"machine eq {vm.machine} and type eq 'tpm'", fields="$key") == [
        {"$key": key}
    ]
    await api.delete(f"machine_devices/{key}")
    assert await listed(api, vm) == []
    assert not (await spec_of(served, api, vm)).tpm.id
    await api.refused(404, "not found", "GET", f"machine_devices/{key}")
    again = await api.post("machine_devices", machine=vm.machine, **TPM)
    assert again["response"] != receipt["response"]
    assert (await spec_of(served, api, vm)).tpm != first  # another one, which remembers nothing


async def test_it_stays_while_its_vm_runs(api: Api) -> None:
    vm = await api.vm()
    key = await api.made("machine_devices", machine=vm.machine, **TPM)
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    assert (await listed(api, vm))[0]["device_status"] == "online"
    await api.refused(409, "powered off", "DELETE", f"machine_devices/{key}")
    await api.refused(409, "powered off", "PUT", f"machine_devices/{key}", {"enabled": False})
    await api.put(f"machine_devices/{key}", description="said while it runs")
    other = await api.running()
    await api.refused(409, "powered off", "POST", "machine_devices", {"machine": other.machine, **TPM})
    assert await listed(api, other) == []
    await api.act(vm, "hibernate")
    await api.until(vm, "hibernated")
    await api.refused(409, "powered off", "DELETE", f"machine_devices/{key}")
    await api.act(vm, "kill")
    await api.until(vm, "stopped")
    await api.delete(f"machine_devices/{key}")


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"type": "node_usb_devices"}, 422, "'node_usb_devices' is not given to VMs"),
        ({"type": "node_nvidia_vgpu_devices", "resource_group": 1}, 422, "'node_nvidia_vgpu_devices' is not given"),
        ({"type": "floppy"}, 422, "'floppy' is not in list"), ({"type": None}, 422, "type"), ({}, 422, "type"),
        ({"type": "tpm", "count": 2}, 422, "one TPM at most"), ({"type": "tpm", "count": 17}, 422, "count"),
        ({"type": "tpm", "resource_group": 1}, 404, "resource_group"),
        ({"type": "tpm", "machine": 999999}, 404, "machine"),
    ],
)  # fmt: skip
async def test_what_is_no_tpm_is_refused_by_name(api: Api, body: dict[str, Any], status: int, text: str) -> None:
    vm = await api.vm()
    await api.refused(status, text, "POST", "machine_devices", {"machine": vm.machine, **body})
    assert await listed(api, vm) == []


async def test_a_vm_has_one_tpm(api: Api) -> None:
    vm = await api.vm()
    key = await api.made("machine_devices", machine=vm.machine, **TPM)
    await api.refused(422, "one TPM at most", "POST", "machine_devices", {"machine": vm.machine, **TPM})
    await api.refused(422, "type", "PUT", f"machine_devices/{key}", {"type": "node_usb_devices"})
    assert [row["$key"] for row in await listed(api, vm)] == [key]


async def test_of_two_who_give_it_one_at_once_is_told_so(api: Api) -> None:
    vm = await api.vm()
    body = {"machine": vm.machine, **TPM}
    answers = await asyncio.gather(*(api.ask("POST", "machine_devices", body) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [201, 422]
    (row,) = await listed(api, vm)
    gone = await asyncio.gather(*(api.ask("DELETE", f"machine_devices/{row['$key']}") for _ in range(2)))
    assert sorted(answer.status_code for answer in gone) == [200, 404]


async def test_it_is_gone_with_its_vm(api: Api) -> None:
    vm = await api.vm()
    key = await api.made("machine_devices", machine=vm.machine, **TPM)
    await api.delete(f"vms/{vm.key}")
    await api.refused(404, "not found", "GET", f"machine_devices/{key}")


async def test_strangers_neither_see_nor_change_it(api: Api, stranger: Api) -> None:
    vm = await api.vm()
    key = await api.made("machine_devices", machine=vm.machine, **TPM)
    await stranger.refused(404, "not found", "GET", f"machine_devices/{key}")
    await stranger.refused(404, "not found", "DELETE", f"machine_devices/{key}")
    assert await listed(stranger, vm) == []


async def test_a_clone_has_a_tpm_of_its_own(served: Served, api: Api) -> None:
    vm = await api.vm()
    await api.post("machine_devices", machine=vm.machine, **{**TPM, "optional": True})
    made = (await api.act(vm, "clone", name=f"{vm.name}-clone"))["response"]
    clone = Vm(int(made["vmkey"]), int(made["machinekey"]), f"{vm.name}-clone")
    (here,), (there,) = await listed(api, vm), await listed(api, clone)
    assert (there["name"], there["optional"], there["enabled"]) == ("t", True, True)
    assert there["uuid"] != here["uuid"]
    ours, its = (await spec_of(served, api, vm)).tpm, (await spec_of(served, api, clone)).tpm
    assert its.id and its != ours


async def test_going_back_to_a_snapshot_leaves_it_as_it_is(served: Served, api: Api) -> None:
    vm = await api.vm()
    snapshot = await api.made("machine_snapshots", machine=vm.machine, name="before")
    await api.post("machine_devices", machine=vm.machine, **TPM)
    tpm = (await spec_of(served, api, vm)).tpm
    await api.act(vm, "restore", snapshot=snapshot)
    assert (await spec_of(served, api, vm)).tpm == tpm
    assert [row["name"] for row in await listed(api, vm)] == ["t"]


async def test_one_that_another_api_gave_is_a_device(served: Served, api: Api) -> None:
    answer = await api.http.post(
        "/api/v1/instances", json={"blank": True, "tpm": True, "name": "assembled-with-tpm", "power": "off"},
        headers=api.headers, params={"wait": "launched"},
    )  # fmt: skip
    assert answer.status_code in (200, 201, 202), answer.text
    found = await api.get("machine_devices", filter="machine#name eq 'assembled-with-tpm'", fields=DEVF)
    assert [(one["type"], one["enabled"], one["name"]) for one in found] == [("tpm", True, "device_0")]
    await api.delete(f"machine_devices/{found[0]['$key']}")


async def test_a_host_without_swtpm_says_so(served: Served, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = await api.vm()
    monkeypatch.setattr(type(served.hypervisor), "abilities", served.hypervisor.abilities - {"tpm"})
    await api.refused(422, "swtpm is not installed", "POST", "machine_devices", {"machine": vm.machine, **TPM})
    assert await listed(api, vm) == []
