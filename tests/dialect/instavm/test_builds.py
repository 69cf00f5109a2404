"""Snapshots that are made of images (instavm.md §1.8, check 18)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dialect.instavm.conftest import Caller, Json, Served
from dialect.served import fresh, serving
from polyvisor.access.credentials import new_key
from polyvisor.model import faults
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import SYSTEM, Action

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def built(root: Caller, word: str, **body: Any) -> Json:
    """A snapshot of the tiny image, once its status is that."""
    made = await root.ok("POST /v1/snapshots", {"oci_image": "busybox", **body})
    assert made["status"] == "building"
    found: Json = await root.until(
        lambda: root.ok(f"GET /v1/snapshots/{made['id']}"), lambda told: told["status"] != "building"
    )
    assert found["status"] == word, found
    return found


async def test_one_is_made_and_used(root: Caller, served: Served) -> None:
    name = fresh("my/image:1")
    before = len(await root.ok("GET /v1/vms"))
    made = await built(root, "ready", name=name, build_args={"envs": {"BUILT": "in"}, "post_build_cmd": "echo done"})
    wanted = {"name": name, "type": "user", "oci_image": "busybox", "last_error": None, "is_public": False}
    assert made | wanted == made
    assert made["size_bytes"] > 0
    assert len(await root.ok("GET /v1/vms")) == before  # the VM that it was made in is gone
    listed = await root.ok("GET /v1/snapshots", type="user")
    assert [one for one in listed if one["name"] == name] == [made]
    vm = await root.vm(snapshot_id=made["id"], env={"MORE": "1"})
    guest = served.vm(vm["vm_id"].split("-")[1])._guest
    assert guest.env | {"BUILT": "in", "MORE": "1"} == guest.env
    assert (await root.ok(f"GET /v1/vms/{vm['vm_id']}"))["snapshot_id"] == made["id"]
    assert (await root.ok(f"DELETE /v1/snapshots/{made['id']}"))["status"] == "deleted"
    await root.refused(404, f"GET /v1/snapshots/{made['id']}")
    await root.refused(404, f"DELETE /v1/snapshots/{made['id']}")


async def test_one_that_cannot_be_made_says_why(root: Caller) -> None:
    vms = {one["vm_id"] for one in await root.ok("GET /v1/vms")}
    failed = await built(root, "failed", build_args={"post_build_cmd": "echo because >&2; exit 3"})
    assert "exit 3: because" in failed["last_error"]
    nowhere = await built(root, "failed", oci_image="nowhere/at:all")
    assert nowhere["last_error"]
    assert {one["vm_id"] for one in await root.ok("GET /v1/vms")} == vms
    await root.refused(409, "POST /v1/vms", {"snapshot_id": failed["id"]})
    await root.ok(f"DELETE /v1/snapshots/{failed['id']}")


async def test_one_that_is_being_made_is_given_up(root: Caller) -> None:
    made = await root.ok("POST /v1/snapshots", {"oci_image": "busybox", "build_args": {"post_build_cmd": "sleep 60"}})
    detail = await root.refused(409, "POST /v1/vms", {"snapshot_id": made["id"]})
    assert "building" in detail
    await root.ok(f"DELETE /v1/snapshots/{made['id']}")
    await root.refused(404, f"GET /v1/snapshots/{made['id']}")


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("oci_image", {}),
        ("oci_image", {"oci_image": ""}),
        ("vcpu_count", {"oci_image": "x", "vcpu_count": 9}),
        ("memory_mb", {"oci_image": "x", "memory_mb": 100}),
        ("type", {"oci_image": "x", "type": "other"}),
        ("build_args.disk_size_gb", {"oci_image": "x", "build_args": {"disk_size_gb": 17}}),
        ("build_args.extra_apt_packages", {"oci_image": "x", "build_args": {"extra_apt_packages": "a;b"}}),
        ("build_args.extra_pip_packages", {"oci_image": "x", "build_args": {"extra_pip_packages": "--index $(x)"}}),
        ("build_args.git_clone_url", {"oci_image": "x", "build_args": {"git_clone_url": "file:///etc"}}),
        ("build_args.envs", {"oci_image": "x", "build_args": {"envs": {"9": "x"}}}),
    ],
)
async def test_what_is_wrong_is_named(root: Caller, field: str, body: Json) -> None:
    before = len(await root.ok("GET /v1/snapshots"))
    await root.wrong(field, "POST /v1/snapshots", body)
    assert len(await root.ok("GET /v1/snapshots")) == before


async def test_those_of_everybody_are_the_operators(root: Caller, tenant: Caller) -> None:
    made = await built(root, "ready", type="system", name=fresh("cookbook"))
    assert (made["type"], made["is_public"]) == ("system", True)
    assert made["id"] in [one["id"] for one in await root.ok("GET /v1/snapshots", type="system")]
    assert made["id"] not in [one["id"] for one in await root.ok("GET /v1/snapshots", type="user")]
    await tenant.refused(403, "POST /v1/snapshots", {"oci_image": "busybox", "type": "system"})
    await tenant.refused(404, f"GET /v1/snapshots/{made['id']}")


async def test_a_server_that_ends_over_one(root: Caller, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("ended") / "data"
    async with serving(data) as first:
        caller = Caller(root.http, first.key)
        url = f"{first.url}/v1/snapshots"
        body = {"oci_image": "busybox", "build_args": {"post_build_cmd": "sleep 60"}}
        headers = {"X-API-Key": caller.key}
        made = (await root.http.post(url, json=body, headers=headers)).json()
        await root.until(
            lambda: root.http.get(f"{first.url}/v1/vms", headers=headers), lambda answer: len(answer.json()) == 1
        )
    async with serving(data) as second:
        headers = {"X-API-Key": second.key}

        async def asked() -> Any:
            return (await root.http.get(f"{second.url}/v1/snapshots/{made['id']}", headers=headers)).json()

        told = await root.until(asked, lambda told: told["status"] == "failed")
        assert told["last_error"]
        await root.until(
            lambda: root.http.get(f"{second.url}/v1/vms", headers=headers), lambda answer: answer.json() == []
        )


async def test_who_may_only_look_does_not_stop_one(root: Caller, served: Served) -> None:
    body = {"oci_image": "busybox", "build_args": {"post_build_cmd": "sleep 60"}}
    made = await root.ok("POST /v1/snapshots", body)
    viewer = Caller(root.http, await looking(served))
    assert (await viewer.ok(f"GET /v1/snapshots/{made['id']}"))["status"] == "building"
    await viewer.refused(403, f"DELETE /v1/snapshots/{made['id']}")
    await asyncio.sleep(0.1)
    assert (await root.ok(f"GET /v1/snapshots/{made['id']}"))["status"] == "building"
    assert made["id"] in [task.get_name().removeprefix("build ") for task in asyncio.all_tasks()]
    await root.ok(f"DELETE /v1/snapshots/{made['id']}")


async def looking(served: Served) -> str:
    """The key of somebody in the operator's project who may look and no more."""
    now = datetime.now(UTC)
    key, record = new_key("viewer", ProjectId(served.parts.facts["project"]), now)
    scopes = frozenset(one for one in Action if one.value.endswith(".view"))
    async with served.parts.store.write() as unit:
        await unit.identities.add_key(replace(record, scopes=scopes))
    return key


async def test_a_token_in_a_url_is_not_told(root: Caller) -> None:
    args = {"git_clone_url": "https://me:hunter2@nowhere.invalid/x"}
    failed = await built(root, "failed", build_args=args)
    assert "nowhere.invalid" in failed["last_error"]
    assert "hunter2" not in failed["last_error"]
    await root.wrong(
        "build_args.envs", "POST /v1/snapshots", {"oci_image": "busybox", "build_args": {"envs": {"": ""}}}
    )


async def test_nothing_is_left_of_a_disk_that_could_not_be_kept(
    root: Caller, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = served.parts.engine.snapshots
    had = {one.id for one in (await engine.list(SYSTEM, None, 1000)).items}

    async def settle(*_: object) -> Any:
        raise faults.TimedOut("too slow")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "settle", settle)
        failed = await built(root, "failed")
    await root.until(lambda: root.ask(f"DELETE /v1/snapshots/{failed['id']}"), lambda told: told.status_code == 200)
    assert {one.id for one in (await engine.list(SYSTEM, None, 1000)).items} <= had
