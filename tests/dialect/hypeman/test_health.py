"""Health checks: what is found out of a workload, and what the restart policy makes of it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman

from dialect.hypeman.making import make
from dialect.served import Served

pytestmark = pytest.mark.asyncio(loop_scope="session")
QUICK: dict[str, Any] = {"type": "exec", "interval": "100ms", "timeout": "5s", "start_period": "0s"}


def running(*command: str, **more: Any) -> Any:
    """A check by that command."""
    return QUICK | {"exec": {"command": list(command)}} | more


async def until(sdk: AsyncHypeman, id: str, status: str) -> Any:
    """The instance once its workload is said to be so."""
    async with asyncio.timeout(60):
        while True:
            found = await sdk.instances.get(id)
            assert found.health_status is not None
            if found.health_status.status == status:
                return found
            await asyncio.sleep(0.05)


@pytest.fixture(autouse=True)
def _often(served: Served) -> Any:
    keeper = served.parts.engine.keeper
    was, keeper.pause = keeper.pause, 0.05
    yield
    keeper.pause = was


async def test_a_check_is_echoed_with_its_defaults_and_says_how_it_is(
    sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    made = await make(sdk, health_check={"type": "exec", "exec": {"command": ["true"]}})
    said = (await http.get(f"/instances/{made.id}")).json()
    assert said["health_check"] == {
        "type": "exec", "interval": "10s", "timeout": "2s", "start_period": "30s", "failure_threshold": 3,
        "success_threshold": 1, "exec": {"command": ["true"]},
    }  # fmt: skip
    found = await until(sdk, made.id, "healthy")
    status = found.health_status
    assert status.consecutive_successes >= 1 and status.consecutive_failures == 0
    assert status.last_success_at is not None and status.last_checked_at is not None and status.last_error is None
    listed = next(one for one in await sdk.instances.list() if one.id == made.id)
    assert listed.health_status is not None and listed.health_status.status == "healthy"
    await sdk.instances.stop(made.id)
    assert (await until(sdk, made.id, "unknown")).state == "Stopped"


async def test_without_a_policy_an_unhealthy_one_runs_on_and_gets_well_again(sdk: AsyncHypeman) -> None:
    made = await make(sdk, health_check=running("false", failure_threshold=2))
    found = await until(sdk, made.id, "unhealthy")
    assert found.state == "Running" and found.health_status.consecutive_failures >= 2
    assert found.health_status.last_error == "exit code 1" and found.health_status.last_failure_at is not None
    await sdk.instances.update(made.id, health_check=running("true", success_threshold=2))
    assert (await until(sdk, made.id, "healthy")).health_status.consecutive_successes >= 2
    changed = await sdk.instances.update(made.id, health_check={"type": "none"})
    assert changed.health_status is not None and changed.health_status.status == "disabled"
    assert changed.health_check is not None and changed.health_check.type == "none"


async def test_while_it_starts_nothing_makes_it_unhealthy(sdk: AsyncHypeman) -> None:
    made = await make(sdk, health_check=running("false", start_period="1h", failure_threshold=1))
    async with asyncio.timeout(60):
        while (await sdk.instances.get(made.id)).health_status.consecutive_failures < 3:  # type: ignore[union-attr]
            await asyncio.sleep(0.05)
    assert (await sdk.instances.get(made.id)).health_status.status == "starting"  # type: ignore[union-attr]


@pytest.mark.parametrize("policy", ["always", "on_failure"])
async def test_the_policy_restarts_one_that_is_unhealthy(sdk: AsyncHypeman, policy: Any) -> None:
    restart: Any = {"policy": policy, "backoff": "100ms", "max_attempts": 2}
    made = await make(sdk, health_check=running("false", failure_threshold=1), restart_policy=restart)
    async with asyncio.timeout(60):
        while True:
            found = await sdk.instances.get(made.id)
            assert found.restart_status is not None
            if found.restart_status.attempts == 2 and found.state == "Running":
                break
            await asyncio.sleep(0.05)
    assert found.restart_status.last_reason == "health_check_failed"
    found = await until(sdk, made.id, "unhealthy")  # it may not be started again, so it is left running
    await asyncio.sleep(0.5)
    found = await sdk.instances.get(made.id)
    assert found.state == "Running" and found.restart_status is not None and found.restart_status.attempts == 2
    await sdk.instances.stop(made.id)
    status = (await sdk.instances.get(made.id)).restart_status
    assert status is not None and status.last_reason is None and status.blocked_reason == "manual_stop"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": "http"}, "health_check.http"),
    ({"type": "tcp", "http": {"port": 80}, "tcp": {"port": 80}}, "health_check.http"),
    ({"type": "tcp", "tcp": {"port": 80}, "interval": "x"}, "health_check.interval"),
    ({"type": "tcp", "tcp": {"port": 80}, "interval": "0s"}, "health_check.interval"),
    ({"type": "tcp", "tcp": {"port": 80}, "timeout": "1h"}, "health_check.timeout"),
    ({"type": "http", "http": {"port": 80, "path": "/a b"}}, "health_check.http.path"),
    ({"type": "http", "http": {"port": 80, "path": "/a\r\nX: y"}}, "health_check.http.path"),
    ({"type": "exec", "exec": {"command": [""]}}, "health_check.exec.command"),
]


@pytest.mark.parametrize(("check", "word"), BAD, ids=lambda value: str(value)[:60])
async def test_what_is_no_check_is_refused_by_name(
    sdk: AsyncHypeman, http: httpx.AsyncClient, check: dict[str, Any], word: str
) -> None:
    made = await make(sdk)
    answer = await http.patch(f"/instances/{made.id}", json={"health_check": check})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_health_check"), answer.text
    assert word in answer.json()["message"]


async def test_a_port_needs_a_network(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, network={"enabled": False})
    answer = await http.patch(f"/instances/{made.id}", json={"health_check": {"type": "tcp", "tcp": {"port": 80}}})
    assert "health_check.tcp.port: the instance has no network" in answer.json()["message"]
