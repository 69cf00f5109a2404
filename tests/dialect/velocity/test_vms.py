"""`/v`: machines that were made elsewhere are listed, asked for their state and told another one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dialect.served import Served, fresh
from dialect.velocity.conftest import Caller
from polyvisor.dialects.velocity.states import WORDS, Ask, ask_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = 999_999


async def machine(served: Served, gid: int, **fields: Any) -> tuple[int, str]:
    """The number and the name of a machine of that group, made through another dialect."""
    project = next(one.id for one in await served.parts.engine.projects.tree() if one.number == gid)
    body = {"image": "busybox", "name": fresh("vm"), "vcpus": 2, "memory": "256M", **fields}
    made = await served.http.post("/api/v1/instances?wait=ready", json=body, headers={"X-Project": project})
    assert made.status_code == 201, made.text
    async with served.parts.store.read() as unit:
        return (await unit.instances.get(made.json()["id"])).number, body["name"]


async def until(caller: Caller, vmid: int, state: str) -> None:
    """Until it is in that state."""
    async with asyncio.timeout(20):
        while (await caller.ok("POST /v/vm/state", vmid=vmid))["state"] != state:
            await asyncio.sleep(0.02)


async def test_a_groups_own_machines_are_listed(served: Served, root: Caller) -> None:
    above = await root.group()
    below = await root.group(above)
    first, second = await machine(served, above), await machine(served, above, power="off")
    await machine(served, below)
    assert await root.ok("POST /v/vm/list", gid=above) == {
        "vms": [
            {"vmid": first[0], "name": first[1], "cpus": 2, "memory_mib": 256, "state": "RUNNING"},
            {"vmid": second[0], "name": second[1], "cpus": 2, "memory_mib": 256, "state": "STOPPED"},
        ]
    }
    assert await root.ok("POST /v/vm/list", gid=str(above), authkey="left from before") is not None
    viewer = await root.user((above, "vm.view"))
    assert len((await viewer.ok("POST /v/vm/list", gid=below))["vms"]) == 1  # permissions hold below
    nobody = await root.user((below, "group.view"))
    await nobody.refused(17200, 401, "POST /v/vm/list", gid=above)
    await nobody.refused(17210, 404, "POST /v/vm/list", gid=NOBODY)


async def test_states_are_asked_for_and_changed(served: Served, root: Caller) -> None:
    gid = await root.group()
    vmid, _ = await machine(served, gid)
    user = await root.user((gid, "vm.view"), (gid, "vm.state"))
    assert await user.ok("POST /v/vm/state", vmid=vmid) == {"vmid": vmid, "state": "RUNNING"}
    for wanted, first in (("PAUSED", {"PAUSING", "PAUSED"}), ("RUNNING", {"RESUMING", "RUNNING"})):
        for _ in range(2):
            said = await user.ok("PUT /v/vm/state", vmid=vmid, state=wanted)
            assert said["state"] in first
            await until(user, vmid, wanted)
    assert (await user.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True))["state"] in (
        "STOPPING",
        "STOPPED",
    )
    await until(user, vmid, "STOPPED")
    assert await user.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED") == {"vmid": vmid, "state": "STOPPED"}
    await user.refused(13220, 406, "PUT /v/vm/state", vmid=vmid, state="PAUSED")
    assert (await user.ok("PUT /v/vm/state", vmid=vmid, state="RUNNING", force=True))["state"] in (
        "STARTING",
        "RUNNING",
    )
    await until(user, vmid, "RUNNING")


async def test_a_paused_machine_hears_no_button_and_dies_by_force(served: Served, root: Caller) -> None:
    vmid, _ = await machine(served, await root.group())
    await root.ok("PUT /v/vm/state", vmid=vmid, state="PAUSED")
    await until(root, vmid, "PAUSED")
    await root.refused(13221, 500, "PUT /v/vm/state", vmid=vmid, state="STOPPED")
    await root.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)
    await until(root, vmid, "STOPPED")


async def test_a_graceful_stop_is_the_button(served: Served, root: Caller) -> None:
    vmid, _ = await machine(served, await root.group())
    said = await root.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=False)
    assert said["state"] in ("RUNNING", "STOPPED")  # the guest obeys when it likes
    await until(root, vmid, "STOPPED")


async def test_refusals_about_states(served: Served, root: Caller) -> None:
    gid = await root.group()
    vmid, _ = await machine(served, gid, power="off")
    viewer, nobody = await root.user((gid, "vm.view")), await root.user((gid, "group.view"))
    await nobody.refused(13100, 403, "POST /v/vm/state", vmid=vmid)
    await viewer.refused(13110, 404, "POST /v/vm/state", vmid=NOBODY)
    await viewer.refused(13200, 403, "PUT /v/vm/state", vmid=vmid, state="RUNNING")
    await viewer.refused(13210, 404, "PUT /v/vm/state", vmid=NOBODY, state="RUNNING")
    for state in ("STARTING", "running", "", 5):
        answer = await root.ask("PUT /v/vm/state", vmid=vmid, state=state)
        assert (answer.status_code, "state" in answer.json()["reason"]) == (400, True)
    answer = await root.ask("PUT /v/vm/state", vmid=vmid, state="RUNNING", force="yes")
    assert (answer.status_code, "force" in answer.json()["reason"]) == (400, True)


async def test_a_stopped_machine_is_removed(served: Served, root: Caller) -> None:
    gid = await root.group()
    vmid, _ = await machine(served, gid)
    viewer = await root.user((gid, "vm.view"))
    await viewer.refused(16300, 403, "DELETE /v/vm", vmid=vmid)
    await root.refused(16320, 409, "DELETE /v/vm", vmid=vmid)
    await root.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)
    await until(root, vmid, "STOPPED")
    assert await root.ok("DELETE /v/vm", vmid=vmid) is None
    await root.refused(16310, 404, "DELETE /v/vm", vmid=NOBODY)


@pytest.mark.parametrize("word", sorted(set(WORDS.values())))
@pytest.mark.parametrize("wanted", ["RUNNING", "PAUSED", "STOPPED"])
@pytest.mark.parametrize("force", [True, False])
async def test_the_table_of_states(word: str, wanted: str, force: bool) -> None:
    """velocity.md §2, with force as decided: it ends a machine from every state."""
    told = {
        ("STOPPED", "RUNNING"): Ask.START, ("RUNNING", "RUNNING"): Ask.NOTHING, ("PAUSED", "RUNNING"): Ask.RESUME,
        ("RUNNING", "PAUSED"): Ask.PAUSE, ("PAUSED", "PAUSED"): Ask.NOTHING, ("STOPPED", "STOPPED"): Ask.NOTHING,
        ("RUNNING", "STOPPED"): Ask.PRESS, ("PAUSED", "STOPPED"): Ask.FAIL, ("ERROR", "RUNNING"): Ask.START,
        ("ERROR", "STOPPED"): Ask.NOTHING,
    }  # fmt: skip
    expected = told.get((word, wanted), Ask.REFUSE)
    if force and wanted == "STOPPED" and word not in ("STOPPED", "ERROR"):
        expected = Ask.KILL
    assert ask_of(word, wanted, force=force) is expected
