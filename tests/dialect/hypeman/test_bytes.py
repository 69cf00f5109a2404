"""Bytes: one reply of each model as upstream writes it, and refusals that name the place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman

from dialect.hypeman.making import IMAGE, make
from dialect.served import fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")

NULLS = {
    "instance": ["exit_code", "expires_at", "state_error", "stopped_at"],
    "image": ["cmd", "entrypoint", "error", "queue_position", "working_dir"],
    "snapshot": ["compressed_size_bytes", "compression_error", "name", "uncompressed_size_bytes"],
    "schedule": ["last_error", "last_run_at", "last_snapshot_id", "name_prefix"],
    "path": ["error", "link_target"],
    "wait": ["state_error"],
    "auto-standby": ["countdown_remaining", "hold_until", "idle_since", "idle_timeout", "last_inbound_activity_at"],
    "resources": ["gpu"],
}


def objects(value: Any) -> Iterator[list[str]]:
    """The keys of every object in a JSON value, in the order in which they were written."""
    if isinstance(value, Pairs):
        yield [key for key, _ in value]
        for _, item in value:
            yield from objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from objects(item)


class Pairs(list[tuple[str, Any]]):
    """An object as it was written."""


def check(answer: httpx.Response, status: int, nulls: list[str] | None = None) -> None:
    """The rules of upstream's encoder."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.content.endswith(b"\n") and not answer.content.endswith(b"\n\n")
    written = json.loads(answer.content, object_pairs_hook=Pairs)
    for keys in objects(written):
        assert keys == sorted(keys)
    plain = json.dumps(answer.json(), separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    assert not re.search(r'[,:] (?=["\[{0-9tfn])', re.sub(r'"[^"]*"', '""', answer.text))
    assert len(plain) <= len(answer.text)
    top = answer.json()[0] if isinstance(answer.json(), list) else answer.json()
    for name in nulls or ():
        assert name in top and top[name] is None, name


async def test_every_model_is_written_by_the_rules(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, tags={"b": "2", "a": "1"}, env={"Z": "1", "A": "<&>"})
    one = f"/instances/{made.id}"
    check(await http.get(one), 200, NULLS["instance"])
    check(await http.get("/instances"), 200, NULLS["instance"])
    assert b'"env":{"A":"\\u003c\\u0026\\u003e","Z":"1"}' in (await http.get(one)).content
    check(await http.get(f"{one}/stat?path=/nope"), 200, NULLS["path"])
    check(await http.get(f"{one}/stats"), 200)
    waited = await http.get(f"{one}/wait?state=Running")
    assert waited.content == b'{"state":"Running","state_error":null,"timed_out":false}\n'
    check(await http.get(f"{one}/auto-standby/status"), 200, NULLS["auto-standby"])
    check(await http.post(f"{one}/snapshots", json={"kind": "Standby"}), 201, NULLS["snapshot"])
    check(await http.get("/snapshots"), 200)
    schedule = {"interval": "1h", "retention": {"max_count": 2}}
    check(await http.put(f"{one}/snapshot-schedule", json=schedule), 200, NULLS["schedule"])
    check(await http.post("/images", json={"name": "busybox"}), 202, NULLS["image"])
    check(await http.get("/images"), 200, NULLS["image"])
    check(await http.post("/volumes", json={"name": fresh("v"), "size_gb": 1}), 201)
    check(await http.get("/volumes"), 200)
    check(await http.get("/resources"), 200, NULLS["resources"])
    check(await http.get("/capabilities"), 200)
    check(await http.post("/resources/memory/reclaim", json={"reclaim_bytes": 1, "dry_run": True}), 200)
    mounted = (await http.get("/volumes")).json()[0]["id"]
    check(await http.post(f"{one}/volumes/{mounted}", json={"mount_path": "/v"}), 200, NULLS["instance"])
    check(await http.get(f"/volumes/{mounted}"), 200)
    check(await http.post("/images/busybox/tag", json={"target": fresh("tag") + ":1"}), 200, NULLS["image"])
    assert (await http.get("/health")).content == b'{"status":"ok"}\n'
    assert (await http.get("/devices")).content == b"[]\n"


async def test_policies_are_written_by_the_rules(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(
        sdk, restart_policy={"policy": "on_failure", "backoff": "90s"},
        auto_standby={"enabled": True, "idle_timeout": "90m"},
        health_check={"type": "exec", "exec": {"command": ["true"]}}, ttl="36h",
        snapshot_policy={"compression": {"enabled": True}},
    )  # fmt: skip
    answer = await http.get(f"/instances/{made.id}")
    check(answer, 200)
    found = answer.json()
    assert found["restart_policy"] == {
        "policy": "on_failure",
        "backoff": "1m30s",
        "max_attempts": 0,
        "stable_after": "10m0s",
    }
    nulls = ("blocked_reason", "last_attempt_at", "last_reason", "next_attempt_at")
    assert found["restart_status"] == {"attempts": 0} | dict.fromkeys(nulls)
    assert {"last_checked_at", "last_error", "last_failure_at", "last_success_at"} <= set(found["health_status"])
    assert found["auto_standby"]["idle_timeout"] == "90m"  # a policy is said as it was asked for, its status is not
    status = (await http.get(f"/instances/{made.id}/auto-standby/status")).json()
    assert status["idle_timeout"] == "1h30m0s"
    assert found["expires_at"].endswith("Z")


async def test_each_writer_of_refusals_has_its_bytes(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    """Handlers end with a newline; validator, scopes and resolver do not; exec and cp are text, with one."""
    made = await make(sdk)
    one = f"/instances/{made.id}"
    handler = await http.get(f"{one}/wait?state=Unknown")
    validator = await http.get(f"{one}/wait")
    resolver = await http.get("/instances/nothing-is-called-so")
    nobody = await http.get(one, headers={"Authorization": ""})
    text = await http.get(f"{one}/exec")
    assert handler.content == b'{"code":"invalid_state","message":"invalid target state: Unknown"}\n'
    assert validator.content.startswith(b'{"code":"Bad Request","message":"parameter \\"state\\" in query')
    assert resolver.content == b'{"code":"not_found","message":"resource not found"}'
    assert nobody.content.startswith(b'{"code":"Unauthorized","message":"security requirements failed: ')
    for answer, ending, kind in (
        (handler, b"}\n", "application/json"), (validator, b"}", "application/json"),
        (resolver, b"}", "application/json"), (nobody, b"}", "application/json"),
        (text, b"}\n", "text/plain; charset=utf-8"),
    ):  # fmt: skip
        assert answer.content.endswith(ending) and answer.headers["content-type"] == kind
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert list(answer.json()) == ["code", "message"]
    assert text.headers["x-content-type-options"] == "nosniff"


async def test_an_instance_without_a_network_says_so(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk, network={"enabled": False})
    assert (await http.get(f"/instances/{made.id}")).json()["network"] == {"enabled": False, "ip": None, "mac": None}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"name": None}, "Bad Request", '"/name"'), ({"name": "-bad"}, "Bad Request", '"/name"'),
    ({"name": "x" * 64}, "Bad Request", "maximum string length is 63"), ({"name": "Upper"}, "Bad Request", '"/name"'),
    ({"image": 5}, "Bad Request", '"/image": value must be a string'),
    ({"vcpus": "2"}, "Bad Request", '"/vcpus": value must be an integer'),
    ({"vcpus": 0}, "invalid_request", "vcpus"), ({"vcpus": 100_000}, "invalid_request", "vcpus"),
    ({"tags": {str(n): "" for n in range(51)}}, "Bad Request", '"/tags": there must be at most 50 properties'),
    ({"tags": {"a": "x" * 257}}, "Bad Request", '"/tags/a": maximum string length is 256'),
    ({"tags": {"a": "ä"}}, "Bad Request", '"/tags/a"'),
    ({"tags": {"hypeman.system/x": "1"}}, "invalid_request", "tags"),
    ({"size": "1.5GB"}, "invalid_size", "invalid size format: strconv.UnmarshalText"),
    ({"size": "1MB"}, "invalid_request", "size: "),
    ({"overlay_size": "x"}, "invalid_overlay_size", "invalid overlay_size format"),
    ({"overlay_size": "101GB"}, "invalid_overlay_size", "overlay_size"),
    ({"hotplug_size": "x"}, "invalid_hotplug_size", "invalid hotplug_size format"),
    ({"disk_io_bps": "x"}, "invalid_disk_io_bps", "invalid disk_io_bps format"),
    ({"disk_io_bps": "1B/s"}, "invalid_disk_io_bps", "disk_io_bps: must be 0 (no limit) or 1024"),
    ({"network": {"bandwidth_download": "x"}}, "invalid_bandwidth_download", "bandwidth_download"),
    ({"network": {"bandwidth_upload": "8Mbps"}}, "invalid_bandwidth_upload", "bandwidth_upload: only bridge mode"),
    ({"network": {"egress": {"enabled": True}}}, "invalid_request", "network.egress.enabled"),
    ({"network": {"egress": {"enforcement": {"mode": "x"}}}}, "Bad Request", '"/network/egress/enforcement/mode"'),
    ({"auto_standby": {"enabled": True}}, "invalid_auto_standby", "idle_timeout"),
    ({"auto_standby": {"enabled": True, "idle_timeout": "0s"}}, "invalid_auto_standby", "auto_standby.idle_timeout"),
    ({"auto_standby": {"enabled": True, "idle_timeout": "x"}}, "invalid_auto_standby", "auto_standby.idle_timeout"),
    ({"auto_standby": {"ignore_source_cidrs": ["x"]}}, "invalid_auto_standby", "auto_standby.ignore_source_cidrs"),
    ({"auto_standby": {"ignore_destination_ports": [0]}}, "Bad Request", '"/auto_standby/ignore_destination_ports/0"'),
    ({"restart_policy": {"policy": "always", "backoff": "x"}}, "invalid_restart_policy", "restart_policy.backoff"),
    ({"restart_policy": {"policy": "sometimes"}}, "Bad Request", 'allowed values ["never","always","on_failure"]'),
    (
        {"snapshot_policy": {"compression": {"enabled": True, "algorithm": "lz4", "level": 12}}},
        "invalid_snapshot_policy", "snapshot_policy.compression.level",
    ),
    ({"snapshot_policy": {"standby_compression_delay": "x"}}, "invalid_snapshot_policy", "standby_compression_delay"),
    ({"ttl": "x"}, "invalid_ttl", "ttl"), ({"ttl": "-1m"}, "invalid_ttl", "ttl"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "invalid_expires_at", "expires_at"),
    ({"expires_at": "2099-01-01T00:00:00"}, "Bad Request", '"/expires_at"'),
    ({"ttl": "1m", "expires_at": "2099-01-01T00:00:00Z"}, "invalid_request", "mutually exclusive"),
    ({"devices": ["gpu0"]}, "invalid_request", "devices"), ({"gpu": {"profile": "x"}}, "invalid_request", "gpu"),
    ({"hypervisor": "firecracker"}, "invalid_request", "hypervisor"),
    ({"hypervisor": "xen"}, "Bad Request", "hypervisor"),
    ({"skip_guest_agent": True}, "invalid_request", "skip_guest_agent"),
    ({"platform": "linux"}, "Bad Request", '"/platform"'), ({"platform": "plan9/amd64"}, "invalid_platform", "plan9"),
    ({"env": {"A=B": "x"}}, "invalid_request", "env"),
    ({"volumes": [{"volume_id": "x", "mount_path": "/d", "overlay": True}]}, "invalid_request", "readonly=true"),
    (
        {"volumes": [{"volume_id": "x", "mount_path": "/d", "readonly": True, "overlay": True, "overlay_size": "1b"}]},
        "invalid_overlay_size", "volumes: volume x: overlay_size must be",
    ),
    ({"credentials": {"A": {"source": {"env": "B"}, "inject": []}}}, "Bad Request", '"/credentials/A/inject"'),
    (
        {"credentials": {"A": {"source": {"env": "B"}, "inject": [{"as": {"header": "h", "format": "${value}"}}]}}},
        "invalid_request", "credentials",
    ),
    ({"image": "UPPER CASE"}, "invalid_name", "invalid image reference"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "word"), BAD, ids=lambda value: str(value)[:40])
