"""`volume.*`, and volumes of machines."""

from __future__ import annotations

from typing import Any

import pytest

from dialect.hanzo.conftest import Caller, project
from dialect.served import Served, fresh
from polyvisor.model.faults import Busy
from polyvisor.model.ids import InstanceId

pytestmark = pytest.mark.asyncio(loop_scope="session")


def _guest(served: Served, vm: str) -> Any:
    return served.vm(vm.removeprefix("vm_"))._guest


async def test_a_volume_is_made_seen_grown_and_removed(root: Caller, org: str) -> None:
    name = fresh("my data")
    made = await root.volume(org, name=name, sizeGb=100, tier="nvme", region="us-west")
    assert made == {
        "id": made["id"], "name": name, "sizeGb": 100, "tier": "nvme", "region": "us-west", "status": "available",
        "vmId": None, "mountPath": None, "device": None, "createdAt": made["createdAt"], "organizationId": org,
    }  # fmt: skip
    assert made["id"].startswith("vol_")
    assert await root.ok("GET volume.one", volumeId=made["id"]) == made
    second = await root.volume(org)
    assert await root.ok("GET volume.all", organizationId=org) == [second, made]
    assert await root.ok("POST volume.resize", volumeId=made["id"], sizeGb=200) == made | {"sizeGb": 200}
    assert (await root.refused(400, "BAD_REQUEST", "POST volume.resize", volumeId=made["id"], sizeGb=199)).startswith(
        "sizeGb"
    )
    await root.ok("DELETE volume.remove", 204, volumeId=made["id"])
    await root.refused(404, "NOT_FOUND", "GET volume.one", volumeId=made["id"])
    by_alias = await root.ok(
        "POST vm.createVolume", 201, name=fresh("v"), sizeGb=10, region="us-east", organizationId=org
    )
    await root.ok("DELETE vm.deleteVolume", 204, volumeId=by_alias["id"])


async def test_what_is_wrong_with_a_volume_is_named(root: Caller, org: str) -> None:
    good = {"name": fresh("v"), "sizeGb": 50, "region": "us-east", "organizationId": org}
    wrong: list[tuple[str, Any]] = [
        ("name", ""), ("name", "x" * 65), ("sizeGb", 9), ("sizeGb", 10_241), ("sizeGb", "50"), ("sizeGb", 10.5),
        ("sizeGb", True), ("sizeGb", 10**30), ("tier", "tape"), ("region", "mars"),
    ]  # fmt: skip
    for field, value in wrong:
        message = await root.refused(400, "BAD_REQUEST", "POST volume.create", **good | {field: value})
        assert message.startswith(field), message
    assert "sizeGb" in await root.refused(
        400, "BAD_REQUEST", "POST volume.create", **good | {"tier": "nvme", "sizeGb": 49}
    )
    less = {key: value for key, value in good.items() if key != "organizationId"}
    assert "organizationId" in await root.refused(400, "BAD_REQUEST", "POST volume.create", **less)  # there are many
    await root.volume(org, name="one")
    await root.refused(409, "CONFLICT", "POST volume.create", **good | {"name": "one"})
    assert [one["name"] for one in await root.ok("GET volume.all", organizationId=org)] == ["one"]


async def test_the_organization_need_not_be_named_where_there_is_one(served: Served, root: Caller) -> None:
    stranger = Caller(root.http, await served.stranger())
    made = await stranger.ok("POST volume.create", 201, name="my-data", sizeGb=100, tier="ssd", region="us-east")
    (organization,) = await stranger.ok("GET organization.all")
    assert made["organizationId"] == organization["id"]
    await root.refused(403, "FORBIDDEN", "GET volume.all", organizationId="org_" + "b" * 24)
    other = Caller(root.http, await served.stranger())
    for line in ("GET volume.one", "POST volume.resize", "DELETE volume.remove"):
        await other.refused(404, "NOT_FOUND", line, volumeId=made["id"], sizeGb=200)


async def test_a_volume_goes_from_machine_to_machine(served: Served, root: Caller, org: str) -> None:
    one, two = (await root.running(org, os="debian-12"))["id"], (await root.running(org))["id"]
    volume = (await root.volume(org))["id"]
    held = await root.ok("POST vm.attachVolume", vmId=one, volumeId=volume, mountPath="/mnt/data")
    assert held == await root.ok("GET volume.one", volumeId=volume) | {"mounted": True}
    assert (held["status"], held["vmId"], held["mountPath"]) == ("attached", one, "/mnt/data")
    serial = volume.removeprefix("vol_")[:20]
    assert held["device"] == f"/dev/disk/by-id/virtio-{serial}"
    assert _guest(served, one).mounts == {"/mnt/data": serial}
    listed = await root.ok("GET vm.volumes", vmId=one)
    assert listed == [{key: held[key] for key in
                       ("id", "name", "sizeGb", "mountPath", "device", "status", "tier")}]  # fmt: skip
    assert (await root.ok("GET vm.one", vmId=one))["volumes"] == listed
    for vm in (one, two):
        await root.refused(409, "CONFLICT", "POST vm.attachVolume", vmId=vm, volumeId=volume)
    await root.refused(409, "CONFLICT", "DELETE volume.remove", volumeId=volume)
    assert (await root.ok("POST volume.resize", volumeId=volume, sizeGb=20))["sizeGb"] == 20
    more = (await root.volume(org))["id"]
    message = await root.refused(
        409, "CONFLICT", "POST vm.attachVolume", vmId=one, volumeId=more, mountPath="/mnt/data/"
    )
    assert message.startswith("mountPath")
    await root.refused(404, "NOT_FOUND", "POST vm.detachVolume", vmId=two, volumeId=volume)
    free = await root.ok("POST vm.detachVolume", vmId=one, volumeId=volume)
    assert (free["status"], free["vmId"], free["mountPath"]) == ("available", None, None)
    assert _guest(served, one).mounts == {}
    await root.ok("POST vm.attachVolume", vmId=two, volumeId=volume, mountPath="/mnt/data")
    await root.ok("DELETE vm.destroy", 204, vmId=two)
    assert (await root.ok("GET volume.one", volumeId=volume))["status"] == "available"  # it is kept


