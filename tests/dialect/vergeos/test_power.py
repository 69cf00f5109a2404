"""The power guide, sentence by sentence (the seed; vergeos.md §3.2, §3.9)."""

from __future__ import annotations

import asyncio

import pytest

from dialect.served import Served
from dialect.vergeos.conftest import Api, Vm
from polyvisor.model.ids import InstanceId

pytestmark = pytest.mark.asyncio(loop_scope="session")
FIELDS = "powerstate,running,status"
MOST = """
$key machine running migratable node migrated_node migration_destination started local_time status status_info state
powerstate last_update running_cores running_ram agent_version agent_features agent_guest_info
"""


async def test_power_on_takes_the_guides_own_body(api: Api) -> None:
    vm = await api.vm()
    answer = await api.ask("POST", "vm_actions", {"action": "poweron", "params": {}, "vm": str(vm.key)})
    assert answer.status_code == 201
    await api.until(vm, "running")
    told = await api.get(f"machine_status/{vm.machine}", fields=FIELDS)
    assert told == {"powerstate": True, "running": True, "status": "running"}
    assert told["powerstate"] is True  # the guide's waiter compares it with that
    (node,) = await api.get("nodes", fields="$key,name")
    told = await api.get(f"machine_status/{vm.machine}", fields="powerstate,status,node")
    assert told == {"powerstate": True, "status": "running", "node": node["$key"]}
    (row,) = await api.get("machine_status", filter=f"machine eq {vm.machine}", limit=1, fields="all,node#name as name")
    assert (row["$key"], row["state"], row["name"]) == (vm.machine, "online", node["name"])
    told = await api.get(f"vms/{vm.key}", fields="machine#status#node as node_key,machine#status#running as running")
    assert told == {"node_key": node["$key"], "running": True}


async def test_the_status_of_one_that_is_off_keeps_its_size_and_last_start(api: Api) -> None:
    vm = await api.running(cpu_cores=3)
    started = (await api.get(f"machine_status/{vm.machine}", fields="most"))["started"]
    assert started > 0
    await api.act(vm, "kill")
    await api.until(vm, "stopped")
    told = await api.get(f"machine_status/{vm.machine}", fields="most")
    assert set(MOST.split()) <= set(told)
    assert {key: told[key] for key in ("running", "node", "status", "state", "powerstate")} == {
        "running": False, "node": None, "status": "stopped", "state": "offline", "powerstate": False,
    }  # fmt: skip
    assert (told["running_cores"], told["running_ram"], told["started"]) == (3, 512, started)
    assert (told["$key"], told["machine"], told["agent_features"]) == (vm.machine, vm.machine, [])


async def test_a_vms_key_is_no_machines_key(api: Api) -> None:
    vm = await api.vm()
    assert vm.key != vm.machine
    await api.refused(404, "not found", "GET", f"machine_status/{vm.key}")
    await api.refused(404, "not found", "POST", "vm_actions", {"vm": vm.machine, "action": "poweron"})


async def test_conflicts_have_the_guides_texts(api: Api) -> None:
    vm = await api.vm()
    for action in ("poweroff", "kill", "reset"):
        text = "Cannot power off VM: not in running state"
        await api.refused(409, text, "POST", "vm_actions", {"vm": vm.key, "action": action})
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    await api.refused(409, "Cannot power on VM: already in running state", "POST", "vm_actions",
                      {"vm": vm.key, "action": "poweron"})  # fmt: skip


