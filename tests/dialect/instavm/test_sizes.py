"""What a VM has of memory and processors is changed, while it runs and while it does not."""

from __future__ import annotations

import pytest

from dialect.instavm.conftest import Caller, Served
from dialect.instavm.test_vms import ours
from polyvisor.engine import allowance
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import MIB

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def has(served: Served, vm: str) -> int:
    """MiB that the guest has."""
    return await served.vm(ours(vm)).memory() // MIB


async def test_memory_of_one_that_runs_is_lowered_and_raised(root: Caller, served: Served) -> None:
    vm = (await root.vm(memory_mb=512))["vm_id"]
    line = f"PATCH /v1/vms/{vm}"
    assert (await root.ok(line, {"memory_mb": 256, "metadata": {"a": 1}}))["memory_mb"] == 256
    told = await root.ok(f"GET /v1/vms/{vm}")
    assert (told["memory_mb"], told["metadata"], await has(served, vm)) == (256, {"a": 1}, 256)
    assert (await root.ok(line, {"memory_mb": 384}))["memory_mb"] == await has(served, vm) == 384
    await root.wrong("memory_mb", line, {"memory_mb": 513})
    await root.wrong("memory_mb", line, {"memory_mb": 64})
    await root.wrong("vcpu_count", line, {"memory_mb": 256, "vcpu_count": 4})
    await root.wrong("snapshot_name", line, {"memory_mb": 256, "snapshot_name": "x" * 1000})
    assert (await root.ok(f"GET /v1/vms/{vm}"))["memory_mb"] == await has(served, vm) == 384
    assert (await root.ok(line, {"memory_mb": 512}))["memory_mb"] == await has(served, vm) == 512


async def test_what_it_is_left_lasts(root: Caller, served: Served) -> None:
    """Over a standby, over a new start, and a clone has as much."""
    vm = (await root.vm(memory_mb=512, auto_resume=True))["vm_id"]
    await root.ok(f"PATCH /v1/vms/{vm}", {"memory_mb": 256})
    await root.ok(f"POST /v1/vms/{vm}/suspend")
    await root.became(vm, "suspended")
    assert (await root.ok(f"PATCH /v1/vms/{vm}", {"memory_mb": 320}))["memory_mb"] == 320
    await root.wrong("memory_mb", f"PATCH /v1/vms/{vm}", {"memory_mb": 1024})
    vm = (await root.ok(f"POST /v1/vms/{vm}/resume"))["vm_id"]
    assert await has(served, vm) == 320
    clone = (await root.ok(f"POST /v1/vms/{vm}/clone"))["vm_id"]
    assert (await root.ok(f"GET /v1/vms/{clone}"))["memory_mb"] == 320
    url = f"/api/v1/instances/{ours(vm)}"
    assert (await served.http.get(url)).json()["memory"] == 512 * MIB
    for verb in ("stop", "start"):
        assert (await served.http.post(f"{url}/{verb}", params={"wait": "launched"})).status_code < 300
    assert (await served.http.get(url)).json()["memory"] == 320 * MIB
    assert (await root.ok(f"GET /v1/vms/{vm}"))["memory_mb"] == 320
    await root.wrong("memory_mb", f"PATCH /v1/vms/{vm}", {"memory_mb": 512})  # it was started with less now


async def test_one_that_is_off_becomes_another_machine(root: Caller, served: Served) -> None:
    vm = (await root.vm(memory_mb=256, vcpu_count=1))["vm_id"]
    url = f"/api/v1/instances/{ours(vm)}"
    assert (await served.http.post(f"{url}/stop", params={"wait": "launched"})).status_code < 300
    told = await root.ok(f"PATCH /v1/vms/{vm}", {"memory_mb": 1024, "vcpu_count": 2})
    assert (told["status"], told["memory_mb"], told["vcpu_count"]) == ("stopped", 1024, 2)
    await root.wrong("snapshot_name", f"PATCH /v1/vms/{vm}", {"memory_mb": 512, "snapshot_name": "x" * 1000})
    assert (await root.ok(f"GET /v1/vms/{vm}"))["memory_mb"] == 1024
    await served.http.post(f"{url}/start", params={"wait": "launched"})
    found = (await served.http.get(url)).json()
    assert (found["memory"], found["vcpus"]) == (1024 * MIB, 2)


async def test_a_guest_that_does_not_obey_keeps_what_it_has(
    root: Caller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allowance, "_PATIENCE", 0.3)
    vm = (await root.vm(memory_mb=512))["vm_id"]
    needs = served.hypervisor.knob.needs
    needs[InstanceId(ours(vm))] = 512 * MIB
    detail = await root.refused(409, f"PATCH /v1/vms/{vm}", {"memory_mb": 256, "metadata": {"a": 1}})
    assert "does not give any back" in detail
    told = await root.ok(f"GET /v1/vms/{vm}")
    assert (told["memory_mb"], told["metadata"]) == (512, {})
    needs[InstanceId(ours(vm))] = 300 * MIB  # it gives what it can do without
    assert (await root.ok(f"PATCH /v1/vms/{vm}", {"memory_mb": 256}))["memory_mb"] == 256
    assert await has(served, vm) == 300
    needs.clear()


async def test_another_may_not(root: Caller, tenant: Caller, served: Served) -> None:
    vm = (await root.vm())["vm_id"]
    await tenant.refused(404, f"PATCH /v1/vms/{vm}", {"memory_mb": 256})
    assert await has(served, vm) == 512
