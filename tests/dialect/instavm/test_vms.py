"""VMs by HTTP alone: the seed's create with each of its fields, and what is done to a VM later (instavm.md §1.4)."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dialect.instavm.conftest import Caller, Served
from dialect.served import fresh
from polyvisor.model.ids import InstanceId

pytestmark = pytest.mark.asyncio(loop_scope="session")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
FIELDS = ["vm_id", "session_id", "status", "share", "custom_domain", "env_status", "env_error"]


def ours(vm: str) -> str:
    """The id of the instance behind a VM."""
    return vm.split("-")[1]


async def test_a_create_of_nothing(root: Caller, served: Served) -> None:
    answer = await root.ask("POST /v1/vms", {})
    made = answer.json()
    assert (answer.status_code, list(made)) == (200, FIELDS)
    assert UUID.fullmatch(made["session_id"])
    assert made | {"vm_id": 0, "session_id": 0} == {
        "vm_id": 0, "session_id": 0, "status": "active", "share": None, "custom_domain": None, "env_status": "none",
        "env_error": None,
    }  # fmt: skip
    instance = (await served.http.get(f"/api/v1/instances/{ours(made['vm_id'])}")).json()
    assert (instance["vcpus"], instance["memory"]) == (2, 512 << 20)
    told = await root.ok(f"GET /v1/vms/{made['vm_id']}")
    assert (told["session_id"], told["expires_at"]) == (made["session_id"], None)
    assert STAMP.fullmatch(told["created_at"])
    assert told["ssh_host"] == "vms.test"


async def test_every_field_that_stays(root: Caller, served: Served) -> None:
    volume = (await served.http.post("/api/v1/volumes", json={"name": fresh("v"), "size": "64M"})).json()
    made = await root.vm(
        vm_lifetime_seconds=3600, memory_mb=256, vcpu_count=1, metadata={"team": "a", "n": {"deep": [1, 2]}},
        env={"A": "1", "B": "two words"}, snapshot_on_terminate=True, snapshot_name="last", image_variant="standard",
        volumes=[{"volume_id": volume["id"], "mount_path": "/data", "mode": "ro"}], auto_suspend=False,
        auto_resume=True, session_id=None, snapshot_id=None, share=None, custom_domain=None, egress_policy=None,
        vault_ids=None, nonsense={"a": 1},
    )  # fmt: skip
    assert made["env_status"] == "applied"
    told = await root.ok(f"GET /v1/vms/{made['vm_id']}")
    wanted = {
        "memory_mb": 256, "vcpu_count": 1, "metadata": {"team": "a", "n": {"deep": [1, 2]}}, "auto_resume": True,
        "snapshot_on_terminate": True, "snapshot_name": "last", "auto_suspend": False, "image_variant": "standard",
    }  # fmt: skip
    assert told | wanted == told
    left = datetime.fromisoformat(told["expires_at"]).replace(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(seconds=3500) < left <= timedelta(seconds=3600)
    guest = served.vm(ours(made["vm_id"]))._guest
    assert guest.env | {"A": "1", "B": "two words"} == guest.env
    instance = (await served.http.get(f"/api/v1/instances/{ours(made['vm_id'])}")).json()
    assert [(one["volume"], one["path"], one["read_only"]) for one in instance["volumes"]] == [
        (volume["id"], "/data", True)
    ]
    assert instance["labels"]["team"] == "a"


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("vcpu_count", {"vcpu_count": "x"}),
        ("vcpu_count", {"vcpu_count": 0}),
        ("vcpu_count", {"vcpu_count": 1.5}),
        ("memory_mb", {"memory_mb": -1}),
        ("memory_mb", {"memory_mb": [512]}),
        ("vm_lifetime_seconds", {"vm_lifetime_seconds": 0}),
        ("metadata", {"metadata": "x"}),
        ("env", {"env": ["A"]}),
        ("env.A", {"env": {"A": 1}}),
        ("env", {"env": {"9": "x"}}),
        ("env.A", {"env": {"A": "a\0b"}}),
        ("egress_policy", {"egress_policy": "open"}),
        ("snapshot_on_terminate", {"snapshot_on_terminate": "perhaps"}),
        ("snapshot_name", {"snapshot_on_terminate": True, "snapshot_name": "a/b"}),
        ("share.port", {"share": {}}),
        ("share.port", {"share": {"port": 65536}}),
        ("custom_domain.domain", {"custom_domain": {}}),
        ("image_variant", {"image_variant": "computer-use"}),
        ("volumes", {"volumes": {}}),
        ("volumes.0.volume_id", {"volumes": [{"mount_path": "/x"}]}),
        ("volumes.0.mount_path", {"volumes": [{"volume_id": "x"}]}),
        ("volumes.0.volume_id", {"volumes": [{"volume_id": "nowhere", "mount_path": "/x"}]}),
        ("volumes.0.mode", {"volumes": [{"volume_id": "x", "mount_path": "/x", "mode": "wo"}]}),
        ("vault_ids.0", {"vault_ids": [1]}),
    ],
)
async def test_what_is_wrong_is_named_and_nothing_is_made(root: Caller, field: str, body: dict[str, object]) -> None:
    before = {one["vm_id"] for one in await root.ok("GET /v1/vms/")}
    await root.wrong(field, "POST /v1/vms", body)
    assert {one["vm_id"] for one in await root.ok("GET /v1/vms/")} == before


async def test_what_is_no_json(root: Caller) -> None:
    headers = {"X-API-Key": root.key, "Content-Type": "application/json"}
    answer = await root.http.post("/v1/vms", content=b"{", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"
    await root.wrong("wait", "POST /v1/vms", {}, place="query", wait="perhaps")


async def test_a_lifetime_beyond_the_limit_is_told_as_clients_read_it(root: Caller) -> None:
    detail = await root.refused(403, "POST /v1/vms", {"vm_lifetime_seconds": 10**9})
    assert detail == "VM lifetime cannot exceed 604800s"
    vm = await root.vm()
    assert await root.refused(403, f"PATCH /v1/vms/{vm['vm_id']}", {"vm_lifetime_seconds": 10**9}) == detail


async def test_nobody_waits_who_does_not_want_to(root: Caller) -> None:
    made = await root.ok("POST /v1/vms", {}, wait="false")
    assert made["status"] == "creating"
    assert made["session_id"]
    assert (await root.became(made["vm_id"], "active"))["session_id"] == made["session_id"]


async def test_lists_and_the_end_of_one(root: Caller) -> None:
    made = await root.vm(metadata={"k": fresh("v")})
    vm, session = made["vm_id"], made["session_id"]
    told = await root.ok(f"GET /v1/vms/{vm}")
    assert told in await root.ok("GET /v1/vms")
    assert told in await root.ok("GET /v1/vms/")
    assert await root.ok(f"DELETE /v1/vms/{vm}") == {"vm_id": vm, "session_id": session, "status": "terminated"}
    assert vm not in {one["vm_id"] for one in await root.ok("GET /v1/vms")}
    (dead,) = [one for one in await root.ok("GET /v1/vms/") if one["vm_id"] == vm]
    assert (dead["status"], dead["metadata"]) == ("terminated", told["metadata"])
    assert await root.ok(f"GET /v1/vms/{vm}") == dead
    status = await root.ok(f"GET /v1/sessions/status/{session}")
    assert (status["vm_status"], status["vm_alive"], status["vm_id"]) == ("killed", False, vm)
    assert status["expires_in_seconds"] == 0
    for line in (f"DELETE /v1/vms/{vm}", f"PATCH /v1/vms/{vm}", f"POST /v1/vms/{vm}/suspend"):
        assert vm in await root.refused(404, line, {})


async def test_what_another_api_made(root: Caller, served: Served) -> None:
    made = await served.make(labels={"from": "elsewhere"})
    (told,) = [one for one in await root.ok("GET /v1/vms") if ours(one["vm_id"]) == made["id"]]
    assert (told["status"], told["metadata"]) == ("active", {"from": "elsewhere"})
    assert UUID.fullmatch(told["session_id"])
    status = await root.ok(f"GET /v1/sessions/status/{told['session_id']}")
    assert (status["vm_status"], status["vm_id"]) == ("active", told["vm_id"])
    await served.http.post(f"/api/v1/instances/{made['id']}/stop", params={"wait": "launched"})
    assert (await root.became(told["vm_id"], "stopped"))["vm_id"] == told["vm_id"]
    await root.ok(f"DELETE /v1/vms/{told['vm_id']}")
    assert (await served.http.get(f"/api/v1/instances/{made['id']}")).status_code == 404
    assert await root.refused(404, f"GET /v1/vms/{told['vm_id']}")


async def test_one_that_another_api_ends(root: Caller, served: Served) -> None:
    made = await root.vm()
    await served.http.delete(f"/api/v1/instances/{ours(made['vm_id'])}", params={"force": "true", "wait": "launched"})
    found = await root.became(made["vm_id"], "terminated")
    assert found["session_id"] == made["session_id"]


async def test_it_is_changed(root: Caller, served: Served) -> None:
    vm = (await root.vm(metadata={"a": "1"}))["vm_id"]
    wanted = {"snapshot_on_terminate": True, "snapshot_name": fresh("kept"), "auto_suspend": False, "auto_resume": True}
    told = await root.ok(f"PATCH /v1/vms/{vm}", wanted | {"metadata": {"b": 2}, "vm_lifetime_seconds": 600})
    assert told | wanted | {"metadata": {"b": 2}} == told
    assert told["expires_at"]
    assert await root.ok(f"PATCH /v1/vms/{vm}", {}) == told
    assert (await served.http.get(f"/api/v1/instances/{ours(vm)}")).json()["labels"] == {"b": "2"}
    await root.wrong("memory_mb", f"PATCH /v1/vms/{vm}", {"memory_mb": 1024})
    await root.wrong("vcpu_count", f"PATCH /v1/vms/{vm}", {"vcpu_count": 4})
    assert await root.ok(f"PATCH /v1/vms/{vm}", {"memory_mb": 512, "vcpu_count": 2}) == told
    await root.ok(f"DELETE /v1/vms/{vm}")
    (kept,) = [one for one in await root.ok("GET /v1/snapshots") if one["name"] == wanted["snapshot_name"]]
    assert (kept["status"], kept["type"]) == ("ready", "user")


async def test_two_that_end_in_snapshots_of_one_name(root: Caller) -> None:
    name = fresh("last")
    vms = [(await root.vm(snapshot_on_terminate=True, snapshot_name=name))["vm_id"] for _ in range(2)]
    for vm in vms:
        await root.ok(f"DELETE /v1/vms/{vm}")
    kept = [one for one in await root.ok("GET /v1/snapshots") if one["name"] == name]
    assert [one["vm_id"] for one in kept] == vms
    assert await root.ok(f"GET /v1/snapshots/{kept[1]['id']}") == kept[1]


async def test_the_end_of_a_lifetime(root: Caller) -> None:
    made = await root.vm()
    await root.ok(f"PATCH /v1/vms/{made['vm_id']}", {"vm_lifetime_seconds": 1})
    found = await root.became(made["vm_id"], "terminated")
    assert found["session_id"] == made["session_id"]
    kept = await root.vm(auto_suspend=True)
    await root.ok(f"PATCH /v1/vms/{kept['vm_id']}", {"vm_lifetime_seconds": 1})
    await root.became(kept["vm_id"], "suspended")
    await root.until(lambda: root.ok(f"GET /v1/vms/{kept['vm_id']}"), lambda told: told["expires_at"] is None)
    await root.ok(f"PATCH /v1/vms/{kept['vm_id']}", {"vm_lifetime_seconds": 8})
    again = await root.ok(f"POST /v1/vms/{kept['vm_id']}/resume")
    assert again["status"] == "active"
    assert await root.became(again["vm_id"], "suspended")  # its whole lifetime once more


# -- copies ------------------------------------------------------------------------------------------------------------


async def test_snapshots_and_what_is_made_of_them(root: Caller) -> None:
    vm = (await root.vm(metadata={"a": 1}))["vm_id"]
    name = fresh("any name, also twice")
    taken = [await root.ok(f"POST /v1/vms/{vm}/snapshot", {"name": name}) for _ in range(2)]
    assert {one["status"] for one in taken} == {"ready"}
    assert {one["name"] for one in taken} == {name}
    first, second = (one["snapshot_id"] for one in taken)
    assert first != second
    assert await root.ok(f"GET /v1/snapshots/{first}") == taken[0]
    assert taken[0] in await root.ok("GET /v1/snapshots", type="user")
    assert taken[0] not in await root.ok("GET /v1/snapshots", type="system")
    unnamed = await root.ok(f"POST /v1/vms/{vm}/snapshot")
    copy = await root.vm(snapshot_id=first, env={"NEW": "1"})
    assert (copy["env_status"], copy["session_id"] != "") == ("applied", True)
    assert (await root.ok(f"GET /v1/vms/{copy['vm_id']}"))["snapshot_id"] == first
    await root.ok(f"DELETE /v1/vms/{vm}")
    assert (await root.ok(f"DELETE /v1/snapshots/{first}"))["status"] == "deleted"
    await root.refused(404, f"GET /v1/snapshots/{first}")
    await root.refused(404, f"DELETE /v1/snapshots/{first}")
    await root.refused(404, "POST /v1/vms", {"snapshot_id": first})
    for variant in ("none", "other"):
        await root.wrong("image_variant", "POST /v1/vms", {"snapshot_id": second, "image_variant": variant})
    agreed = await root.vm(snapshot_id=second, image_variant="standard")
    assert (await root.ok(f"GET /v1/vms/{agreed['vm_id']}"))["image_variant"] == "standard"
    await root.vm(snapshot_id=unnamed["id"])


async def test_a_clone(root: Caller, served: Served) -> None:
    made = await root.vm(metadata={"a": 1}, vm_lifetime_seconds=900)
    for body, deleted in ((None, True), ({}, True), ({"snapshot_name": fresh("kept")}, False)):
        copy = await root.ok(f"POST /v1/vms/{made['vm_id']}/clone", body)
        assert copy["vm_id"] != made["vm_id"]
        assert copy["session_id"] != made["session_id"]
        assert (copy["status"], copy["snapshot_deleted"]) == ("active", deleted)
        assert (copy["snapshot_id"] is None) is deleted
        told = await root.ok(f"GET /v1/vms/{copy['vm_id']}")
        assert told["metadata"] == {"a": 1}
        assert told["expires_at"]
        status = await root.ok(f"GET /v1/sessions/status/{copy['session_id']}")
        assert status["vm_id"] == copy["vm_id"]
    later = await root.ok(f"POST /v1/vms/{made['vm_id']}/clone", {}, wait="false")
    assert later["status"] == "creating"
    await root.became(later["vm_id"], "active")
    await root.refused(404, "POST /v1/vms/vmid-nothing/clone", {})


# -- standby -----------------------------------------------------------------------------------------------------------


async def test_it_is_suspended_and_goes_on_under_another_name(root: Caller, served: Served) -> None:
    made = await root.vm()
    vm, session = made["vm_id"], made["session_id"]
    assert (await root.ok(f"POST /v1/vms/{vm}/suspend"))["status"] in ("suspending", "suspended")
    await root.became(vm, "suspended")
    assert vm not in {one["vm_id"] for one in await root.ok("GET /v1/vms")}
    assert vm in {one["vm_id"] for one in await root.ok("GET /v1/vms/")}
    again = await root.ok(f"POST /v1/vms/{vm}/resume")
    assert (again["status"], again["session_id"]) == ("active", session)
    assert again["vm_id"] != vm
    assert (await root.ok(f"GET /v1/vms/{vm}"))["vm_id"] == again["vm_id"]  # an old name leads there as well
    assert (await root.ok(f"GET /v1/sessions/status/{session}"))["vm_id"] == again["vm_id"]
    assert (await root.ok(f"POST /v1/vms/{again['vm_id']}/resume"))["vm_id"] == again["vm_id"]  # it runs
    async with served.parts.store.read() as unit:
        aliases = await unit.foreigners.aliases("instavm", "vm", [InstanceId(ours(vm))])
    assert aliases == {ours(vm): again["vm_id"]}


# -- tenants -----------------------------------------------------------------------------------------------------------


async def test_nobody_sees_what_is_anothers(root: Caller, tenant: Caller) -> None:
    made = await root.vm()
    vm, session = made["vm_id"], made["session_id"]
    snap = (await root.ok(f"POST /v1/vms/{vm}/snapshot"))["id"]
    assert await tenant.ok("GET /v1/vms/") == []
    for line in (
        f"GET /v1/vms/{vm}", f"PATCH /v1/vms/{vm}", f"DELETE /v1/vms/{vm}", f"POST /v1/vms/{vm}/clone",
        f"POST /v1/vms/{vm}/snapshot", f"POST /v1/vms/{vm}/suspend", f"POST /v1/vms/{vm}/resume",
        f"GET /v1/sessions/status/{session}", f"GET /v1/sessions/session/{session}", f"GET /v1/snapshots/{snap}",
        f"DELETE /v1/snapshots/{snap}", f"GET /v1/vms/{vm}/pty/sessions", f"GET /v1/sessions/usage/{session}",
    ):  # fmt: skip
        await tenant.refused(404, line, {} if line.startswith(("P", "D")) else None)
    await tenant.refused(404, "POST /v1/vms", {"session_id": session})
    await tenant.refused(404, "POST /v1/vms", {"snapshot_id": snap})
    await tenant.refused(404, "POST /kill", {"session_id": session})
    entries = [{"env_name": "A", "value": "1"}]
    await tenant.refused(404, f"POST /v1/vms/{vm}/stage-env", {"entries": entries})
    assert (await root.ok(f"GET /v1/vms/{vm}"))["status"] == "active"


async def test_a_quota_is_told_with_429(served: Served, root: Caller) -> None:
    small = Caller(root.http, await served.stranger(instances=2))
    answers = await asyncio.gather(*(small.ask("POST /v1/vms", {}) for _ in range(6)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 429, 429, 429, 429]
    for answer in answers:
        if answer.status_code == 429:
            assert isinstance(answer.json()["detail"], str)
            assert int(answer.headers["Retry-After"]) > 0
    assert len(await small.ok("GET /v1/vms/")) == 2


async def test_a_hundred_at_once(served: Served, root: Caller) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=280) as http:
        await a_hundred(Caller(http, root.key))


async def a_hundred(root: Caller) -> None:
    """All of them are made, or told why not."""
    answers = await asyncio.gather(*(root.ask("POST /v1/vms", {"metadata": {"crowd": 1}}) for _ in range(100)))
    for answer in answers:
        assert answer.status_code in (200, 429), answer.text
        assert isinstance(answer.json(), dict)
    made = [answer.json() for answer in answers if answer.status_code == 200]
    assert {one["status"] for one in made} == {"active"}
    assert len({one["vm_id"] for one in made}) == len({one["session_id"] for one in made}) == len(made) == 100
    await asyncio.gather(*(root.ok(f"DELETE /v1/vms/{one['vm_id']}") for one in made))