async def test_of_two_who_power_on_at_once_one_is_told_of_a_conflict(api: Api) -> None:
    vm = await api.vm()
    body = {"vm": vm.key, "action": "poweron"}
    answers = await asyncio.gather(*(api.ask("POST", "vm_actions", body) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


async def test_one_that_is_larger_than_the_host_is_made_and_not_started(api: Api) -> None:
    vm = await api.vm()
    await api.put(f"vms/{vm.key}", cpu_cores=200)
    text = "Insufficient cluster resources to start VM"
    await api.refused(507, text, "POST", "vm_actions", {"vm": vm.key, "action": "poweron"})
    assert await api.status(vm) == "stopped"
    await api.put(f"vms/{vm.key}", cpu_cores=1)
    await api.act(vm, "poweron")


async def test_a_guest_that_does_not_obey_runs_on_until_it_is_killed(served: Served, api: Api) -> None:
    vm = await api.running()
    fake = await fake_of(served, api, vm)
    served.hypervisor.knob.stubborn.add(fake)
    await api.act(vm, "poweroff")
    await asyncio.sleep(0.3)
    assert await api.status(vm) == "running"
    await api.act(vm, "kill")
    await api.until(vm, "stopped")


async def fake_of(served: Served, api: Api, vm: Vm) -> InstanceId:
    """The id of its instance."""
    uuid = (await api.get(f"vms/{vm.key}", fields="uuid"))["uuid"]
    return next(id for id, one in served.hypervisor.vms.items() if one.record.uuid == uuid)


async def test_resets_leave_it_running(served: Served, api: Api) -> None:
    vm = await api.running()
    before = await fake_of(served, api, vm)
    run = served.hypervisor.vms[before].record
    await api.act(vm, "reset")
    await asyncio.sleep(0.2)
    assert served.hypervisor.vms[before].record == run
    for action, params in (("reset", {"graceful": True}), ("guestreset", {}), ("guestreboot", {})):
        run = served.hypervisor.vms[before].record
        await api.act(vm, action, **params)
        async with asyncio.timeout(20):
            while served.hypervisor.vms[before].record == run or await api.status(vm) != "running":
                await asyncio.sleep(0.02)


async def test_it_hibernates_and_goes_on(api: Api) -> None:
    vm = await api.running()
    await api.act(vm, "hibernate")
    await api.until(vm, "hibernated")
    await api.act(vm, "poweron")
    await api.until(vm, "running")


async def test_there_is_no_other_node(api: Api) -> None:
    vm = await api.running()
    await api.refused(409, "migrate", "POST", "vm_actions", {"vm": vm.key, "action": "migrate"})
    off = await api.vm()
    body = {"vm": off.key, "action": "poweron", "params": {"preferred_node": 999}}
    await api.refused(404, "preferred_node", "POST", "vm_actions", body)


async def test_what_is_no_action_is_named(api: Api) -> None:
    vm = await api.vm()
    for action in ("killpower", "guestshutdown", ""):
        text = f"value '{action}' is not in list for field 'action'" if action else "action"
        await api.refused(422, text, "POST", "vm_actions", {"vm": vm.key, "action": action})
    await api.refused(422, "vm", "POST", "vm_actions", {"action": "poweron"})
    await api.refused(422, "vm", "POST", "vm_actions", {"vm": "x", "action": "poweron"})
    await api.refused(404, "not found", "POST", "vm_actions", {"vm": 999999, "action": "poweron"})


async def test_a_disabled_vm_is_not_started(api: Api) -> None:
    vm = await api.vm(enabled=False)
    await api.refused(409, "disabled", "POST", "vm_actions", {"vm": vm.key, "action": "poweron"})


async def test_one_that_is_stuck_is_said_to_be_stopped(api: Api) -> None:
    vm = await api.running()
    told = {"running": False, "migratable": True, "status": "stopped", "state": "offline"}
    await api.put(f"machine_status/{vm.machine}", **told)
    assert await api.status(vm) == "stopped"


async def test_guests_are_typed_at_and_asked_by_their_agent(api: Api) -> None:
    vm = await api.running()
    await api.act(vm, "paste", text="hello")
    await api.refused(422, "Text is a required parameter", "POST", "vm_actions", {"vm": vm.key, "action": "paste"})
    told = await api.act(vm, "execute", command="echo hi")
    assert told["response"]["exitcode"] == "0"
