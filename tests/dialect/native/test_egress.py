"""What instances may reach, over HTTP: told at the start and while they run, kept, handed down, refused."""

from __future__ import annotations

import httpx
import pytest

from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")

ONE = {
    "allow_http": False, "allow_https": False, "allow_package_managers": False, "domains": ["a.example"], "cidrs": [],
}  # fmt: skip


async def test_a_policy_is_kept_changed_and_taken_away(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(egress={**ONE, "domains": ["*.A.example.", "a.example"]})
    path = f"/api/v1/instances/{vm['id']}"
    assert vm["egress"] == ONE
    await http.post(f"{path}/start", params={"wait": "launched"})
    for policy in ({**ONE, "cidrs": ["10.0.0.0/8"]}, {**ONE, "domains": []}, ONE):
        answer = await http.patch(path, json={"egress": policy})
        assert (answer.status_code, answer.json()["egress"]) == (200, policy), answer.text
    for verb in ("standby", "restore", "stop", "start"):
        answer = await http.post(f"{path}/{verb}", params={"wait": "launched"})
        assert (answer.status_code, answer.json()["egress"]) == (200, ONE), answer.text
    fork = await http.post(f"{path}/fork", json={}, params={"wait": "launched"})
    assert fork.json()["egress"] == ONE
    kept = (await http.post(f"{path}/snapshots", json={})).json()
    made = await http.post("/api/v1/instances", json={"snapshot": kept["id"], "name": fresh("vm")})
    assert made.json()["egress"] == ONE
    other = {"snapshot": kept["id"], "name": fresh("vm"), "egress": {}}
    assert (await http.post("/api/v1/instances", json=other)).json()["egress"]["domains"] == []
    assert (await http.patch(path, json={"egress": "none"})).json()["egress"] is None
    told = [entry for entry in (await http.get("/api/v1/audit")).json()["items"] if entry["subject"] == vm["id"]]
    assert [entry["action"] for entry in told].count("instance.egress") == 4


async def test_one_that_runs_without_is_told_only_while_it_is_stopped(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(power="on")
    path = f"/api/v1/instances/{vm['id']}"
    refused = await http.patch(path, json={"egress": ONE}, params={"wait": "launched"})
    assert refused.status_code == 409 and refused.json()["field"] == "egress", refused.text
    assert (await http.get(path)).json()["egress"] is None
    await http.post(f"{path}/stop", params={"wait": "launched"})
    assert (await http.patch(path, json={"egress": ONE})).json()["egress"] == ONE
    await http.post(f"{path}/start", params={"wait": "launched"})
    assert (await http.patch(path, json={"egress": {}})).status_code == 200


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        ({"domains": ["a b"]}, "egress.domains"),
        ({"domains": ["1.2.3.4"]}, "egress.domains"),
        ({"cidrs": ["10.0.0.0/33"]}, "egress.cidrs"),
        ({"cidrs": ["a.example"]}, "egress.cidrs"),
        ({"domains": ["a.example"] * 257}, "egress"),
        ({"allow": True}, "egress"),
    ],
)
async def test_what_is_no_policy_changes_nothing(
    served: Served, http: httpx.AsyncClient, policy: dict[str, object], field: str
) -> None:
    name = fresh("vm")
    answer = await http.post("/api/v1/instances", json={"image": "busybox", "name": name, "egress": policy})
    assert answer.status_code == 422 and answer.json()["field"].startswith(field), answer.text
    assert (await http.get(f"/api/v1/instances/{name}")).status_code == 404
    vm = await served.make(egress=ONE)
    answer = await http.patch(f"/api/v1/instances/{vm['id']}", json={"egress": policy})
    assert answer.status_code == 422 and answer.json()["field"].startswith(field), answer.text
    assert (await http.get(f"/api/v1/instances/{vm['id']}")).json()["egress"] == ONE


async def test_it_is_changed_alone(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(egress=ONE)
    answer = await http.patch(f"/api/v1/instances/{vm['id']}", json={"egress": {}, "labels": {"a": "b"}})
    assert (answer.status_code, answer.json()["field"]) == (422, "egress")
    assert (await http.get(f"/api/v1/instances/{vm['id']}")).json()["labels"] == {}


async def test_a_spare_becomes_somebodys_with_his_policy(served: Served, http: httpx.AsyncClient) -> None:
    made = await http.post("/api/v1/templates", json={"image": "busybox"}, params={"wait": "launched"})
    assert made.status_code in (200, 201, 202), made.text
    vm = await served.make(egress=ONE, power="on")
    assert vm["egress"] == ONE
    assert (await http.patch(f"/api/v1/instances/{vm['id']}", json={"egress": {}})).status_code == 200
    await http.delete(f"/api/v1/templates/{made.json()['id']}")
