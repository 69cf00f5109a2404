"""What the Hypeman dialect promises, on real machines: by upstream's SDK, and by raw HTTP where bytes matter.

Where each promise is shown; a name without a file is here:

| promise | test |
|---|---|
| 1 create and its defaults, 2 wait, 3 exec and its last frame | test_the_first_minutes |
| 4 standby and restore | test_hypeman: test_create_exec_standby_restore_delete |
| 5 tokens | test_who_may_not_is_told_so; test_hypeman: test_a_token_of_the_command_line_is_one |
| 6, 7 forks | test_hypeman: test_a_fork_has_the_memory…; test_hypeman_forks; test_illegal_calls_are_refused… |
| 8 delete leaves nothing | test_a_delete_leaves_nothing |
| 9 names, ids and prefixes | test_the_first_minutes, test_a_delete_leaves_nothing |
| 10 bad bodies | test_bad_requests_are_refused_in_upstreams_words |
| 11, 12 the matrix of states | test_illegal_calls_are_refused…; tests/dialect/hypeman/test_law.py: all of it |
| 13 logs | test_logs_are_events_of_texts; test_hypeman: test_logs_and_what_it_takes |
| 14 files | test_hypeman: test_files_go_in_and_come_out_as_they_are |
| 15 stat | test_the_first_minutes, test_illegal_calls_are_refused… |
| 16 images | test_images_come_and_go |
| 17 bytes | test_the_first_minutes; tests/dialect/hypeman/test_bytes.py: every model |
| 18 exits | test_hypeman: test_a_workload_that_ends_stops_its_instance |
| 19 environment, entry point, command, directory | test_images_come_and_go; test_hypeman: test_environment_directory… |
| 20 lists by state and tags | test_lists_by_state_and_tags |
| 21 stats | test_hypeman: test_logs_and_what_it_takes, test_stop_start_and_another_command |
| 22, 23 snapshots | test_snapshots_have_their_law; test_hypeman: test_a_snapshot_keeps_memory_and_outlives_its_source |
| 24 volumes | test_overlays; test_hypeman: test_volumes_come_and_go_with_what_is_on_them |
| 25 wait refused, wait without hope | test_bad_requests…, test_illegal_calls_are_refused… |
| 26 exec | test_illegal_calls_are_refused…; test_hypeman: test_commands_with_a_terminal_input_and_much_output |
| 27 scopes | test_hypeman: test_a_token_of_the_command_line_is_one; tests/dialect/hypeman/test_door.py |
| 28 lifetimes | test_lifetimes |
| 29 networks | test_no_network; test_bridge_hypeman; test_bridge, test_network |
| 30 restart of the server, schedules, the document | test_hypeman: test_states_outlive_the_server; test_a_schedule… |
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import NotFoundError
from websockets.asyncio.client import connect

from polyvisor.host.paths import Paths
from real.archives import docker_save, entry
from real.test_image_sources import shell
from real.test_push import fresh, pushed, until_made
from real.upstream import IMAGE, SMALL, Machines
from serving import Server, await_gone, machines_of

CANNOT = "invalid state transition: cannot"
SLEEPS = ["sleep", "3600"]


@pytest.fixture
async def http(base: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Raw HTTP with the operator's key."""
    headers = {"Authorization": f"Bearer {base.facts['api_key']}"}
    async with httpx.AsyncClient(base_url=base.facts["url"], headers=headers, trust_env=False, timeout=120) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str, str]:
    """A refusal."""
    return answer.status_code, answer.json()["code"], answer.json()["message"]


