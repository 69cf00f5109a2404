"""`PUT /v/vm/efi` and `POST /v/vm`: machines with media, and what each field says back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dialect.served import Served, fresh
from dialect.velocity.conftest import Caller
from dialect.velocity.test_media import MIB, managed
from dialect.velocity.test_vms import machine, until

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = 999_999
DISPLAY = {"name": "main", "width": 1024, "height": 768, "ppi": 80}


async def medium(root: Caller, gid: int, **fields: Any) -> str:
    """The MID of a new medium."""
    wanted = {"mpid": 0, "gid": gid, "name": fresh("m"), "type": "DISK", "size": MIB} | fields
    return str((await root.ok("PUT /m/media/create", **wanted))["mid"])


def wish(gid: int, **fields: Any) -> dict[str, Any]:
    """A request for a small machine."""
    return {
        "name": fresh("vm"), "gid": gid, "cpus": 1, "memory_mib": 256, "displays": [], "media": [], "nics": [],
        "rosetta": False, "autostart": False,
    } | fields  # fmt: skip


async def test_a_machine_has_what_it_was_given(served: Served, root: Caller) -> None:
    gid = await managed(root)
    iso, disk = await medium(root, gid, type="ISO"), await medium(root, gid)
    asked = wish(
        gid, name="Näme with spaces", cpus=2, displays=[DISPLAY, {**DISPLAY, "name": "second"}], nics=[{"type": "NAT"}],
        media=[{"mid": iso, "mode": "USB", "readonly": True}, {"mid": disk, "mode": "BLOCK", "readonly": False}],
        rosetta=True, autostart=True,
    )  # fmt: skip
    made = await root.ok("PUT /v/vm/efi", **asked)
    assert set(made) == {"vmid"}
    vmid = made["vmid"]
    told = {name: value for name, value in asked.items() if name != "gid"}
    assert await root.ok("POST /v/vm", vmid=vmid) == {"vmid": vmid, "type": "EFI", "state": "STOPPED", **told}
    assert (await root.ok("POST /v/vm/list", gid=gid))["vms"][0]["name"] == "Näme with spaces"
    await root.refused(18320, 409, "DELETE /m/media", mid=disk)
    await root.ok("PUT /v/vm/state", vmid=vmid, state="RUNNING")
    await until(root, vmid, "RUNNING")
    await root.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)
    await until(root, vmid, "STOPPED")
    await root.ok("DELETE /v/vm", vmid=vmid)
    async with asyncio.timeout(20):
        while (await root.ask("POST /v/vm", vmid=vmid)).status_code != 404:
            await asyncio.sleep(0.02)
    await root.ok("DELETE /m/media", mid=disk)  # media outlive machines


async def test_media_are_called_disks_too_and_displays_described(root: Caller) -> None:
    gid = await managed(root)
    mid = await medium(root, gid)
    asked = wish(gid, disks=[{"mid": mid, "mode": "VIRTIO", "readonly": False}])
    asked["displays"] = [{"description": "one", "width": 800, "height": 600, "ppi": 72}]
    del asked["media"]
    vmid = (await root.ok("PUT /v/vm/efi", **asked))["vmid"]
    told = await root.ok("POST /v/vm", vmid=vmid)
    assert [one["mid"] for one in told["media"]] == [mid]
    assert told["displays"] == [{"name": "one", "width": 800, "height": 600, "ppi": 72}]


async def test_a_medium_is_read_only_for_any_of_three_reasons(root: Caller) -> None:
    gid = await managed(root)
    mid = await medium(root, gid)
    for readonly, write, expected in ((True, True, True), (False, True, False), (False, False, True)):
        await root.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=write, manage=True)
        media = [{"mid": mid, "mode": "VIRTIO", "readonly": readonly}]
        vmid = (await root.ok("PUT /v/vm/efi", **wish(gid, media=media)))["vmid"]
        await until(root, vmid, "STOPPED")
        assert (await root.ok("POST /v/vm", vmid=vmid))["media"][0]["readonly"] is expected
        await root.ok("DELETE /v/vm", vmid=vmid)
        async with asyncio.timeout(20):
            while (await root.ask("POST /v/vm", vmid=vmid)).status_code != 404:
                await asyncio.sleep(0.02)


async def test_refusals_in_their_order(root: Caller) -> None:
    gid = await managed(root)
    mid = await medium(root, gid)
    user = await root.user((gid, "vm.view"))
    bad_nic, bad_mode = [{"type": "TOKENRING"}], [{"mid": mid, "mode": "FLOPPY", "readonly": False}]
    everything: dict[str, Any] = {"nics": bad_nic, "media": bad_mode, "displays": [DISPLAY, DISPLAY], "cpus": 10**6}
    await root.refused(12210, 404, "PUT /v/vm/efi", **wish(NOBODY, **everything))
    await user.refused(12200, 401, "PUT /v/vm/efi", **wish(gid, **everything))
    named = wish(gid)
    await root.ok("PUT /v/vm/efi", **named)
    await root.refused(12223, 409, "PUT /v/vm/efi", **{**wish(gid, **everything), "name": named["name"]})
    await root.refused(12226, 406, "PUT /v/vm/efi", **wish(gid, **everything))
    await root.refused(12227, 406, "PUT /v/vm/efi", **wish(gid, **{**everything, "nics": [{"type": "BRIDGE"}]}))
    await root.refused(12214, 404, "PUT /v/vm/efi", **wish(gid, nics=[{"type": "BRIDGE", "host": NOBODY}]))
    everything["nics"] = []
    await root.refused(12225, 406, "PUT /v/vm/efi", **wish(gid, **everything))
    everything["media"] = [{"mid": "nonesuch", "mode": "USB", "readonly": True}]
    await root.refused(12211, 404, "PUT /v/vm/efi", **wish(gid, **everything))
    everything["media"] = []
    await root.refused(12224, 409, "PUT /v/vm/efi", **wish(gid, **everything))
    everything["displays"] = []
    await root.refused(12220, 406, "PUT /v/vm/efi", **wish(gid, **everything))
    await root.refused(12221, 406, "PUT /v/vm/efi", **wish(gid, memory_mib=1))
    for field, value in (("name", ""), ("displays", [{**DISPLAY, "width": 0}]), ("autostart", "yes"), ("cpus", None)):
        answer = await root.ask("PUT /v/vm/efi", **wish(gid, **{field: value}))
        assert (answer.status_code, answer.json()["error"]) == (400, True), field
    assert len((await root.ok("POST /v/vm/list", gid=gid))["vms"]) == 1


async def test_quotas_of_the_group_hold(served: Served, root: Caller) -> None:
    gid = await managed(root)
    project = next(one.id for one in await served.parts.engine.projects.tree() if one.number == gid)
    for quota, code in (({"vcpus": 1}, 12220), ({"memory": "300M"}, 12221), ({"instances": 1}, 12222)):
        body = {"quotas": {"vcpus": 0, "memory": 0, "instances": 0} | quota}
        assert (await served.http.patch(f"/api/v1/projects/{project}", json=body)).status_code == 200
        vmid = (await root.ok("PUT /v/vm/efi", **wish(gid)))["vmid"]
        await root.refused(code, 406, "PUT /v/vm/efi", **wish(gid))
        await until(root, vmid, "STOPPED")
        await root.ok("DELETE /v/vm", vmid=vmid)
        async with asyncio.timeout(20):
            while (await root.ask("POST /v/vm", vmid=vmid)).status_code != 404:
                await asyncio.sleep(0.02)


async def test_machines_of_other_dialects_are_seen_in_full_and_strangers_see_none(served: Served, root: Caller) -> None:
    gid = await root.group()
    vmid, name = await machine(served, gid)
    assert await root.ok("POST /v/vm", vmid=vmid, authkey="left from before") == {
        "vmid": vmid, "name": name, "type": "EFI", "state": "RUNNING", "cpus": 2, "memory_mib": 256, "displays": [],
        "media": [], "nics": [{"type": "NAT"}], "rosetta": False, "autostart": False,
    }  # fmt: skip
    user = await root.user((gid, "group.view"))
    await user.refused(16210, 404, "POST /v/vm", vmid=vmid)
    await root.refused(16210, 404, "POST /v/vm", vmid=NOBODY)
    await user.refused(11100, 403, "POST /v/nic/list")
    assert await root.ok("POST /v/nic/list") == {"host_nics": []}
