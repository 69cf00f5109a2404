"""Instances over HTTP: the whole life, repeats, pages, waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_life_from_create_to_delete(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(labels={"a": "b"}, hostname="box", env={"TOKEN": "hunter2"})
    assert (vm["state"], vm["ready"], vm["hostname"], vm["labels"]) == ("running", True, "box", {"a": "b"})
    path = f"/api/v1/instances/{vm['name']}"
    for verb, state in [
        ("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("reset", "running"), ("restart", "running"),
        ("stop", "stopped"), ("stop", "stopped"), ("start", "running"), ("start", "running"),
    ]:  # fmt: skip
        answer = await http.post(f"{path}/{verb}", params={"wait": "launched"})
        assert (answer.status_code, answer.json()["state"]) == (200, state), (verb, answer.text)
    refused = await http.delete(path)
    assert (refused.status_code, refused.json()["kind"]) == (409, "WrongState")
    deleted = await http.delete(path, params={"force": True, "wait": "launched"})
    assert deleted.status_code == 202
    assert (await http.get(path)).status_code == 404
    assert "hunter2" not in str(vm) + refused.text + deleted.text


async def test_a_verb_that_the_state_does_not_allow_is_refused(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(power="off")
    assert vm["state"] == "stopped"
    for verb in ("pause", "resume", "reset", "restart"):
        refused = await http.post(f"/api/v1/instances/{vm['id']}/{verb}")
        assert (refused.status_code, refused.json()["kind"]) == (409, "WrongState"), verb


async def test_a_name_is_taken_once(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    again = await http.post("/api/v1/instances", json={"image": "busybox", "name": vm["name"]})
    assert (again.status_code, again.json()["kind"], again.json()["field"]) == (409, "Exists", "name")


async def test_a_repeat_with_the_same_key_makes_no_second(http: httpx.AsyncClient) -> None:
    body = {"image": "busybox", "env": {"A": "1"}}
    headers = {"Idempotency-Key": fresh("once")}
    answers = await asyncio.gather(*(http.post("/api/v1/instances", json=body, headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = await http.post("/api/v1/instances", json=body | {"env": {"A": "2"}}, headers=headers)
    assert (other.status_code, other.json()["field"]) == (422, "Idempotency-Key")


async def test_pages_neither_lose_nor_repeat_what_was_there_while_others_are_made(served: Served) -> None:
    stranger = await served.stranger()
    async with served.client(stranger) as client, httpx.AsyncClient(
        base_url=served.url, headers={"X-API-Key": stranger}, trust_env=False
    ) as http:  # fmt: skip

        async def make() -> str:
            answer = await http.post("/api/v1/instances", json={"image": "busybox", "power": "off"})
            return str(answer.json()["id"])

        before = [await make() for _ in range(7)]
        seen: list[str] = []
        page = await client.instances.page(limit=2)
        while True:
            seen += [item.id for item in page.items]
            if page.next is None:
                break
            await make()
            page = await client.instances.page(page.next, limit=2)
            if len(seen) > 30:  # makers are as fast as readers: enough is seen
                break
    assert len(seen) == len(set(seen))
    assert seen[:7] == before


async def test_labels_choose(served: Served, http: httpx.AsyncClient) -> None:
    word = fresh("word")
    first = await served.make(labels={"team": word, "x": "a=b"}, power="off")
    await served.make(labels={"team": word}, power="off")

    async def chosen(*labels: str) -> list[str]:
        items = (await http.get("/api/v1/instances", params={"label": labels})).json()["items"]
        return [item["id"] for item in items]

    assert len(await chosen(f"team={word}")) == 2
    assert await chosen(f"team={word}", "x=a=b") == [first["id"]]
    assert await chosen(f"team={word}", "x=a") == []


async def test_what_may_change_changes(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(lifetime="1h")
    assert vm["expires"] is not None
    name = fresh("renamed")
    changed = (
        await http.patch(f"/api/v1/instances/{vm['id']}", json={"name": name, "labels": {"k": "v"}, "lifetime": 0})
    ).json()
    assert (changed["name"], changed["labels"], changed["expires"]) == (name, {"k": "v"}, None)
    same = (await http.patch(f"/api/v1/instances/{vm['id']}", json={})).json()
    assert same == changed
    for body in ({"vcpus": 2}, {"name": "-"}, {"lifetime": "x"}, {"labels": {"": "v"}}):
        assert (await http.patch(f"/api/v1/instances/{vm['id']}", json=body)).status_code == 422


async def test_waiting_ends_when_it_is_there_and_when_time_is_over(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    path = f"/api/v1/instances/{vm['id']}/wait"
    assert (await http.get(path, params={"state": ["paused", "ready"]})).status_code == 200
    late = await http.get(path, params={"state": "stopped", "timeout": 0.05})
    assert (late.status_code, late.json()["kind"]) == (408, "TimedOut")
    waiting = asyncio.create_task(http.get(path))
    await http.post(f"/api/v1/instances/{vm['id']}/stop")
    assert (await waiting).json()["state"] == "stopped"
    assert (await http.get(path, params={"state": "asleep"})).json()["field"] == "state"


async def test_who_waits_for_what_is_deleted_is_told(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    waiting = asyncio.create_task(http.get(f"/api/v1/instances/{vm['id']}/wait", params={"state": "paused"}))
    await http.delete(f"/api/v1/instances/{vm['id']}", params={"force": True, "wait": "launched"})
    assert (await waiting).status_code == 404


async def test_a_create_may_be_waited_for_too_briefly(served: Served, http: httpx.AsyncClient) -> None:
    knob = served.parts.host._hypervisor.knob  # type: ignore[attr-defined]
    knob.delay["launch"] = 0.3
    try:
        body = {"image": "busybox", "name": fresh("slow")}
        late = await http.post("/api/v1/instances", json=body, params={"wait": "launched", "timeout": 0.05})
    finally:
        del knob.delay["launch"]
    assert (late.status_code, late.json()["kind"]) == (408, "TimedOut")
    there = await http.get(f"/api/v1/instances/{body['name']}/wait", params={"state": "ready"})
    assert there.json()["ready"]


async def test_operations_tell_what_was_asked(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make()
    await http.post(f"/api/v1/instances/{vm['id']}/stop", params={"wait": "launched"})
    found = (await http.get(f"/api/v1/instances/{vm['id']}/operations")).json()["items"]
    assert [(op["verb"], op["state"]) for op in found] == [("stop", "done"), ("create", "done")]
    one = await http.get(f"/api/v1/operations/{found[0]['id']}")
    assert one.json() == found[0]
    assert (await http.get("/api/v1/operations/nope")).status_code == 404


@pytest.mark.parametrize(
    ("quota", "body"),
    [
        ("instances", {}),
        ("vcpus", {"vcpus": 2}),
        ("memory", {"memory": "1G"}),
        ("disk", {"disk": "1G"}),
    ],
)
async def test_a_quota_is_kept(served: Served, quota: str, body: dict[str, Any]) -> None:
    stranger = await served.stranger(**{quota: 1})
    async with httpx.AsyncClient(base_url=served.url, headers={"X-API-Key": stranger}, trust_env=False) as http:
        answers = [
            (await http.post("/api/v1/instances", json={"image": "busybox", "power": "off", **body})) for _ in range(2)
        ]
        assert (answers[-1].status_code, answers[-1].json()["kind"]) == (403, "OverQuota")
        assert answers[-1].json()["field"] == quota


async def test_an_image_that_nobody_knows_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/instances", json={"image": "nonesuch"})
    assert (answer.status_code, answer.json()["kind"], answer.json()["field"]) == (404, "NotFound", "image")


async def test_another_command_is_given_at_a_start_and_stays(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(entrypoint=["sh", "-c"], command=["sleep 3600"])
    path = f"/api/v1/instances/{vm['id']}"
    running = await http.post(f"{path}/start", json={"command": ["true"]})
    assert (running.status_code, running.json()["kind"]) == (409, "WrongState")
    await http.post(f"{path}/stop?wait=launched", json={"force": True})
    started = await http.post(f"{path}/start?wait=ready", json={"command": ["sleep 1800"]})
    assert (started.status_code, started.json()["command"]) == (200, ["sh", "-c", "sleep 1800"])
    await http.post(f"{path}/stop?wait=launched", json={"force": True})
    other = await http.post(f"{path}/start?wait=ready", json={"entrypoint": ["env"], "command": ["sleep", "9999"]})
    assert other.json()["command"] == ["env", "sleep", "9999"]
    nul = await http.post(f"{path}/start", json={"command": ["a\0b"]})
    assert nul.status_code == 422


async def test_what_an_instance_takes_is_told(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(restart={"mode": "always", "backoff": 600, "steady": True, "stable": 30})
    assert vm["restart"] == {"mode": "always", "attempts": 0, "backoff": 600.0, "steady": True, "stable": 30.0}
    stats = (await http.get(f"/api/v1/instances/{vm['id']}/stats")).json()
    assert set(stats) == {"cpu", "resident", "virtual", "received", "sent"}