async def test_one_that_is_off_has_it_at_its_next_start(served: Served, root: Caller, org: str) -> None:
    vm = (await root.running(org, os="debian-12"))["id"]
    volume = (await root.volume(org))["id"]
    await root.ok("POST vm.stop", vmId=vm)
    await root.until(vm, "stopped")
    held = await root.ok("POST vm.attachVolume", vmId=vm, volumeId=volume, mountPath="/data")
    assert (held["mounted"], held["status"]) == (False, "attached")
    await root.ok("POST vm.start", vmId=vm)
    found = await root.until(vm, "running")
    assert [one["mountPath"] for one in found["volumes"]] == ["/data"]
    assert "/data" in _guest(served, vm).mounts
    await root.ok("POST vm.detachVolume", vmId=vm, volumeId=volume)


async def test_a_guest_that_uses_it_keeps_it(served: Served, root: Caller, org: str) -> None:
    vm = (await root.running(org, os="debian-12"))["id"]
    volume = (await root.volume(org))["id"]
    await root.ok("POST vm.attachVolume", vmId=vm, volumeId=volume, mountPath="/data")
    served.hypervisor.knob.fail["detach"] = [Busy("it is in use")]
    assert "in use" in await root.refused(409, "CONFLICT", "POST vm.detachVolume", vmId=vm, volumeId=volume)
    assert (await root.ok("GET volume.one", volumeId=volume))["status"] == "attached"
    await root.ok("POST vm.detachVolume", vmId=vm, volumeId=volume)


async def test_without_an_agent_it_is_attached_and_not_mounted(served: Served, root: Caller, org: str) -> None:
    body = {"name": fresh("blank"), "vcpus": 1, "memory": "512M"}
    made = await served.http.post("/api/v1/machines", json=body, headers={"X-Project": project(org)})
    if made.status_code == 404:
        made = await served.http.post(
            "/api/v1/instances", json=body | {"blank": True}, headers={"X-Project": project(org)}
        )
    assert made.status_code < 300, made.text
    vm = "vm_" + made.json()["id"]
    found = await root.until(vm, "running")
    assert found["os"] == "none"
    volume = (await root.volume(org))["id"]
    held = await root.ok("POST vm.attachVolume", vmId=vm, volumeId=volume, mountPath="/data")
    assert (held["mounted"], held["mountPath"]) == (False, "/data")
    assert (await root.ok("GET vm.volumes", vmId=vm))[0]["mountPath"] == "/data"
    assert (await root.ok("POST vm.detachVolume", vmId=vm, volumeId=volume))["mountPath"] is None
    await root.ok("POST vm.attachVolume", vmId=vm, volumeId=volume)
    assert (await root.ok("GET vm.volumes", vmId=vm))[0]["mountPath"] is None


async def test_what_cannot_be_attached_is_named(served: Served, root: Caller, org: str) -> None:
    vm = (await root.running(org))["id"]
    volume = (await root.volume(org))["id"]
    west = (await root.volume(org, region="us-west"))["id"]
    theirs = (await root.volume(await root.organization()))["id"]
    for path in ("data", "/", "/a/../b", "/a b", "/a\n", "//", "/" + "x" * 2000, 5):
        message = await root.refused(
            400, "BAD_REQUEST", "POST vm.attachVolume", vmId=vm, volumeId=volume, mountPath=path
        )
        assert message.startswith("mountPath")
    assert "region" in await root.refused(400, "BAD_REQUEST", "POST vm.attachVolume", vmId=vm, volumeId=west)
    for other in (theirs, "vol_xyz789", "vol_" + "a" * 24):
        assert "Volume not found" in await root.refused(
            404, "NOT_FOUND", "POST vm.attachVolume", vmId=vm, volumeId=other
        )
    served.hypervisor.knob.stubborn.add(InstanceId(vm.removeprefix("vm_")))
    await root.ok("POST vm.stop", vmId=vm)
    assert "stopping" in await root.refused(409, "CONFLICT", "POST vm.attachVolume", vmId=vm, volumeId=volume)
    await root.ok("DELETE vm.destroy", 204, vmId=vm)
