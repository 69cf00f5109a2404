"""`vm.*` by HTTP: launched, listed, powered and destroyed; each error in its form."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dialect.hanzo.conftest import KEY, Caller, member, project, said
from dialect.served import Served, fresh
from polyvisor.dialects.hanzo.catalog import PLANS, nearest
from polyvisor.dialects.hanzo.states import word
from polyvisor.model.faults import Upstream
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import GIB

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = "vm_" + "a" * 24
LAUNCH = {"plan": "nano", "region": "us-east", "os": "debian-12"}


async def test_a_machine_is_launched_seen_and_destroyed(root: Caller, org: str) -> None:
    name = fresh("ml training")  # of no form that ours may have
    made = await root.launch(org, name=name, plan="power", region="eu-west", os="debian-12", sshKeys=[KEY, KEY])
    assert re.fullmatch("vm_[a-z0-9]{24}", made["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["createdAt"])
    assert made == {
        "id": made["id"], "name": name, "status": "provisioning", "ip": None, "createdAt": made["createdAt"],
        "plan": "power", "region": "eu-west", "os": "debian-12",
    }  # fmt: skip
    found = await root.until(made["id"], "running")
    assert found == made | {
        "status": "running", "ip": "127.0.0.1", "privateIp": found["privateIp"], "sshPort": found["sshPort"],
        "specs": {"vcpu": 8, "memoryGb": 16, "diskGb": 320, "diskType": "ssd"}, "sshKeys": [KEY, KEY], "volumes": [],
        "organizationId": org,
    }  # fmt: skip
    assert found["privateIp"].startswith("10.") and found["sshPort"] > 0
    second = await root.launch(org)
    listed = await root.ok("GET vm.all", organizationId=org)
    assert [one["id"] for one in listed] == [second["id"], made["id"]]  # newest first
    assert listed[1] == {key: found[key] for key in listed[1]}
    assert set(listed[1]) == {"id", "name", "plan", "region", "os", "ip", "status", "createdAt"}
    assert await root.ok("DELETE vm.destroy", 204, vmId=made["id"]) is None
    assert await root.refused(404, "NOT_FOUND", "GET vm.one", vmId=made["id"]) == "VM not found"
    await root.refused(404, "NOT_FOUND", "DELETE vm.destroy", vmId=made["id"])
    assert [one["id"] for one in await root.ok("GET vm.all", organizationId=org)] == [second["id"]]


@pytest.mark.parametrize("plan", PLANS)
async def test_every_plan_is_as_large_as_its_table_says(served: Served, root: Caller, org: str, plan: str) -> None:
    made = await root.launch(org, plan=plan, region="ap-south")
    size = PLANS[plan]
    found = await root.ok("GET vm.one", vmId=made["id"])
    specs = {"vcpu": size.vcpus, "memoryGb": size.memory_gb, "diskGb": size.disk_gb, "diskType": size.disk_type}
    assert (found["specs"], found["plan"], found["region"]) == (specs, plan, "ap-south")
    spec = (await served.http.get(f"/api/v1/instances/{made['id'].removeprefix('vm_')}")).json()
    assert (spec["vcpus"], spec["memory"], spec["disk"]) == (size.vcpus, size.memory, size.disk)


async def test_power(root: Caller, org: str) -> None:
    id = (await root.running(org, os="debian-12"))["id"]
    before = await root.ok("GET vm.one", vmId=id)
    assert await root.ok("POST vm.start", vmId=id) == {"id": id, "status": "running"}
    assert await root.ok("POST vm.restart", vmId=id) == {"id": id, "status": "restarting"}
    await root.until(id, "running")
    assert await root.ok("POST vm.stop", vmId=id) == {"id": id, "status": "stopping"}
    stopped = await root.until(id, "stopped")
    assert await root.ok("POST vm.stop", vmId=id) == {"id": id, "status": "stopped"}
    assert "stopped" in await root.refused(409, "CONFLICT", "POST vm.restart", vmId=id)
    assert (stopped["ip"], stopped["privateIp"]) == (before["ip"], before["privateIp"])
    assert await root.ok("POST vm.start", vmId=id) == {"id": id, "status": "restarting"}
    after = await root.until(id, "running")
    assert {**after, "sshPort": 0} == {**before, "sshPort": 0}
    await root.ok("DELETE vm.destroy", 204, vmId=id)


async def test_what_moves_is_not_moved_again(served: Served, root: Caller, org: str) -> None:
    """A guest that does not obey its button is on its way for as long as it may."""
    id = (await root.running(org))["id"]
    served.hypervisor.knob.stubborn.add(InstanceId(id.removeprefix("vm_")))
    await root.ok("POST vm.stop", vmId=id)
    assert (await root.ok("GET vm.one", vmId=id))["status"] == "stopping"
    assert await root.ok("POST vm.stop", vmId=id) == {"id": id, "status": "stopping"}
    await root.refused(409, "CONFLICT", "POST vm.start", vmId=id)
    await root.refused(409, "CONFLICT", "POST vm.restart", vmId=id)
    await root.ok("DELETE vm.destroy", 204, vmId=id)


async def test_what_was_put_to_sleep_elsewhere_is_started(served: Served, root: Caller, org: str) -> None:
    body = {"image": "busybox", "name": fresh("sleeper"), "memory": "96M"}
    made = await served.http.post("/api/v1/instances?wait=ready", json=body, headers={"X-Project": project(org)})
    ours = made.json()["id"]
    id = f"vm_{ours}"
    for verb in ("pause", "standby"):
        answer = await served.http.post(f"/api/v1/instances/{ours}/{verb}", params={"wait": "launched"})
        assert answer.status_code < 300, answer.text
        await root.until(id, "stopped")
        assert await root.ok("POST vm.stop", vmId=id) == {"id": id, "status": "stopped"}
        await root.ok("POST vm.start", vmId=id)
        await root.until(id, "running")


async def test_what_other_dialects_made_is_seen_here(served: Served, root: Caller, org: str) -> None:
    headers = {"X-Project": project(org)}
    body = {"image": "busybox", "name": fresh("other"), "vcpus": 2, "memory": "3G", "disk": "1G", "grace": 3600}
    made = (await served.http.post("/api/v1/instances?wait=ready", json=body, headers=headers)).json()
    (listed,) = await root.ok("GET vm.all", organizationId=org)
    assert listed == {
        "id": f"vm_{made['id']}", "name": body["name"], "plan": "small", "region": "us-east", "os": "busybox",
        "ip": "127.0.0.1", "status": "running", "createdAt": listed["createdAt"],
    }  # fmt: skip
    found = await root.ok("GET vm.one", vmId=listed["id"])
    assert found["specs"] == {"vcpu": 2, "memoryGb": 3, "diskGb": 1, "diskType": "ssd"}
    await root.ok("POST vm.stop", vmId=listed["id"])
    await root.until(listed["id"], "stopped")
    async with served.parts.store.read() as unit:
        assert (await unit.instances.get(InstanceId(made["id"]))).intent.grace == 60  # whatever its maker has said
    here = await root.running(org)
    seen = (await served.http.get("/api/v1/instances", headers=headers)).json()
    assert here["id"].removeprefix("vm_") in {one["id"] for one in seen["items"]}
    assert nearest(1, GIB, 0).name == "nano"
    assert nearest(9, GIB, 0).name == "power-dedicated"


async def test_every_wrong_field_of_a_launch_is_named(root: Caller, org: str) -> None:
    good = {"name": fresh("vm"), **LAUNCH, "organizationId": org}
    wrong: list[tuple[str, Any]] = [
        ("name", ""), ("name", "x" * 65), ("name", "a\nb"), ("name", 5), ("name", None),
        ("plan", "huge"), ("plan", 1), ("plan", "gpu-a100-80"),
        ("region", "mars"), ("region", ["us-east"]),
        ("os", "windows-11"), ("os", "BusyBox"), ("os", "../etc"), ("os", {}),
        ("sshKeys", "ssh-ed25519 AAAA"), ("sshKeys", [5]), ("sshKeys", ["no key"]), ("sshKeys", [KEY, "ssh-dss AAAA"]),
        ("sshKeys", [KEY + "\nssh-rsa AAAA"]), ("sshKeys", [KEY] * 101),
        ("userData", 1), ("userData", "echo hello"), ("userData", "#!/bin/sh\n" + "x" * 65_536), ("userData", "#!\0"),
    ]  # fmt: skip
    for field, value in wrong:
        message = await root.refused(400, "BAD_REQUEST", "POST vm.launch", **(good | {field: value}))
        assert message.startswith(field), (field, value, message)
    for field in ("name", "plan", "region", "os", "organizationId"):
        less = {key: value for key, value in good.items() if key != field}
        assert await root.refused(400, "BAD_REQUEST", "POST vm.launch", **less) == f"{field}: is required"
    assert (await root.refused(400, "BAD_REQUEST", "POST vm.launch", **good | {"os": "fedora-40"})).startswith(
        'os: fedora-40 is not set up on this host: the setting [os_images."fedora-40"]'
    )
    for field, value in (("sshKeys", [KEY]), ("userData", "#!/bin/sh\n")):  # a small image takes neither
        message = await root.refused(400, "BAD_REQUEST", "POST vm.launch", **good | {"os": "busybox", field: value})
        assert message.startswith(field)
    assert await root.ok("GET vm.all", organizationId=org) == []


async def test_a_name_is_one_machines_in_its_organization(root: Caller, org: str) -> None:
    for name in ("web", "a web server"):
        await root.launch(org, name=name)
        await root.refused(409, "CONFLICT", "POST vm.launch", organizationId=org, name=name, **LAUNCH)
        await root.launch(await root.organization(), name=name)


async def test_systems_come_from_the_settings_and_are_verified(served: Served, root: Caller, org: str) -> None:
    made = await root.launch(org, os="ubuntu-22.04", sshKeys=[KEY], userData="#cloud-config\nruncmd: [id]\n")
    found = await root.until(made["id"], "running")
    assert (found["os"], found["sshKeys"]) == ("ubuntu-22.04", [KEY])
    assert "runcmd" not in str(found)  # what is for the first boot is told to nobody
    assert "checksum" in await root.refused(
        502, "BAD_GATEWAY", "POST vm.launch", **LAUNCH | {"organizationId": org, "name": "x", "os": "rocky-9"}
    )
    assert "cannot be read" in await root.refused(
        502, "BAD_GATEWAY", "POST vm.launch", **LAUNCH | {"organizationId": org, "name": "x", "os": "gone"}
    )
    body = {"image": "busybox", "name": "ours"}
    headers = {"X-Project": project(org)}
    await served.http.post("/api/v1/instances?wait=ready", json=body, headers=headers)
    assert len(await root.ok("GET vm.all", organizationId=org)) == 2


async def test_foreign_machines_are_not_there_and_foreign_organizations_are_forbidden(
    served: Served, root: Caller, org: str
) -> None:
    theirs = (await root.running(await root.organization()))["id"]
    stranger = Caller(root.http, await served.stranger())
    mine = await member(served, root, org, "Owner")
    for caller in (stranger, mine):
        for line in ("GET vm.one", "GET vm.volumes", "GET vm.terminal", "POST vm.start", "POST vm.stop",
                     "POST vm.restart", "DELETE vm.destroy"):  # fmt: skip
            for id in (theirs, NOBODY, "vm_abc123", theirs.removeprefix("vm_")):
                assert await caller.refused(404, "NOT_FOUND", line, vmId=id) == "VM not found"
        for line in ("POST vm.attachVolume", "POST vm.detachVolume"):
            await caller.refused(404, "NOT_FOUND", line, vmId=theirs, volumeId="vol_abc123")
    for caller in (stranger, await member(served, root, org, None)):
        for other in (org, "org_abc123", "org_" + "a" * 24, "abc"):
            await caller.refused(403, "FORBIDDEN", "GET vm.all", organizationId=other)
            await caller.refused(403, "FORBIDDEN", "POST vm.launch", organizationId=other, name="x", **LAUNCH)
    assert (await root.ok("GET vm.one", vmId=theirs))["status"] == "running"


async def test_the_bootstrap_project_is_an_organization(served: Served, root: Caller) -> None:
    id = f"org_{served.parts.facts['project']}"
    assert id in {one["id"] for one in await root.ok("GET organization.all")}
    made = await root.running(id)
    assert made["id"] in {one["id"] for one in await root.ok("GET vm.all", organizationId=id)}


async def test_what_fails_is_an_error_and_can_be_destroyed(served: Served, root: Caller, org: str) -> None:
    served.hypervisor.knob.fail["launch"] = [Upstream("no luck")]
    made = await root.launch(org)
    found = await root.until(made["id"], "error")
    assert found["ip"] is None
    await root.refused(409, "CONFLICT", "POST vm.restart", vmId=made["id"])
    await root.ok("POST vm.start", vmId=made["id"])
    await root.until(made["id"], "running")
    await root.ok("DELETE vm.destroy", 204, vmId=made["id"])


async def test_a_destroy_comes_by_query_or_by_post_too(root: Caller, org: str) -> None:
    first, second = (await root.launch(org))["id"], (await root.launch(org))["id"]
    headers = {"Authorization": f"Bearer {root.token}"}
    answer = await root.http.delete("/api/vm.destroy", params={"vmId": first}, headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    await root.ok("POST vm.destroy", 204, vmId=second)
    assert await root.ok("GET vm.all", organizationId=org) == []


async def test_a_guest_that_says_nothing_is_told_to_run_after_a_while(served: Served, root: Caller, org: str) -> None:
    id = (await root.running(org))["id"].removeprefix("vm_")
    async with served.parts.store.read() as unit:
        instance = await unit.instances.get(InstanceId(id))
    seen = instance.observed
    assert seen.booted is not None
    silent = replace(instance, observed=replace(seen, ready=False))
    again = replace(instance, observed=replace(seen, ready=False, incarnation=2))
    soon, later = seen.booted + timedelta(minutes=1), seen.booted + timedelta(minutes=6)
    assert (word(silent, soon), word(again, soon), word(silent, later)) == ("provisioning", "restarting", "running")
    waiting = replace(instance, intent=replace(instance.intent, generation=9))
    assert word(waiting, soon) == "restarting"


async def test_queries_take_their_input_as_json_as_well(root: Caller, org: str) -> None:
    id = (await root.launch(org))["id"]
    found = await root.ok("GET vm.one", input=f'{{"vmId": "{id}"}}')
    assert found["id"] == id
    for text in ("{", "[]", "5", "null"):
        await root.refused(400, "BAD_REQUEST", "GET vm.one", input=text)
    many = await asyncio.gather(*(root.ask("GET vm.one", vmId=id) for _ in range(20)))
    assert {answer.status_code for answer in many} == {200}
    headers = {"Authorization": f"Bearer {root.token}"}
    answer = await root.http.get("/api/vm.one,vm.all", params={"batch": "1", "input": "{}"}, headers=headers)
    assert said(answer, 400, "BAD_REQUEST", "vm.one,vm.all").startswith("batch")
