"""VMs: made, read, changed, removed (vergeos.md §2.1, §3.6 to §3.8; checks 3, 4, 10 to 13, 23, 24)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")
VMF = (
    "$key,name,description,enabled,cpu_cores,ram,os_family,guest_agent,uefi,secure_boot,machine_type,created,modified,"
    "is_snapshot,machine,machine#status#node as node_key,machine#cluster as cluster_key,machine#ha_group as ha_group,"
    "cloudinit_datasource,machine#status#running as running,machine#status#status as status,"
    "machine#status#node#name as node_name,machine#cluster#name as cluster_name"
)
SEED = """
$key name machine description enabled created modified is_snapshot machine_type allow_hotplug guest_agent cpu_cores
cpu_type ram console video sound os_family rtc_base boot_order console_pass_enabled usb_tablet uefi secure_boot
serial_port boot_delay uuid need_restart console_status cloudinit_datasource imported created_from migration_method
note power_cycle_timeout allow_export creator nested_virtualization disable_hypervisor usb_legacy
"""


async def test_a_receipt_says_where_the_new_vm_is_and_texts_become_what_columns_are(api: Api) -> None:
    cluster = (await api.get("clusters"))[0]["$key"]
    name = fresh("web")
    made = await api.post(
        "vms", name=name, description="d", cluster=str(cluster), ram=8192, cpu_cores=4, guest_agent="true",
        console_pass_hash="", video="virtio", rtc_base="utc", uefi="true",
    )  # fmt: skip
    key = int(made["$key"])
    assert made == {
        "location": f"/v4/vms/{key}", "dbpath": f"vms/{key}", "$row": key, "$key": str(key),
        "response": {"machine": made["response"]["machine"]},
    }  # fmt: skip
    told = await api.get(f"vms/{key}", fields="most")
    assert set(SEED.split()) <= set(told)
    assert "cluster" not in told
    assert (told["$key"], told["name"], told["guest_agent"], told["uefi"], told["ram"], told["cpu_cores"]) == (
        key, name, True, True, 8192, 4,
    )  # fmt: skip
    assert isinstance(told["machine"], int)
    assert (await api.get(f"vms/{key}", fields="cluster"))["cluster"] == str(cluster)
    assert (await api.get(f"vms/{key}", fields="machine#cluster"))["machine#cluster"] == cluster


async def test_lists_are_what_clients_ask_for(api: Api) -> None:
    vm = await api.vm()
    await api.made("machine_snapshots", machine=vm.machine, name="s")
    rows = await api.get("vms", filter="is_snapshot eq false", fields=VMF)
    mine = next(row for row in rows if row["$key"] == vm.key)
    assert len(mine) == 23
    assert (mine["running"], mine["status"], mine["node_key"], mine["node_name"]) == (False, "stopped", None, None)
    (cluster,) = await api.get("clusters", fields="$key,name")
    assert (mine["cluster_key"], mine["cluster_name"]) == (cluster["$key"], cluster["name"])
    assert not any(row["is_snapshot"] for row in rows)
    assert any(row["is_snapshot"] for row in await api.get("vms", fields="is_snapshot"))
    named = await api.get("vms", filter=f"(name eq '{vm.name}') and is_snapshot eq false", fields="$key", limit=1)
    assert named == [{"$key": vm.key}]
    assert await api.get("vms", filter="(name eq 'nobody') and is_snapshot eq false", limit=1) == []
    await api.refused(422, "Invalid argument", "GET", "vms", filter="name like 'x'")
    await api.refused(422, "Invalid argument", "GET", "vms", filter="nonsense eq 1")


async def test_pages_have_every_row_once_while_others_come_and_go(api: Api) -> None:
    mine = {(await api.vm()).key for _ in range(25)}

    async def disturb() -> None:
        for _ in range(5):
            other = await api.vm()
            await api.delete(f"vms/{other.key}")

    other = asyncio.create_task(disturb())
    seen: list[int] = []
    offset = 0
    while rows := await api.get("vms", fields="$key", limit=7, offset=offset):
        seen += [row["$key"] for row in rows]
        offset += 7
    await other
    assert len(seen) == len(set(seen))
    assert mine <= set(seen)


async def test_sub_selects_and_views_reach_what_belongs_to_it(api: Api) -> None:
    vm = await api.vm()
    drive = await api.drive(vm, name="d0")
    told = await api.get(f"vms/{vm.key}", fields="machine[name,status[status,running],drives[name,disksize]]")
    assert told == {
        "machine": {
            "name": vm.name, "status": {"status": "stopped", "running": False},
            "drives": [{"name": "d0", "disksize": 4 * 2**20}],
        }
    }  # fmt: skip
    dashboard = await api.get(f"vms/{vm.key}", fields="dashboard")
    assert dashboard["machine"]["status"]["agent_guest_info"] == []
    assert dashboard["machine"]["drives"][0]["$key"] == drive


async def test_a_change_is_partial_and_what_is_only_read_is_named(api: Api) -> None:
    vm = await api.vm(description="old", cpu_cores=2)
    await api.put(f"vms/{vm.key}", ram=2048, nonsense=1, description="new")
    told = await api.get(f"vms/{vm.key}", fields="ram,description,cpu_cores,need_restart")
    assert told == {"ram": 2048, "description": "new", "cpu_cores": 2, "need_restart": False}
    await api.refused(422, "field 'key' is readonly", "PUT", f"vms/{vm.key}", {"key": 5})
    await api.refused(422, "field 'uuid' is readonly", "PUT", f"vms/{vm.key}", {"uuid": "x"})
    await api.refused(422, "ram", "PUT", f"vms/{vm.key}", {"ram": 100})
    await api.refused(422, "is not in list for field 'os_family'", "PUT", f"vms/{vm.key}", {"os_family": "beos"})
    assert (await api.get(f"vms/{vm.key}", fields="ram"))["ram"] == 2048


async def test_a_refused_change_leaves_the_name(api: Api) -> None:
    vm, other = await api.vm(), await api.vm(cpu_cores=1)
    await api.refused(422, "cpu_cores", "PUT", f"vms/{vm.key}", {"name": fresh("vm"), "cpu_cores": 1024})
    await api.refused(422, "already in use", "PUT", f"vms/{other.key}", {"name": vm.name, "cpu_cores": 2})
    assert await api.get(f"vms/{vm.key}", fields="name") == {"name": vm.name}
    assert await api.get(f"vms/{other.key}", fields="name,cpu_cores") == {"name": other.name, "cpu_cores": 1}
    await api.refused(404, "snapshot_profile", "PUT", f"vms/{vm.key}", {"snapshot_profile": 999_999, "ram": 1024})
    assert await api.get(f"vms/{vm.key}", fields="ram") == {"ram": 512}


async def test_a_running_one_has_its_new_size_at_the_next_start(api: Api) -> None:
    vm = await api.running(cpu_cores=1)
    await api.put(f"vms/{vm.key}", cpu_cores=2, ram=1024)
    told = await api.get(f"vms/{vm.key}", fields="cpu_cores,ram,need_restart,machine#status#running_ram as now")
    assert told == {"cpu_cores": 2, "ram": 1024, "need_restart": True, "now": 512}
    await api.act(vm, "kill")
    await api.until(vm, "stopped")
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    told = await api.get(f"vms/{vm.key}", fields="need_restart,machine#status#running_ram as now")
    assert told == {"need_restart": False, "now": 1024}


async def test_names_are_any_text_and_one_vms(api: Api) -> None:
    for name in ("it's a {brace}", "back\\slash", "ümläut VM 1", "x" * 128):
        vm = await api.vm(name=name)
        quoted = name.replace("\\", "\\\\").replace("'", "\\'").replace("{", "\\{")
        found = await api.get("vms", filter=f"name eq '{quoted}'", fields="$key,name")
        assert found == [{"$key": vm.key, "name": name}]
        await api.refused(422, "This name is already in use", "POST", "vms", {"name": name})
        other = await api.vm()
        await api.refused(422, "This name is already in use", "PUT", f"vms/{other.key}", {"name": name})
        await api.put(f"vms/{vm.key}", name=fresh("new"))
        await api.put(f"vms/{other.key}", name=name)
        assert (await api.get(f"vms/{other.key}", fields="name"))["name"] == name
    for wrong in ("", 'a"b', "x" * 129, None):
        await api.refused(422, "name", "POST", "vms", {"name": wrong})


async def test_sixty_four_at_once_have_keys_of_their_own(api: Api) -> None:
    names = [fresh("many") for _ in range(64)]
    made = await asyncio.gather(*(api.post("vms", name=name, ram=256) for name in names))
    keys = [row["$key"] for row in made] + [row["response"]["machine"] for row in made]
    assert len(set(keys)) == 128
    same = fresh("same")
    answers = await asyncio.gather(*(api.ask("POST", "vms", {"name": same, "ram": 256}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [422] * 7


async def test_with_a_vm_all_that_is_its_own_goes(served: Served, api: Api) -> None:
    vm = await api.vm()
    drive = await api.drive(vm)
    await api.made("machine_nics", machine=vm.machine)
    await api.made("cloudinit_files", name="/user-data", owner=f"vms/{vm.key}", contents="x")
    await api.made("machine_snapshots", machine=vm.machine, name="s")
    before = len(list((served.parts.config.data / "volumes").iterdir()))
    await api.delete(f"vms/{vm.key}")
    await api.refused(404, "not found", "GET", f"vms/{vm.key}")
    await api.refused(404, "not found", "GET", f"machine_status/{vm.machine}")
    await api.refused(404, "not found", "GET", f"machine_drives/{drive}")
    for table in ("machine_drives", "machine_nics", "machine_snapshots"):
        assert await api.get(table, filter=f"machine eq {vm.machine}") == []
    assert await api.get("cloudinit_files", filter=f"owner eq 'vms/{vm.key}'") == []
    assert len(list((served.parts.config.data / "volumes").iterdir())) == before - 2


async def test_a_running_one_is_not_removed(api: Api) -> None:
    vm = await api.running()
    await api.refused(409, "VM must be powered off", "DELETE", f"vms/{vm.key}")
    assert await api.status(vm) == "running"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"ram": 255}, "ram"), ({"ram": "much"}, "ram"), ({"cpu_cores": 0}, "cpu_cores"),
        ({"cpu_cores": 1025}, "cpu_cores"),
        ({"machine_type": "z80"}, "machine_type"), ({"console": "teletype"}, "console"), ({"uefi": "perhaps"}, "uefi"),
        ({"boot_delay": 61}, "boot_delay"), ({"description": "x" * 2049}, "description"), ({"cluster": 999}, "cluster"),
        ({"preferred_node": 999}, "preferred_node"), ({"cloudinit_files": "x"}, "cloudinit_files"),
        ({"cloudinit_files": [{"name": "", "contents": "x"}]}, "name"), ({"ram": {"x": 1}}, "ram"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_and_nothing_is_made(api: Api, body: dict[str, Any], text: str) -> None:
    name = fresh("never")
    answer = await api.ask("POST", "vms", {"name": name, **body})
    assert answer.status_code in (404, 422)
    assert text in answer.json()["err"]
    assert await api.get("vms", filter=f"name eq '{name}'") == []


async def test_an_instance_made_elsewhere_is_a_vm(served: Served, api: Api) -> None:
    name = fresh("micro")
    made = await served.make(name=name)
    row = (await api.get("vms", filter=f"name eq '{name}'", fields=VMF))[0]
    assert row["status"] == "running"
    mine = {"filter": f"machine eq {row['machine']}"}
    assert await api.get("machine_drives", **mine, fields="media,status#status as s") == [
        {"media": "disk", "s": "online"}
    ]
    nics = await api.get("machine_nics", **mine, fields="vnet#name as net,ipaddress")
    assert nics[0]["net"] == "Internal"
    assert nics[0]["ipaddress"]
    await api.post("vm_actions", vm=row["$key"], action="kill")
    async with asyncio.timeout(20):
        while (await served.http.get(f"/api/v1/instances/{made['id']}")).json()["state"] != "stopped":
            await asyncio.sleep(0.05)
    await api.delete(f"vms/{row['$key']}")
    assert (await served.http.get(f"/api/v1/instances/{made['id']}")).status_code == 404


async def test_a_list_costs_as_many_statements_however_long_it_is(served: Served, api: Api) -> None:
    for _ in range(3):
        await api.drive(await api.vm())
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        asked.append(statement)

    reader = served.parts.store._database.reader  # type: ignore[attr-defined]
    counts = []
    event.listen(reader, "before_cursor_execute", note)
    try:
        for more in (0, 40):
            await asyncio.gather(*(api.vm() for _ in range(more)))
            await api.get("vms", fields=VMF)  # what is new is numbered when it is first seen
            fewest = 1000
            for _ in range(5):  # the server reads for itself, too
                asked.clear()
                rows = await api.get("vms", filter="is_snapshot eq false", fields=VMF)
                fewest = min(fewest, len(asked))
            counts.append((fewest, len(rows)))
    finally:
        event.remove(reader, "before_cursor_execute", note)
    (few, small), (many, large) = counts
    assert large >= small + 40
    assert 0 < few == many < 30
