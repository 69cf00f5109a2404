"""Which calls are legal in which state: the whole matrix, with upstream's texts."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman

from dialect.hypeman.making import make
from dialect.served import Served, fresh
from polyvisor.model.ids import InstanceId

pytestmark = pytest.mark.asyncio(loop_scope="session")
CANNOT = "invalid state transition: cannot"


async def in_state(served: Served, sdk: AsyncHypeman, state: str) -> str:
    """The id of an instance that is in that state."""
    made = await make(sdk)
    if state == "Stopped":
        await sdk.instances.stop(made.id)
    if state == "Standby":
        await sdk.instances.standby(made.id)
    if state == "Paused":
        assert (await served.http.post(f"/api/v1/instances/{made.id}/pause?wait=launched")).status_code == 200
    assert (await sdk.instances.get(made.id)).state == state
    return made.id


MATRIX: list[tuple[str, str, str]] = [
    ("standby", "Stopped", f"{CANNOT} standby from state Stopped"),
    ("standby", "Paused", f"{CANNOT} standby from state Paused"),
    ("standby", "Standby", ""),
    ("restore", "Stopped", f"{CANNOT} restore from state Stopped"),
    ("restore", "Paused", f"{CANNOT} restore from state Paused"),
    ("restore", "Running", ""),
    ("stop", "Standby", f"{CANNOT} stop from state Standby, must be Running or Initializing"),
    ("stop", "Paused", f"{CANNOT} stop from state Paused, must be Running or Initializing"),
    ("stop", "Stopped", ""),
    ("start", "Standby", f"{CANNOT} start from state Standby, must be Stopped"),
    ("start", "Paused", f"{CANNOT} start from state Paused, must be Stopped"),
    ("start", "Running", ""),
    (
        "fork",
        "Running",
        f"{CANNOT} fork from state Running (set from_running=true to allow standby+restore flow)",
    ),
    ("fork", "Paused", f"{CANNOT} fork from state Paused"),
]


@pytest.mark.parametrize(("verb", "state", "text"), MATRIX)
async def test_the_law(
    served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient, verb: str, state: str, text: str
) -> None:
    id = await in_state(served, sdk, state)
    body: dict[str, Any] | None = {"start": {}, "fork": {"name": fresh("f")}}.get(verb)
    answer = await http.post(f"/instances/{id}/{verb}", json=body)
    if text:
        assert answer.status_code == 409
        assert answer.json() == {"code": "invalid_state", "message": text}
        assert answer.headers["x-should-retry"] == "false"
    else:
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert (await sdk.instances.get(id)).state == state


@pytest.mark.parametrize(
    ("kind", "state", "legal"),
    [
        ("Standby", "Running", True), ("Standby", "Standby", True), ("Standby", "Stopped", False),
        ("Stopped", "Stopped", True), ("Stopped", "Running", False), ("Stopped", "Standby", False),
    ],
)  # fmt: skip
async def test_the_law_of_snapshots(
    served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient, kind: str, state: str, legal: bool
) -> None:
    id = await in_state(served, sdk, state)
    answer = await http.post(f"/instances/{id}/snapshots", json={"kind": kind})
    assert answer.status_code == (201 if legal else 409)
    assert legal or answer.json()["code"] == "conflict"
    assert (await sdk.instances.get(id)).state == state


async def test_a_running_instance_is_not_started_with_another_command(
    sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    made = await make(sdk)
    answer = await http.post(f"/instances/{made.id}/start", json={"cmd": ["true"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_state")
    same = await http.post(f"/instances/{made.id}/start", json={"cmd": [], "entrypoint": []})
    assert same.status_code == 200


async def test_another_command_sticks(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk, entrypoint=["sh", "-c"], cmd=["sleep 3600"])
    await sdk.instances.stop(made.id)
    await sdk.instances.start(made.id, cmd=["echo two; sleep 3600"])
    for _ in range(2):
        native = (await served.http.get(f"/api/v1/instances/{made.id}")).json()
        assert native["command"] == ["sh", "-c", "echo two; sleep 3600"]
        await sdk.instances.stop(made.id)
        await sdk.instances.start(made.id)
    await sdk.instances.stop(made.id)
    await sdk.instances.start(made.id, entrypoint=["env"], cmd=["sleep", "3600"])
    assert (await served.http.get(f"/api/v1/instances/{made.id}")).json()["command"] == ["env", "sleep", "3600"]


async def test_start_needs_a_body_and_standby_does_not(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await make(sdk)
    missing = await http.post(f"/instances/{made.id}/start")
    assert missing.status_code == 400
    assert (
        missing.content
        == b'{"code":"Bad Request","message":"request body has an error: value is required but missing"}'
    )
    assert (await http.post(f"/instances/{made.id}/standby")).json()["state"] == "Standby"
    assert (await http.post(f"/instances/{made.id}/restore")).json()["state"] == "Running"


async def test_calls_at_once_take_turns(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    calls = (sdk.instances.standby(made.id), sdk.instances.standby(made.id), sdk.instances.restore(made.id))
    found = await asyncio.gather(*calls)
    assert [one.state for one in found] == ["Standby", "Standby", "Running"]
    await sdk.instances.restore(made.id)  # which of them came first is nobody's business
    found = await asyncio.gather(sdk.instances.stop(made.id), sdk.instances.start(made.id), sdk.instances.stop(made.id))
    assert found[0].state == found[2].state == "Stopped"
    gone = await asyncio.gather(*(sdk.instances.delete(made.id) for _ in range(3)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in gone) == ["NoneType", "NotFoundError", "NotFoundError"]


async def test_many_forks_at_once(sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    names = [fresh("many") for _ in range(8)]
    found = await asyncio.gather(*(sdk.instances.fork(made.id, name=name, from_running=True) for name in names))
    assert [one.state for one in found] == ["Running"] * 8
    assert len({one.network.ip for one in found if one.network is not None}) == 8


async def test_nothing_is_done_to_an_instance_that_does_not_answer(
    served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    """Its state is Unknown, with the reason; it can be deleted all the same."""
    made = await make(sdk)
    deaf = served.vm(made.id)._knob.deaf
    deaf.add(InstanceId(made.id))
    try:
        await sdk.instances.wait(made.id, state="Stopped", api_timeout="20s")  # it ends where there is no hope
        found = (await http.get(f"/instances/{made.id}")).json()
        assert found["state"] == "Unknown" and found["state_error"]
        waited = (await http.get(f"/instances/{made.id}/wait?state=Running&timeout=20s")).json()
        assert (waited["state"], waited["timed_out"]) == ("Unknown", False) and waited["state_error"]
        for verb, more in (
            ("standby", ""), ("restore", ""), ("stop", ", must be Running or Initializing"),
            ("start", ", must be Stopped"),
        ):  # fmt: skip
            answer = await http.post(f"/instances/{made.id}/{verb}", json={} if verb == "start" else None)
            text = f"{CANNOT} {verb} from state Unknown{more}"
            assert (answer.status_code, answer.json()) == (409, {"code": "invalid_state", "message": text})
        stat = await http.get(f"/instances/{made.id}/stat?path=/")
        assert stat.json()["message"] == "instance must be running (current state: Unknown)"
    finally:
        deaf.discard(InstanceId(made.id))
