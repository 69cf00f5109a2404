"""Standby, forks and templates over HTTP."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.model.host import HostReport

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_standby_and_restore(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    path = f"/api/v1/instances/{vm['id']}"
    asleep = await http.post(f"{path}/standby", params={"wait": "launched"})
    assert (asleep.status_code, asleep.json()["state"], asleep.json()["pid"]) == (200, "suspended", None)
    again = await http.post(f"{path}/standby", params={"wait": "launched"})
    assert (again.status_code, again.json()["state"]) == (200, "suspended")
    refused = await http.post(f"{path}/pause")
    assert (refused.status_code, refused.json()["kind"]) == (409, "WrongState")
    awake = await http.post(f"{path}/restore", params={"wait": "ready"})
    assert (awake.json()["state"], awake.json()["ready"]) == ("running", True)
    await http.post(f"{path}/standby", params={"wait": "launched"})
    stopped = await http.post(f"{path}/stop", params={"wait": "launched"})
    assert stopped.json()["state"] == "stopped"
    missing = await http.post("/api/v1/instances/nope/standby")
    assert (missing.status_code, missing.json()["kind"]) == (404, "NotFound")


async def test_standby_where_files_of_ram_have_no_room(
    served: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyvisor.host.memory.ram._SPARE", 1 << 60)
    vm = await served.make()
    path = f"/api/v1/instances/{vm['id']}"
    asleep = await http.post(f"{path}/standby", params={"wait": "launched"})
    assert (asleep.status_code, asleep.json()["state"]) == (200, "suspended"), asleep.text
    awake = await http.post(f"{path}/restore", params={"wait": "ready"})
    assert (awake.json()["state"], awake.json()["ready"]) == ("running", True)


async def test_compression_is_a_policy_and_said_each_time(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(compression="zstd", compression_delay="5m")
    assert (vm["compression"], vm["compression_delay"]) == ("zstd:1", 300.0)
    path = f"/api/v1/instances/{vm['id']}"
    changed = await http.patch(path, json={"compression": "default", "compression_delay": 0})
    assert (changed.json()["compression"], changed.json()["compression_delay"]) == (None, 0.0)
    changed = await http.patch(path, json={"compression": "lz4:9"})
    assert (changed.json()["compression"], changed.json()["compression_delay"]) == ("lz4:9", 0.0)
    full = await http.post(f"{path}/snapshots", json={"kind": "full", "compression": "zstd:3"})
    assert (full.status_code, full.json()["compression"]) == (201, "zstd:3"), full.text
    snapshot = full.json()
    async with asyncio.timeout(30):
        while snapshot["compression_state"] == "compressing":
            await asyncio.sleep(0.05)
            snapshot = (await http.get(f"/api/v1/snapshots/{snapshot['id']}")).json()
    assert (snapshot["compression_state"], snapshot["compression_error"]) == ("compressed", None)
    assert snapshot["compressed_size"] > 0
    disk = (await http.post(f"{path}/snapshots", json={})).json()
    assert (disk["compression"], disk["compression_state"], disk["compressed_size"]) == ("none", "none", None)
    asleep = await http.post(
        f"{path}/standby", json={"compression": "none", "compression_delay": "1m"}, params={"wait": "launched"}
    )
    assert (asleep.status_code, asleep.json()["state"]) == (200, "suspended"), asleep.text
    late = await http.post(f"{path}/standby", json={"compression": "zstd"})
    assert (late.status_code, late.json()["kind"], late.json()["field"]) == (409, "WrongState", "compression")
    assert (await http.post(f"{path}/standby", json={"compression": "none"})).status_code == 409
    assert (await http.post(f"{path}/standby")).status_code == 200
    fork = await http.post("/api/v1/instances", json={"snapshot": snapshot["id"]}, params={"wait": "launched"})
    assert (fork.status_code, fork.json()["compression"]) == (201, "lz4:9"), fork.text


async def test_what_compression_there_is_not_is_refused(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    path = f"/api/v1/instances/{vm['id']}"
    for verb, url, body, field in (
        ("POST", f"{path}/standby", {"compression": "gzip"}, "compression"),
        ("POST", f"{path}/standby", {"compression": "zstd:20"}, "compression"),
        ("POST", f"{path}/standby", {"compression": "default"}, "compression"),
        ("POST", f"{path}/standby", {"compression_delay": "8d"}, "compression_delay"),
        ("POST", f"{path}/snapshots", {"kind": "full", "compression": "lz4:10"}, "compression"),
        ("POST", f"{path}/snapshots", {"compression": "zstd"}, "compression"),
        ("PATCH", path, {"compression": "zstd:0"}, "compression"),
        ("PATCH", path, {"compression_delay": "-1s"}, "compression_delay"),
        ("POST", "/api/v1/instances", {"image": "busybox", "compression": "zstd:x"}, "compression"),
    ):
        wrong = await http.request(verb, url, json=body)
        assert (wrong.status_code, wrong.json()["field"]) == (422, field), wrong.text
    now = (await http.get(path)).json()
    assert (now["state"], now["compression"], now["compression_delay"]) == ("running", None, None)


async def test_a_fork_is_another_instance(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(labels={"of": "source"}, hostname="box")
    path, name, key = f"/api/v1/instances/{vm['id']}/fork", fresh("f"), {"Idempotency-Key": fresh("k")}
    made = await http.post(path, json={"name": name, "labels": {"of": "fork"}}, params={"wait": "ready"}, headers=key)
    assert made.status_code == 201, made.text
    fork = made.json()
    assert (fork["name"], fork["state"], fork["labels"], fork["hostname"]) == (name, "running", {"of": "fork"}, name)
    assert fork["address"] != vm["address"]
    again = await http.post(path, json={"name": name, "labels": {"of": "fork"}}, params={"wait": "ready"}, headers=key)
    assert again.json()["id"] == fork["id"]
    taken = await http.post(path, json={"name": name})
    assert (taken.status_code, taken.json()["field"]) == (409, "name")
    for body, field in (({"kind": "half"}, "kind"), ({"vcpus": 2}, "vcpus"), ({"lifetime": "x"}, "lifetime")):
        wrong = await http.post(path, json=body)
        assert (wrong.status_code, wrong.json()["field"]) == (422, field), wrong.text
    assert vm["id"] not in [s["instance"] for s in (await http.get("/api/v1/snapshots")).json()["items"]]
    await http.post(f"/api/v1/instances/{vm['id']}/stop", params={"wait": "launched", "force": True})
    cold = await http.post(path, json={"power": "off"})
    assert (cold.status_code, cold.json()["state"]) == (201, "stopped")


async def test_a_writable_volume_cannot_belong_to_two(served: Served, http: httpx.AsyncClient) -> None:
    vm, volume = await served.make(), fresh("v")
    assert (await http.post("/api/v1/volumes", json={"name": volume, "size": "64M"})).status_code == 201
    path = f"/api/v1/instances/{vm['id']}"
    attached = await http.put(f"{path}/volumes", json={"volume": volume}, params={"wait": "launched"})
    assert attached.status_code == 200, attached.text
    refused = await http.post(f"{path}/fork", json={})
    assert (refused.status_code, refused.json()["field"]) == (409, "volumes")
    assert refused.json()["message"].startswith(f"volumes: {volume} can be written")
    kept = await http.post(f"{path}/snapshots", json={"kind": "full"})
    assert (kept.status_code, kept.json()["field"]) == (409, "volumes")
    without = await http.post(f"{path}/fork", json={"without": [volume]}, params={"wait": "launched"})
    assert (without.status_code, without.json()["volumes"]) == (201, [])
    for body, status in (({"without": ["nope"]}, 404), ({"without": [volume], "kind": "full"}, 422)):
        wrong = await http.post(f"{path}/fork", json=body)
        assert (wrong.status_code, wrong.json()["field"]) == (status, "without"), wrong.text
    await http.delete(f"{path}/volumes/{volume}", params={"wait": "launched"})
    assert (await http.post(f"{path}/fork", json={})).status_code == 201
    read = {"volume": volume, "path": "/v", "read_only": True}
    assert (await http.put(f"{path}/volumes", json=read, params={"wait": "launched"})).status_code == 200
    for kind in ("full", "disk"):
        shared = (await http.post(f"{path}/fork", json={"kind": kind}, params={"wait": "launched"})).json()["volumes"]
        assert [(m["name"], m["path"], m["read_only"]) for m in shared] == [(volume, "/v", True)]
    kept = await http.post(f"{path}/snapshots", json={"kind": "full"})
    assert [(m["name"], m["path"]) for m in kept.json()["volumes"]] == [(volume, "/v")]
    disk = await http.post(f"{path}/snapshots", json={"kind": "disk"})
    assert disk.json()["volumes"] == []


async def test_templates(served: Served, http: httpx.AsyncClient) -> None:
    size = {"memory": "96M", "disk": "64M"}
    made = await http.post("/api/v1/templates", json={"image": "busybox", **size})
    assert made.status_code == 201, made.text
    template = made.json()
    assert (template["of"], template["state"], template["memory"]) == ("project", "ready", 96 * 2**20)
    assert template["id"] in [t["id"] for t in (await http.get("/api/v1/templates")).json()["items"]]
    assert template["id"] not in [s["id"] for s in (await http.get("/api/v1/snapshots")).json()["items"]]
    again = await http.post("/api/v1/templates", json={"image": "busybox", **size})
    assert (again.status_code, again.json()["kind"]) == (409, "Exists")
    env = {"A": "1"}
    copy = await served.make(env=env, **size)
    cold = await served.make(template=False, **size)
    other = await served.make(memory="128M", disk="64M")
    assert [copy["origin"], cold["origin"], other["origin"]] == [template["id"], None, None]
    hidden = await http.post("/api/v1/instances", json={"snapshot": template["id"]})
    assert (hidden.status_code, hidden.json()["field"]) == (404, "snapshot")
    assert (await http.delete(f"/api/v1/templates/{template['name']}")).status_code == 204
    gone = await http.delete(f"/api/v1/templates/{template['id']}")
    assert (gone.status_code, gone.json()["field"]) == (404, "template")
    wrong = await http.post("/api/v1/templates", json={"image": "busybox", "memory": "lots"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "memory")


async def test_a_template_that_goes_in_between_is_done_without(served: Served, http: httpx.AsyncClient) -> None:
    size = {"memory": "99M", "disk": "64M"}
    template = (await http.post("/api/v1/templates", json={"image": "busybox", **size})).json()
    instances = served.parts.engine.instances
    real = instances._host.report

    async def slow() -> HostReport:
        assert (await http.delete(f"/api/v1/templates/{template['id']}")).status_code == 204
        instances._host.report = real  # type: ignore[method-assign]  # only once
        return await real()

    instances._host.report = slow  # type: ignore[method-assign]  # between the finding and the taking
    made = await served.make(**size)
    assert (made["state"], made["origin"]) == ("running", None)