async def test_bad_input_is_refused_by_name_and_makes_nothing(
    sdk: AsyncHypeman, http: httpx.AsyncClient, fields: dict[str, Any], code: str, word: str
) -> None:
    before = len(await sdk.instances.list())
    body = {"name": fresh("bad"), "image": IMAGE} | fields
    answer = await http.post("/instances", json={key: value for key, value in body.items() if value is not None})
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == code
    assert word in answer.json()["message"]
    assert answer.content.endswith(b"}") == (code == "Bad Request")
    assert len(await sdk.instances.list()) == before


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (b"", "application/json", "value is required but missing"),
        (b"{", "application/json", "failed to decode request body"),
        (b"[]", "application/json", "value must be an object"),
        (b'"x"', "application/json", "value must be an object"),
        (b"{}", "text/plain", "header Content-Type"), (b"\xff", "application/json", "failed to decode request body"),
        (b"[" * 100_000, "application/json", "request body has an error"),
        (b'{"name":"' + b"x" * 1_100_000 + b'"}', "application/json", "larger than"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
async def test_a_body_that_is_none_is_refused(http: httpx.AsyncClient, content: bytes, kind: str, why: str) -> None:
    answer = await http.post("/instances", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "Bad Request")
    assert why in answer.json()["message"]


async def test_unknown_fields_are_ignored(http: httpx.AsyncClient) -> None:
    answer = await http.post("/instances", json={"name": fresh("u"), "image": IMAGE, "no_such_field": [1]})
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("path", "code", "why"),
    [
        ("/instances?state=Nonsense", "Bad Request", 'parameter "state" in query'),
        ("/instances?tags[a]=" + "x" * 257, "Bad Request", 'parameter "tags" in query'),
        ("/instances/{id}/logs?tail=x", "Bad Request", 'parameter "tail" in query'),
        ("/instances/{id}/logs?source=x", "Bad Request", 'parameter "source" in query'),
        (
            "/instances/{id}/stat",
            "Bad Request",
            'parameter "path" in query has an error: value is required but missing',
        ),
        ("/instances/{id}/stat?path=relative", "invalid_request", "absolute"),
        ("/instances/{id}/wait", "Bad Request", 'parameter "state" in query has an error: value is required'),
        ("/instances/{id}/wait?state=Unknown", "invalid_state", "invalid target state: Unknown"),
        ("/instances/{id}/wait?state=Running&timeout=abc", "invalid_timeout", "invalid timeout format: time: invalid"),
        ("/instances/{id}/wait?state=Running&timeout=0s", "invalid_timeout", "timeout must be positive"),
    ],
)
async def test_bad_parameters_are_refused_by_name(
    sdk: AsyncHypeman, http: httpx.AsyncClient, path: str, code: str, why: str
) -> None:
    made = await make(sdk)
    answer = await http.get(path.replace("{id}", made.id))
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert why in answer.json()["message"]


