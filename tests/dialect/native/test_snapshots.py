"""Snapshots and schedules over HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.client import Refused
from polyvisor.wire.native import CreateInstance, CreateSnapshot, SetSchedule

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def take(http: httpx.AsyncClient, vm: str, **body: Any) -> dict[str, Any]:
    """A new snapshot, ready."""
    answer = await http.post(f"/api/v1/instances/{vm}/snapshots", json={"name": fresh("s"), **body})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_snapshot_lives_longer_than_its_instance(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(env={"TOKEN": "hunter2"}, vcpus=2)
    snapshot = await take(http, vm["id"])
    assert (snapshot["kind"], snapshot["state"], snapshot["scheduled"]) == ("disk", "ready", False)
    assert (snapshot["instance"], snapshot["instance_name"], snapshot["vcpus"]) == (vm["id"], vm["name"], 2)
    assert snapshot["size"] > 0
    assert "hunter2" not in str(snapshot)
    listed = (await http.get(f"/api/v1/instances/{vm['name']}/snapshots")).json()
    assert listed == {"items": [snapshot], "next": None}
    await http.delete(f"/api/v1/instances/{vm['id']}", params={"force": True, "wait": "launched"})
    path = f"/api/v1/snapshots/{snapshot['name']}"
    assert (await http.get(path)).json() == snapshot
    fork = (
        await http.post(
            "/api/v1/instances", json={"snapshot": snapshot["id"], "name": fresh("f")}, params={"wait": "ready"}
        )
    ).json()
    assert (fork["state"], fork["origin"], fork["image"], fork["vcpus"]) == ("running", snapshot["id"], "busybox", 2)
    assert (await http.delete(path)).status_code == 204
    for gone in (await http.get(path), await http.delete(path)):
        assert (gone.status_code, gone.json()["field"]) == (404, "snapshot")


async def test_an_instance_goes_back(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    snapshot = await take(http, vm["id"])
    path = f"/api/v1/instances/{vm['id']}/revert"
    runs = await http.post(path, json={"snapshot": snapshot["name"]})
    assert (runs.status_code, runs.json()["kind"]) == (409, "WrongState")
    await http.post(f"/api/v1/instances/{vm['id']}/stop", params={"wait": "launched"})
    done = await http.post(path, json={"snapshot": snapshot["name"]})
    assert (done.status_code, done.json()["state"]) == (200, "stopped")
    missing = await http.post(path, json={"snapshot": "nope"})
    assert (missing.status_code, missing.json()["field"]) == (404, "snapshot")
    found = (await http.get(f"/api/v1/instances/{vm['id']}/operations")).json()["items"][0]
    assert (found["verb"], found["subject"], found["state"]) == ("revert", snapshot["id"], "done")


async def test_a_repeat_with_the_same_key_makes_no_second_snapshot(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    path, headers, body = (
        f"/api/v1/instances/{vm['id']}/snapshots",
        {"Idempotency-Key": fresh("once")},
        {"name": fresh("s")},
    )
    first, again = [await http.post(path, json=body, headers=headers) for _ in range(2)]
    assert (first.status_code, again.json()) == (201, first.json())
    other = await http.post(path, json=body | {"kind": "full"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    taken = await http.post(path, json=body)
    assert (taken.status_code, taken.json()["kind"], taken.json()["field"]) == (409, "Exists", "name")
    nameless = (await http.post(path)).json()
    assert nameless["name"] == nameless["id"]


async def test_what_fails_leaves_none_and_says_why(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(power="off")
    refused = await http.post(f"/api/v1/instances/{vm['id']}/snapshots", json={"kind": "full"})
    assert (refused.status_code, refused.json()["kind"], refused.json()["field"]) == (409, "WrongState", "kind")
    assert (await http.get(f"/api/v1/instances/{vm['id']}/snapshots")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"image": "busybox"}, "snapshot"),
        ({"disk": "20G"}, "disk"),
        ({"command": ["ls"]}, "command"),
        ({"shape": "micro"}, "shape"),
        ({"network": True}, "network"),
        ({"user": "bob"}, "user"),
        ({"vcpus": 0}, "vcpus"),
        ({"env": {"1A": "x"}}, "env"),
        ({"restart": {"mode": "sometimes"}}, "restart.mode"),
    ],
)
async def test_what_does_not_fit_a_snapshot_is_refused_by_name(
    body: dict[str, Any], field: str, served: Served, http: httpx.AsyncClient
) -> None:
    snapshot = await take(http, (await served.make(power="off"))["id"])
    refused = await http.post("/api/v1/instances", json={"snapshot": snapshot["id"], **body})
    assert (refused.status_code, refused.json()["field"]) == (422, field)


async def test_a_fork_takes_what_may_differ(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(labels={"a": "b"}, hostname="box", restart={"mode": "always"}, autostart=True)
    snapshot = await take(http, vm["id"])
    own = {"name": fresh("f"), "snapshot": snapshot["id"], "power": "off"}
    same = (await http.post("/api/v1/instances", json=own, params={"wait": "launched"})).json()
    for field in ("labels", "hostname", "restart", "autostart", "memory", "disk"):
        assert same[field] == vm[field]
    more = {"labels": {}, "hostname": "other", "restart": {"mode": "never"}, "memory": "512M", "lifetime": "1h"}
    body = {**own, "name": fresh("f"), "autostart": False, **more}
    other = (await http.post("/api/v1/instances", json=body, params={"wait": "launched"})).json()
    assert (other["labels"], other["hostname"], other["restart"]["mode"]) == ({}, "other", "never")
    assert (other["memory"], other["autostart"], other["expires"] is not None) == (2**29, False, True)


async def test_an_image_that_a_snapshot_needs_is_not_deleted(served: Served, http: httpx.AsyncClient) -> None:
    name = fresh("x.example/y")
    await http.put("/api/v1/images", params={"name": name}, content=b"x")
    vm = await served.make(image=name, power="off")
    snapshot = await take(http, vm["id"])
    await http.delete(f"/api/v1/instances/{vm['id']}", params={"wait": "launched"})
    busy = await http.delete(f"/api/v1/images/{name}")
    assert (busy.status_code, busy.json()["kind"]) == (409, "Busy")
    await http.delete(f"/api/v1/snapshots/{snapshot['id']}")
    assert (await http.delete(f"/api/v1/images/{name}")).status_code == 204


async def test_a_schedule_is_set_read_and_removed(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(power="off")
    path = f"/api/v1/instances/{vm['name']}/schedule"
    missing = await http.get(path)
    assert (missing.status_code, missing.json()["kind"]) == (404, "NotFound")
    found = (await http.put(path, json={"interval": "1h", "max_count": 3, "max_age": "7d"})).json()
    assert (found["instance"], found["interval"], found["kind"]) == (vm["id"], 3600.0, "disk")
    assert (found["max_count"], found["max_age"], found["last_run"], found["last_error"]) == (3, 604800.0, None, None)
    assert (await http.get(path)).json() == found
    for body, field in [
        ({}, "interval"), ({"interval": 59}, "interval"), ({"interval": "soon"}, "interval"),
        ({"interval": "1h", "max_count": 0}, "max_count"), ({"interval": "1h", "max_age": "1s"}, "max_age"),
        ({"interval": "1h", "kind": "half"}, "kind"), ({"interval": "1h", "often": True}, "often"),
    ]:  # fmt: skip
        refused = await http.put(path, json=body)
        assert (refused.status_code, refused.json()["field"]) == (422, field), body
    assert (await http.delete(path)).status_code == 204
    assert (await http.delete(path)).status_code == 404


async def test_the_keeper_heeds_schedules(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    await http.put(f"/api/v1/instances/{vm['id']}/schedule", json={"interval": 60})
    async with served.parts.store.write() as unit:
        (schedule,) = [s for s in await unit.schedules.all() if s.instance == vm["id"]]
        await unit.schedules.put(replace(schedule, next_run=datetime.now(UTC)))
    async with served.client() as client:
        async for event in client.events.follow(0):
            if event.kind == "snapshot.created" and event.data["instance"] == vm["id"]:
                break
        (made,) = [s async for s in client.snapshots.list(vm["id"])]
    assert made.scheduled
    assert made.name.startswith(vm["name"] + "-")


async def test_the_whole_of_it_by_the_client(served: Served) -> None:
    stranger = await served.stranger()
    async with served.client(stranger) as client:
        vm = await client.instances.create(CreateInstance(image="busybox", name=fresh("vm")), wait="ready")
        names = [fresh("s") for _ in range(5)]
        for name in names:
            made = await client.instances.snapshot(vm.id, CreateSnapshot(name=name), idempotency_key=fresh("k"))
            assert made.state == "ready"
        assert [s.name async for s in client.snapshots.list(limit=2)] == names
        assert [s.name async for s in client.snapshots.list(vm.name, limit=2)] == names
        await client.instances.stop(vm.id, force=True)
        assert (await client.instances.revert(vm.id, names[0])).state == "stopped"
        fork = await client.instances.create(CreateInstance(snapshot=names[0], name=fresh("f")), wait="ready")
        assert fork.origin == (await client.snapshots.get(names[0])).id
        schedule = await client.schedules.set(fork.id, SetSchedule(interval="1h"))
        assert await client.schedules.get(fork.id) == schedule
        await client.schedules.delete(fork.id)
        await client.snapshots.delete(names[0])
        with pytest.raises(Refused, match="no snapshot"):
            await client.snapshots.get(names[0])


async def test_what_is_another_projects_is_not_there(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(power="off")
    snapshot = await take(http, vm["id"])
    async with served.client(await served.stranger()) as client:
        for call in (
            client.snapshots.get(snapshot["id"]),
            client.snapshots.delete(snapshot["id"]),
            client.instances.snapshot(vm["id"]),
            client.instances.create(CreateInstance(snapshot=snapshot["id"])),
            client.schedules.get(vm["id"]),
        ):
            with pytest.raises(Refused) as refused:
                await call
            assert refused.value.kind == "NotFound"
        assert [s async for s in client.snapshots.list()] == []


async def test_what_snapshots_hold_is_measured(http: httpx.AsyncClient) -> None:
    assert "polyvisor_snapshot_bytes " in (await http.get("/metrics")).text