async def test_the_first_minutes(base: Server, machines: Machines, http: httpx.AsyncClient) -> None:
    sdk = machines.sdk
    name = "h" + uuid.uuid4().hex[:12]
    made = machines.also(await sdk.instances.create(name=name, image=IMAGE, cmd=SLEEPS))
    assert re.fullmatch("[a-z0-9]{24}", made.id)
    assert made.state in ("Initializing", "Running")
    assert (made.size, made.overlay_size, made.hotplug_size, made.vcpus) == ("1024.0 MB", "10.0 GB", "0 B", 2)
    await machines.until(made.id, "Running")
    waited = await http.get(f"/instances/{made.id}/wait?state=Running&timeout=60s")
    assert waited.content == b'{"state":"Running","state_error":null,"timed_out":false}\n'
    raw = await http.get(f"/instances/{made.id}")
    assert raw.headers["content-type"] == "application/json" and raw.content.endswith(b"}\n")
    keys = [key for key, _ in json.loads(raw.content, object_pairs_hook=list)]
    assert keys == sorted(keys)
    found = raw.json()
    assert [found[key] for key in ("exit_code", "expires_at", "state_error", "stopped_at")] == [None] * 4
    for key in (name, made.id[:10]):
        assert (await sdk.instances.get(key)).id == made.id
    url = base.facts["url"].replace("http", "ws", 1) + f"/instances/{made.id}/exec"
    async with connect(url, additional_headers={"Authorization": f"Bearer {base.facts['api_key']}"}) as socket:
        await socket.send('{"command":["sh","-c","echo hi; exit 3"],"tty":false}')
        frames = [frame async for frame in socket]
    assert (b"".join(f for f in frames if isinstance(f, bytes)), frames[-1]) == (b"hi\n", '{"exitCode":3}')
    release = await sdk.instances.stat(made.id, path="/bin/busybox")
    assert release.exists and release.is_file and release.size and release.size > 0
    missing = await http.get(f"/instances/{made.id}/stat?path=/nope")
    assert (missing.status_code, missing.json()["exists"]) == (200, False)


async def test_a_delete_leaves_nothing(base: Server, machines: Machines, http: httpx.AsyncClient) -> None:
    before = set(machines_of(base.data))
    one, two = [await machines.make(cmd=SLEEPS) for _ in range(2)]
    for length in range(1, 24):  # as long as both begin alike, neither is meant
        if one.id[:length] == two.id[:length]:
            assert told(await http.get(f"/instances/{one.id[:length]}"))[:2] == (409, "ambiguous")
    folder = Paths(base.data).instance(one.id)  # type: ignore[arg-type]  # an id
    assert folder.is_dir()
    assert (await http.delete(f"/instances/{one.id}")).status_code == 204
    again = await http.get(f"/instances/{one.id}")
    assert (again.status_code, again.content) == (404, b'{"code":"not_found","message":"resource not found"}')
    assert (await http.delete(f"/instances/{one.id}")).status_code == 404
    async with asyncio.timeout(60):
        while folder.exists():
            await asyncio.sleep(0.1)
    await machines.sdk.instances.delete(two.id)
    await asyncio.to_thread(await_gone, [pid for pid in machines_of(base.data) if pid not in before], 60)


async def test_who_may_not_is_told_so(base: Server) -> None:
    async with httpx.AsyncClient(base_url=base.facts["url"], trust_env=False) as http:
        none = await http.get("/instances")
        text = "security requirements failed: authorization header required"
        assert (none.status_code, none.content) == (401, f'{{"code":"Unauthorized","message":"{text}"}}'.encode())
        forged = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmVk"
        assert (await http.get("/instances", headers={"Authorization": f"Bearer {forged}"})).status_code == 401
        assert (await http.get("/health")).content == b'{"status":"ok"}\n'


async def test_bad_requests_are_refused_in_upstreams_words(http: httpx.AsyncClient, machines: Machines) -> None:
    for body in ({}, {"name": "-bad", "image": IMAGE}, {"name": "x" * 64, "image": IMAGE}):
        assert told(await http.post("/instances", json=body))[:2] == (400, "Bad Request")
    good: dict[str, Any] = {"name": "h" + uuid.uuid4().hex[:12], "image": IMAGE}
    assert told(await http.post("/instances", json=good | {"size": "1.5GB"}))[:2] == (400, "invalid_size")
    assert told(await http.post("/instances", json=good | {"disk_io_bps": "x"}))[:2] == (400, "invalid_disk_io_bps")
    for tags in ({str(n): "" for n in range(51)}, {"a": "x" * 257}):
        assert told(await http.post("/instances", json=good | {"tags": tags}))[:2] == (400, "Bad Request")
    made = await machines.make(cmd=SLEEPS)
    wait = f"/instances/{made.id}/wait"
    assert told(await http.get(f"{wait}?state=Unknown")) == (400, "invalid_state", "invalid target state: Unknown")
    assert told(await http.get(f"{wait}?state=Running&timeout=abc"))[:2] == (400, "invalid_timeout")
    assert told(await http.patch(f"/instances/{made.id}", json={}))[:2] == (400, "invalid_request")