async def test_a_name_that_is_taken_is_a_conflict_in_upstreams_words(
    sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    made = await make(sdk)
    text = f"instance name '{made.name}' already exists, can't assign into same network: default"
    again = await http.post("/instances", json={"name": made.name, "image": IMAGE})
    said = {"code": "name_conflict", "message": f"instance name already exists: {text}"}
    assert (again.status_code, again.json()) == (400, said)
    fork = await http.post(f"/instances/{made.id}/fork", json={"name": made.name, "from_running": True})
    assert (fork.status_code, fork.json()) == (409, said)


async def test_things_that_are_not_there(http: httpx.AsyncClient, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    image = await http.post("/instances", json={"name": fresh("n"), "image": "sha256:" + "0" * 64})
    assert (image.status_code, image.json()["code"]) == (404, "not_found")
    wrong = await http.post("/instances", json={"name": fresh("n"), "image": IMAGE, "platform": "linux/arm64"})
    assert (wrong.status_code, wrong.json()["code"]) == (404, "platform_not_available")
    volume = await http.post(
        "/instances", json={"name": fresh("n"), "image": IMAGE, "volumes": [{"volume_id": "x", "mount_path": "/d"}]}
    )
    assert (volume.status_code, volume.json()["message"]) == (404, "volumes: no volume x")
    for path, text in (
        ("/snapshots/nothing", "snapshot not found"), ("/volumes/nothing", "resource not found"),
        ("/images/nothing", "resource not found"),
        (f"/instances/{made.id}/snapshot-schedule", "snapshot schedule not found"),
        ("/devices/x", "device not found"), ("/ingresses/x", "resource not found"),
    ):  # fmt: skip
        answer = await http.get(path)
        assert (answer.status_code, answer.json()) == (404, {"code": "not_found", "message": text})
    for key in ("%00", "..", "a" * 3000, "ü"):
        assert (await http.get(f"/instances/{key}")).status_code in (404, 405)


async def test_a_list_says_the_same_as_each_of_its_instances(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = [await make(sdk, tags={"a": str(n)}) for n in range(3)]
    await sdk.instances.standby(made[1].id)
    for _ in range(2):  # once as it is written first, once as it was written before
        listed = {one["id"]: one for one in (await http.get("/instances")).json()}
        for one in made:
            alone = (await http.get(f"/instances/{one.id}")).json()
            spent = [told.pop("phase_durations_ms") for told in (alone, listed[one.id])]
            assert listed[one.id] == alone
            assert all(0 <= spent[1][stage] <= spent[0][stage] for stage in spent[0])
