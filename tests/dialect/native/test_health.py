"""Health checks over HTTP: asked for, shown, changed, taken away."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from dialect.served import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_check_is_shown_changed_and_taken_away(served: Served, http: httpx.AsyncClient) -> None:
    vm = await served.make(health={"probe": "exec", "command": ["true"], "interval": "100ms"}, env={"A": '"health":{'})
    path = f"/api/v1/instances/{vm['id']}"
    assert (vm["health"]["probe"], vm["health"]["interval"], vm["health"]["failures"]) == ("exec", 0.1, 3)
    async with asyncio.timeout(60):
        while (found := (await http.get(f"{path}/health")).json())["health"] != "healthy":
            await asyncio.sleep(0.05)
    assert found["successes"] >= 1 and found["error"] is None
    port = {"probe": "tcp", "port": 5}
    changed = await http.patch(path, json={"health": port})
    assert (changed.json()["health"]["probe"], changed.json()["health"]["port"]) == ("tcp", 5)
    async with asyncio.timeout(60):  # it was launched without a way to that port
        while (found := (await http.get(f"{path}/health")).json())["health"] != "unknown":
            await asyncio.sleep(0.05)
    assert "next start" in found["error"]
    changed = await http.patch(path, json={"health": {"probe": "none"}})
    assert changed.json()["health"] is None
    assert (await http.get(f"{path}/health")).json()["health"] == "disabled"


async def test_only_those_with_a_check_are_looked_at(served: Served) -> None:
    plain = await served.make(env={"A": '"health":{"probe":"tcp"}'})
    checked = await served.make(health={"probe": "exec", "command": ["true"]})
    async with served.parts.store.read() as unit:
        found = {instance.id for instance in await unit.instances.having("health")}
    assert checked["id"] in found and plain["id"] not in found


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ({"probe": "tcp"}, "health.port"),
        ({"probe": "http", "port": 80, "path": "x"}, "health.path"),
        ({"probe": "exec", "command": []}, "health.command"),
        ({"probe": "exec", "command": ["a"], "interval": 0}, "health.interval"),
    ],
    ids=str,
)
async def test_what_is_no_check_is_refused(http: httpx.AsyncClient, check: dict[str, object], field: str) -> None:
    answer = await http.post("/api/v1/instances", json={"image": "busybox", "health": check})
    assert (answer.status_code, answer.json()["kind"], answer.json()["field"]) == (422, "Invalid", field)
