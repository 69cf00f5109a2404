"""Volumes and images over HTTP."""

from __future__ import annotations

import json

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.model.instance import MAX_ON_BUS, Bus

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_volume_lives_longer_than_its_instance(served: Served, http: httpx.AsyncClient) -> None:
    volume = (await http.post("/api/v1/volumes", json={"name": fresh("v"), "size": "1G"})).json()
    assert (volume["size"], volume["state"], volume["attached"]) == (2**30, "ready", [])
    vm = await served.make(volumes=[{"volume": volume["name"], "path": "/data"}])
    assert vm["volumes"] == [
        {
            "volume": volume["id"],
            "name": volume["name"],
            "path": "/data",
            "read_only": False,
            "overlay": 0,
            "state": "attached",
            "bus": "virtio",
        }
    ]
    path = f"/api/v1/volumes/{volume['id']}"
    busy = await http.delete(path)
    assert (busy.status_code, busy.json()["kind"]) == (409, "Busy")
    grown = (await http.patch(path, json={"size": "2G"})).json()
    assert (grown["size"], grown["attached"]) == (2**31, [vm["id"]])
    smaller = await http.patch(path, json={"size": "1G"})
    assert (smaller.status_code, smaller.json()["field"]) == (422, "size")
    await http.delete(f"/api/v1/instances/{vm['id']}", params={"force": True, "wait": "launched"})
    assert (await http.get(path)).json()["attached"] == []
    assert (await http.delete(path)).status_code == 204
    assert (await http.get(path)).status_code == 404


async def test_attach_and_detach_while_it_runs(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    name = fresh("v")
    await http.post("/api/v1/volumes", json={"name": name, "size": "1G"})
    path = f"/api/v1/instances/{vm['id']}/volumes"
    attached = await http.put(path, json={"volume": name, "path": "/mnt", "read_only": True})
    assert [(v["path"], v["read_only"], v["state"]) for v in attached.json()["volumes"]] == [("/mnt", True, "attached")]
    wrong = await http.put(path, json={"volume": name, "path": "../x"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "path")
    assert (await http.delete(f"{path}/{name}")).json()["volumes"] == []
    gone = await http.delete(f"{path}/{name}")
    assert (gone.status_code, gone.json()["kind"]) == (404, "NotFound")


async def test_a_machine_has_as_many_volumes_as_its_bus_has_places(served: Served, http: httpx.AsyncClient) -> None:
    most = MAX_ON_BUS[Bus.VIRTIO]
    names = [fresh("v") for _ in range(most + 1)]
    for name in names:
        assert (await http.post("/api/v1/volumes", json={"name": name, "size": "16M"})).status_code == 201
    body = {"image": "busybox", "name": fresh("vm"), "volumes": [{"volume": name} for name in names]}
    many = await http.post("/api/v1/instances", json=body)
    assert (many.status_code, many.json()["field"]) == (422, "volumes")
    vm = await served.make(volumes=body["volumes"][:most])
    one_more = await http.put(f"/api/v1/instances/{vm['id']}/volumes", json={"volume": names[-1]})
    assert (one_more.status_code, one_more.json()["field"]) == (422, "volume")
    assert (await http.get(f"/api/v1/volumes/{names[-1]}")).json()["attached"] == []


async def test_a_repeat_with_the_same_key_makes_no_second_volume(http: httpx.AsyncClient) -> None:
    headers, body = {"Idempotency-Key": fresh("once")}, {"name": fresh("v"), "size": "1G"}
    first = await http.post("/api/v1/volumes", json=body, headers=headers)
    again = await http.post("/api/v1/volumes", json=body, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    without = await http.post("/api/v1/volumes", json=body)
    assert (without.status_code, without.json()["kind"]) == (409, "Exists")
    other = await http.post("/api/v1/volumes", json=body | {"size": "2G"}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")
    instance = await http.post("/api/v1/instances", json={"image": "busybox"}, headers=headers)
    assert (instance.status_code, instance.json()["field"]) == (422, "Idempotency-Key")


async def test_volumes_come_in_pages(served: Served) -> None:
    stranger = await served.stranger()
    async with httpx.AsyncClient(base_url=served.url, headers={"X-API-Key": stranger}, trust_env=False) as http:
        names = [fresh("v") for _ in range(5)]
        for name in names:
            assert (await http.post("/api/v1/volumes", json={"name": name, "size": "1G"})).status_code == 201
    async with served.client(stranger) as client:
        assert [volume.name async for volume in client.volumes.list(limit=2)] == names


async def test_a_pull_tells_its_progress_and_then_the_image(http: httpx.AsyncClient) -> None:
    name = fresh("registry.example/app")
    answer = await http.post("/api/v1/images/pull", json={"name": name})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["image"]["names"] == [f"{name}:latest"]
    assert all("image" not in line and "error" not in line for line in lines[:-1])
    unknown = await http.post("/api/v1/images/pull", json={"name": "nonesuch"})
    assert (unknown.status_code, unknown.json()["field"]) == (404, "image")


async def test_an_image_that_is_used_is_not_deleted(served: Served, http: httpx.AsyncClient) -> None:
    name = fresh("x.example/y")
    image = (await http.put("/api/v1/images", params={"name": name}, content=b"x")).json()
    vm = await served.make(image=name, power="off")
    busy = await http.delete(f"/api/v1/images/{name}")
    assert (busy.status_code, busy.json()["kind"]) == (409, "Busy")
    await http.delete(f"/api/v1/instances/{vm['id']}", params={"wait": "launched"})
    assert (await http.delete(f"/api/v1/images/{image['digest']}")).status_code == 204
    assert (await http.get(f"/api/v1/images/{name}")).status_code == 404


async def test_an_import_cannot_take_a_built_in_name(http: httpx.AsyncClient) -> None:
    taken = await http.put("/api/v1/images", params={"name": "busybox"}, content=b"x")
    assert (taken.status_code, taken.json()["kind"], taken.json()["field"]) == (409, "Exists", "name")


async def test_hosts_and_who_am_i(served: Served, http: httpx.AsyncClient) -> None:
    host = (await http.get("/api/v1/hosts")).json()["items"][0]
    assert (host["hypervisor"], host["ok"], host["network"]) == ("fake", True, "user")
    about = (await http.get("/api/v1/about")).json()
    assert (about["name"], about["operator"], about["project"]) == ("polyvisor", True, served.parts.facts["project"])