async def test_illegal_calls_are_refused_and_repeated_ones_are_not(machines: Machines, http: httpx.AsyncClient) -> None:
    made = await machines.make(cmd=SLEEPS)
    path = f"/instances/{made.id}"
    running = "cannot fork from state Running (set from_running=true to allow standby+restore flow)"
    fork = await http.post(f"{path}/fork", json={"name": made.name + "-f"})
    assert told(fork) == (409, "invalid_state", f"invalid state transition: {running}")
    assert (await http.post(f"{path}/restore")).json()["state"] == "Running"
    assert told(await http.post(f"{path}/start")) == (
        400, "Bad Request", "request body has an error: value is required but missing",
    )  # fmt: skip
    assert (await http.post(f"{path}/standby")).json()["state"] == "Standby"
    assert (await http.post(f"{path}/standby")).json()["state"] == "Standby"
    for verb, body, must in (("stop", None, "Running or Initializing"), ("start", {}, "Stopped")):
        refused = await http.post(f"{path}/{verb}", json=body)
        assert told(refused) == (409, "invalid_state", f"{CANNOT} {verb} from state Standby, must be {must}")
    assert (await http.post(f"{path}/restore")).json()["state"] == "Running"
    for _ in range(2):
        assert (await http.post(f"{path}/stop")).json()["state"] == "Stopped"
    for verb in ("standby", "restore"):
        refused = await http.post(f"{path}/{verb}")
        assert told(refused) == (409, "invalid_state", f"{CANNOT} {verb} from state Stopped")
    not_up = "instance must be running (current state: Stopped)"
    assert told(await http.get(f"{path}/stat?path=/")) == (409, "invalid_state", not_up)
    exec_ = await http.get(f"{path}/exec")
    assert (exec_.status_code, exec_.headers["content-type"]) == (409, "text/plain; charset=utf-8")
    assert exec_.text == f'{{"code":"invalid_state","message":"{not_up}"}}\n'
    hopeless = await http.get(f"{path}/wait?state=Running&timeout=60s")
    assert hopeless.json() == {"state": "Stopped", "state_error": None, "timed_out": False}
    assert (await http.post(f"{path}/start", json={})).status_code == 200


async def test_logs_are_events_of_texts(machines: Machines, http: httpx.AsyncClient) -> None:
    script = 'for i in 1 2 3 4 5 6 7; do echo "line $i <&>"; done; sleep 3600'
    made = await machines.make(cmd=["sh", "-c", script])
    path = f"/instances/{made.id}/logs"
    async with asyncio.timeout(60):  # it may have begun a moment ago
        while "line 7" not in (answer := await http.get(f"{path}?tail=5")).text:
            await asyncio.sleep(0.2)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert [json.loads(event.removeprefix("data: ")) for event in events] == [f"line {n} <&>" for n in range(3, 8)]
    assert all(event.startswith('data: "') for event in events)
    assert "HYPEMAN-" not in (await http.get(f"{path}?tail=1000")).text


async def test_lists_by_state_and_tags(machines: Machines) -> None:
    mark = uuid.uuid4().hex
    both = await machines.make(cmd=SLEEPS, tags={"mark": mark, "env": "y"})
    one = await machines.make(cmd=SLEEPS, tags={"mark": mark})
    await machines.sdk.instances.stop(one.id)

    async def ids(**wanted: Any) -> set[str]:
        return {found.id for found in await machines.sdk.instances.list(**wanted)}

    assert await ids(tags={"mark": mark}) == {both.id, one.id}
    assert await ids(tags={"mark": mark, "env": "y"}) == {both.id}
    assert await ids(tags={"mark": mark}, state="Stopped") == {one.id}
    assert both.id in await ids(state="Running") and one.id not in await ids(state="Running")


async def test_snapshots_have_their_law(machines: Machines, http: httpx.AsyncClient) -> None:
    made = await machines.make(cmd=SLEEPS)
    path = f"/instances/{made.id}/snapshots"
    taken = await http.post(path, json={"kind": "Standby", "name": "s1"})
    assert taken.status_code == 201
    assert told(await http.post(path, json={"kind": "Standby", "name": "s1"}))[:2] == (409, "conflict")
    assert told(await http.post(path, json={"kind": "Stopped"}))[:2] == (409, "conflict")
    back = await http.post(f"{path}/{taken.json()['id']}/restore", json={})
    assert told(back) == (409, "invalid_state", "cannot restore snapshot while source is Running")
    await machines.sdk.snapshots.delete(taken.json()["id"])


