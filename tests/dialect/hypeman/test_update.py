"""What can change while an instance lives: its lifetime and its policies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypeman import AsyncHypeman, BadRequestError

from dialect.hypeman.making import make
from polyvisor.dialects.hypeman import asks, policies

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_lifetime_is_given_changed_and_taken_away(sdk: AsyncHypeman) -> None:
    made = await make(sdk, ttl="2m")
    assert made.expires_at is not None
    assert abs(made.expires_at - datetime.now(UTC) - timedelta(minutes=2)) < timedelta(seconds=30)
    later = datetime.now(UTC) + timedelta(hours=1)
    changed = await sdk.instances.update(made.id, expires_at=later)
    assert changed.expires_at is not None and abs(changed.expires_at - later) < timedelta(seconds=2)
    fork = await sdk.instances.fork(made.id, name=made.name + "-fork", from_running=True)
    assert fork.expires_at is None
    assert (await sdk.instances.update(made.id, ttl="0s")).expires_at is None
    with pytest.raises(BadRequestError):
        await sdk.instances.update(made.id, ttl="1m", expires_at=later)


async def test_one_without_an_end_says_so(sdk: AsyncHypeman) -> None:
    assert (await make(sdk, ttl="0s")).expires_at is None


async def test_a_restart_policy_is_kept_and_followed(sdk: AsyncHypeman) -> None:
    policy = {"policy": "on_failure", "backoff": "1h", "max_attempts": 3}
    made = await make(sdk, restart_policy=policy, cmd=["sh", "-c", "sleep 0.5; exit 7"])
    assert made.restart_policy is not None
    assert made.restart_policy.to_dict() == policy | {"backoff": "1h0m0s", "stable_after": "10m0s"}
    await sdk.instances.wait(made.id, state="Stopped", api_timeout="1s")
    for _ in range(100):
        now = await sdk.instances.get(made.id)
        if now.state == "Stopped":
            break
        await sdk.instances.wait(made.id, state="Stopped", api_timeout="1s")
    assert (now.state, now.exit_code) == ("Stopped", 7)
    assert now.restart_status is not None
    assert (now.restart_status.attempts, now.restart_status.blocked_reason) == (1, None)
    assert now.restart_status.next_attempt_at is not None
    left = now.restart_status.next_attempt_at - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(hours=1)
    changed = await sdk.instances.update(made.id, restart_policy={"policy": "never"})
    assert changed.restart_policy is None


async def test_a_manual_stop_is_not_undone(sdk: AsyncHypeman) -> None:
    made = await make(sdk, restart_policy={"policy": "always"})
    stopped = await sdk.instances.stop(made.id)
    assert stopped.restart_status is not None and stopped.restart_status.blocked_reason == "manual_stop"


async def test_policies_that_do_nothing_are_echoed(sdk: AsyncHypeman) -> None:
    made = await make(
        sdk, auto_standby={"enabled": False, "idle_timeout": "5m"}, health_check={"type": "none"},
        snapshot_policy={"compression": {"enabled": False}},
    )  # fmt: skip
    assert made.auto_standby is not None and made.auto_standby.idle_timeout == "5m"
    assert made.snapshot_policy is not None and made.snapshot_policy.compression is not None
    status = await sdk.instances.auto_standby.status(made.id)
    assert (status.supported, status.configured, status.status) == (True, True, "disabled")
    changed = await sdk.instances.update(made.id, auto_standby={"enabled": False, "idle_timeout": "9m"})
    assert changed.auto_standby is not None and changed.auto_standby.idle_timeout == "9m"
    assert changed.snapshot_policy is not None and changed.size == made.size


async def test_standby_by_idleness_is_told_and_held(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(
        sdk, auto_standby={
            "enabled": True, "idle_timeout": "90m", "ignore_source_cidrs": ["10.0.0.0/8"],
            "ignore_destination_ports": [22],
        },
    )  # fmt: skip
    policy = made.auto_standby
    assert policy is not None
    assert (policy.enabled, policy.idle_timeout) == (True, "90m")
    assert (policy.ignore_source_cidrs, policy.ignore_destination_ports) == (["10.0.0.0/8"], [22])
    status = await sdk.instances.auto_standby.status(made.id)
    assert (status.supported, status.configured, status.enabled, status.eligible) == (True,) * 4
    assert (status.status, status.reason) == ("idle_countdown", "idle_timeout_not_elapsed")
    assert (status.idle_timeout, status.active_inbound_connections, status.hold_until) == ("1h30m0s", 0, None)
    assert status.next_standby_at is not None
    assert status.countdown_remaining is not None
    held = await sdk.instances.auto_standby.hold(made.id)
    assert held.hold_until is not None
    await sdk.instances.update(made.id, auto_standby={"enabled": True, "idle_timeout": "1h"})
    shorter = await sdk.instances.auto_standby.hold(made.id)
    assert shorter.hold_until is not None
    assert shorter.hold_until < held.hold_until
    await sdk.instances.standby(made.id)
    status = await sdk.instances.auto_standby.status(made.id)
    assert (status.status, status.reason, status.eligible) == ("ineligible", "instance_not_running", False)
    answer = await http.post(f"/instances/{made.id}/auto-standby/hold")
    assert answer.status_code == 409
    assert answer.json() == {
        "code": "instance_in_standby", "message": "instance is in standby; restore it before connecting",
    }  # fmt: skip
    changed = await sdk.instances.update(made.id, auto_standby={"enabled": False})
    assert changed.auto_standby is not None
    assert changed.auto_standby.enabled is False
    off = await make(sdk, network={"enabled": False}, auto_standby={"enabled": True, "idle_timeout": "1h"})
    status = await sdk.instances.auto_standby.status(off.id)
    assert (status.status, status.reason) == ("ineligible", "network_disabled")


@pytest.mark.parametrize("body", [{}, {"name": "x"}, {"no_such": 1}])
async def test_nothing_to_change_is_refused(
    sdk: AsyncHypeman, http: httpx.AsyncClient, body: dict[str, object]
) -> None:
    made = await make(sdk)
    answer = await http.patch(f"/instances/{made.id}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.json()["message"].startswith("invalid request: request must include env, auto_standby")


async def test_env_belongs_to_credentials(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, env={"A": "1"})
    answer = await http.patch(f"/instances/{made.id}", json={"env": {"A": "2"}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert "A" in answer.json()["message"]


async def test_limits_of_speed_are_echoed_where_there_are_any(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, disk_io_bps="100MB/s", network={"bandwidth_download": "0"})
    assert made.disk_io_bps == "100.0 MB/s"
    said = (await http.get(f"/instances/{made.id}")).json()
    assert not {"bandwidth_download", "bandwidth_upload"} & said["network"].keys()
    plain = (await http.get(f"/instances/{(await make(sdk, disk_io_bps='0')).id}")).json()
    assert "disk_io_bps" not in plain
    body = asks.CreateInstanceRequest.model_validate(
        {"name": "a", "image": "b", "network": {"bandwidth_download": "8Mbps", "bandwidth_upload": "125MB/s"}}
    )
    rates = policies.rates_of(body)
    assert rates == {"download_rate": 1_000_000, "upload_rate": 125 << 20}
    assert policies.rate_to(rates["download_rate"]) == "976.6 KB/s"