async def test_images_come_and_go(base: Server, machines: Machines, http: httpx.AsyncClient, tmp_path: Path) -> None:
    says = {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["pwd; env; sleep 3600"], "WorkingDir": "/tmp",
        "Env": ["COLOUR=blue", "SHAPE=round", "PATH=/bin"],
    }  # fmt: skip
    name = f"{fresh()}/app:v1"
    layer = shell(entry("tmp", kind=b"5", mode=0o755))
    done = await asyncio.to_thread(
        pushed, base, f"docker-archive:{docker_save(tmp_path / 'a.tar', layer, says=says)}", name
    )
    assert done.returncode == 0, done.stderr
    image = await until_made(machines.sdk, name)
    assert (image.status, image.working_dir) == ("ready", "/tmp")
    asked = await http.post("/images", json={"name": name})
    assert (asked.status_code, asked.json()["name"], asked.json()["digest"]) == (202, f"docker.io/{name}", image.digest)
    escaped = f"/images/docker.io%2F{name.replace('/', '%2F').replace(':', '%3A')}"
    assert (await http.get(escaped)).json()["digest"] == image.digest
    made = await machines.make(image=name, env={"COLOUR": "red"})
    other = await machines.make(image=name, cmd=["echo other; sleep 3600"])
    async with asyncio.timeout(60):  # they may have begun a moment ago
        while "SHAPE=round" not in (lines := [line async for line in await machines.sdk.instances.logs(made.id)]):
            await asyncio.sleep(0.2)
        while "other" not in [line async for line in await machines.sdk.instances.logs(other.id)]:
            await asyncio.sleep(0.2)
    assert lines[0] == "/tmp" and "COLOUR=red" in lines and "COLOUR=blue" not in lines
    assert told(await http.delete(escaped))[:2] == (409, "conflict")  # so no restore ever lacks its image
    for one in (made, other):
        await machines.sdk.instances.delete(one.id)
    assert (await http.delete(escaped)).status_code == 204
    assert (await http.get(escaped)).status_code == 404


async def test_lifetimes(machines: Machines, http: httpx.AsyncClient) -> None:
    made = await machines.make(cmd=SLEEPS, ttl="2m")
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - timedelta(minutes=2)) < timedelta(seconds=5)
    both = {"ttl": "2m", "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    assert told(await http.patch(f"/instances/{made.id}", json=both))[:2] == (400, "invalid_request")
    assert (await machines.sdk.instances.update(made.id, ttl="0s")).expires_at is None
    await machines.sdk.instances.update(made.id, ttl="1s")
    async with asyncio.timeout(120):  # as upstream has it: within a minute, and the time to end it
        while True:
            try:
                await machines.sdk.instances.get(made.id)
            except NotFoundError:
                break
            await asyncio.sleep(0.5)


async def test_no_network(machines: Machines, http: httpx.AsyncClient) -> None:
    made = await machines.make(cmd=SLEEPS, network={"enabled": False})
    assert (await http.get(f"/instances/{made.id}")).json()["network"] == {"enabled": False, "ip": None, "mac": None}
    assert await machines.say(made.id, "ls /sys/class/net") == "lo"


async def test_a_schedule_takes_snapshots(machines: Machines, http: httpx.AsyncClient) -> None:
    made = await machines.make(cmd=SLEEPS, size=SMALL)
    path = f"/instances/{made.id}/snapshot-schedule"
    wanted = {"interval": "1m", "retention": {"max_count": 2}, "name_prefix": "tick"}
    assert told(await http.put(path, json=wanted | {"interval": "30s"}))[:2] == (400, "invalid_request")
    assert (await http.put(path, json=wanted)).json()["interval"] == "1m0s"
    async with asyncio.timeout(240):
        while not (found := await machines.sdk.snapshots.list(source_instance_id=made.id)):
            await asyncio.sleep(1)
    assert (found[0].kind, found[0].source_instance_name) == ("Standby", made.name)
    assert found[0].name is not None and found[0].name.startswith("tick")
    assert (await http.get(path)).json()["last_snapshot_id"] == found[0].id
    assert (await http.delete(path)).status_code == 204
    for one in await machines.sdk.snapshots.list(source_instance_id=made.id):
        await machines.sdk.snapshots.delete(one.id)
