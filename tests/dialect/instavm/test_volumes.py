"""Volumes, by upstream's client and by HTTP (instavm.md §1.9, check 19)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from instavm import InstaVM, InstaVMError

from dialect.instavm.conftest import Caller, Served
from dialect.instavm.test_code import away, sdk, trusting
from dialect.served import fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")
__all__ = ["sdk", "trusting"]  # fixtures
SIZE = 64 << 20


async def test_its_life(root: Caller) -> None:
    name = fresh("any name")
    made = await root.ok("POST /v1/volumes", {"name": name, "quota_bytes": SIZE})
    assert made | {"name": name, "quota_bytes": SIZE, "status": "available"} == made
    id = made["id"]
    assert (await root.ok(f"GET /v1/volumes/{id}", refresh_usage="true"))["used_bytes"] == 0
    assert id in [one["id"] for one in await root.ok("GET /v1/volumes", refresh_usage="false")]
    grown = await root.ok(f"PATCH /v1/volumes/{id}", {"name": "other", "quota_bytes": 2 * SIZE})
    assert (grown["name"], grown["quota_bytes"]) == ("other", 2 * SIZE)
    await root.wrong("quota_bytes", f"PATCH /v1/volumes/{id}", {"quota_bytes": SIZE})
    await root.wrong("quota_bytes", "POST /v1/volumes", {"name": fresh("v"), "quota_bytes": 1})
    await root.wrong("quota_bytes", "POST /v1/volumes", {"name": fresh("v")})
    await root.wrong("name", "POST /v1/volumes", {"name": "", "quota_bytes": SIZE})
    assert (await root.ok(f"DELETE /v1/volumes/{id}"))["status"] == "deleted"
    for line in (f"GET /v1/volumes/{id}", f"DELETE /v1/volumes/{id}", f"GET /v1/volumes/{id}/files"):
        await root.refused(404, line)


async def test_files_and_checkpoints_by_the_sdk(sdk: InstaVM, tmp_path: Path, trusting: None) -> None:
    volume = (await away(lambda: sdk.volumes.create(fresh("v"), SIZE)))["id"]
    data = os.urandom(100_000)
    (tmp_path / "a").write_bytes(data)
    await away(lambda: sdk.volumes.upload_file(volume, str(tmp_path / "a"), "in/a.bin"))
    with pytest.raises(InstaVMError, match="422"):
        await away(lambda: sdk.volumes.upload_file(volume, str(tmp_path / "a"), "in/a.bin"))
    await away(lambda: sdk.volumes.upload_file(volume, str(tmp_path / "a"), "/b", overwrite=True))
    listed = await away(lambda: sdk.volumes.list_files(volume))
    assert {(one["path"], one["size"]) for one in listed} == {("in/a.bin", 100_000), ("b", 100_000)}
    assert [one["path"] for one in await away(lambda: sdk.volumes.list_files(volume, prefix="in/"))] == ["in/a.bin"]
    shallow = await away(lambda: sdk.volumes.list_files(volume, recursive=False))
    assert {one["path"] for one in shallow} == {"in", "b"}
    await away(lambda: sdk.volumes.download_file(volume, "in/a.bin", str(tmp_path / "back")))
    assert (tmp_path / "back").read_bytes() == data
    assert (await away(lambda: sdk.volumes.get(volume, refresh_usage=True)))["used_bytes"] == 200_000

    point = await away(lambda: sdk.volumes.create_checkpoint(volume, name="before"))
    assert (point["name"], point["status"]) == ("before", "ready")
    await away(lambda: sdk.volumes.delete_file(volume, "b"))
    assert [one["id"] for one in await away(lambda: sdk.volumes.list_checkpoints(volume))] == [point["id"]]
    assert point["id"].removeprefix("ckpt_") not in str(await away(sdk.volumes.list))
    vm = await away(lambda: sdk.vms.create(
        volumes=[{"volume_id": volume, "mount_path": "/old", "mode": "ro", "checkpoint_id": point["id"]}]
    ))  # fmt: skip
    (mounted,) = await away(lambda: sdk.vms.list_volumes(vm["vm_id"]))
    assert (mounted["volume_id"], mounted["checkpoint_id"], mounted["mode"]) == (volume, point["id"], "ro")
    with pytest.raises(Exception, match="409"):
        await away(lambda: sdk.volumes.delete_checkpoint(volume, point["id"]))
    with pytest.raises(Exception, match="409"):
        await away(lambda: sdk.volumes.delete(volume))
    await away(lambda: sdk.vms.unmount_volume(vm["vm_id"], volume, "/old"))
    second = await away(lambda: sdk.volumes.create_checkpoint(volume))
    await away(lambda: sdk.volumes.delete_checkpoint(volume, second["id"]))
    await away(lambda: sdk.volumes.delete(volume))


async def test_in_a_vm_that_runs(root: Caller, served: Served) -> None:
    volume = (await root.ok("POST /v1/volumes", {"name": fresh("v"), "quota_bytes": SIZE}))["id"]
    vm = (await root.vm())["vm_id"]
    path = f"/v1/vms/{vm}/volumes"
    told = await root.ok(f"POST {path}", {"volume_id": volume, "mount_path": "/data"})
    assert told | {"volume_id": volume, "mount_path": "/data", "mode": "rw", "checkpoint_id": None} == told
    assert [one | {"vm_id": vm} for one in await root.ok(f"GET {path}")] == [told]
    assert (await root.ok(f"GET /v1/volumes/{volume}"))["status"] == "mounted"
    await root.refused(409, f"DELETE /v1/volumes/{volume}")
    await root.refused(404, f"DELETE {path}/{volume}", mount_path="/elsewhere")
    await root.ok(f"DELETE {path}/{volume}", mount_path="/data")
    assert await root.ok(f"GET {path}") == []
    await root.wrong("mount_path", f"POST {path}", {"volume_id": volume, "mount_path": "data"})
    await root.wrong("volume_id", f"POST {path}", {"volume_id": "vol_none", "mount_path": "/data"})
    body = {"volume_id": volume, "mount_path": "/data", "checkpoint_id": "ckpt_none", "mode": "ro"}
    await root.wrong("checkpoint_id", f"POST {path}", body)
    await root.ok(f"POST /v1/volumes/{volume}/checkpoints", {})
    await root.wrong("checkpoint_id", f"POST {path}", body | {"checkpoint_id": "latest", "mode": "rw"})
    latest = await root.ok(f"POST {path}", body | {"checkpoint_id": "latest"})
    assert latest["checkpoint_id"].startswith("ckpt_")


async def test_nobody_else_has_them(root: Caller, tenant: Caller) -> None:
    volume = (await root.ok("POST /v1/volumes", {"name": fresh("v"), "quota_bytes": SIZE}))["id"]
    assert await tenant.ok("GET /v1/volumes") == []
    for line in (
        f"GET /v1/volumes/{volume}", f"PATCH /v1/volumes/{volume}", f"DELETE /v1/volumes/{volume}",
        f"GET /v1/volumes/{volume}/files", f"POST /v1/volumes/{volume}/checkpoints",
        f"GET /v1/volumes/{volume}/checkpoints",
    ):  # fmt: skip
        await tenant.refused(404, line, {} if line.startswith("P") else None)
    await tenant.refused(404, f"POST /v1/volumes/{volume}/files/download", {"path": "a"})
    await tenant.refused(404, f"DELETE /v1/volumes/{volume}/files", path="a")
    await tenant.wrong("volumes.0.volume_id", "POST /v1/vms", {"volumes": [{"volume_id": volume, "mount_path": "/d"}]})


async def test_a_change_of_name_and_room_is_all_or_nothing(root: Caller) -> None:
    taken, name = fresh("taken / "), fresh("mine")
    await root.ok("POST /v1/volumes", {"name": taken, "quota_bytes": 64 << 20})
    volume = await root.ok("POST /v1/volumes", {"name": name, "quota_bytes": 64 << 20})
    line = f"PATCH /v1/volumes/{volume['id']}"
    assert "name" in await root.refused(409, line, {"name": taken, "quota_bytes": 128 << 20})
    await root.wrong("name", line, {"name": "a\nb", "quota_bytes": 128 << 20})
    await root.wrong("quota_bytes", line, {"name": fresh("other"), "quota_bytes": 1})
    assert await root.ok(f"GET /v1/volumes/{volume['id']}") == volume
    changed = await root.ok(line, {"name": "both", "quota_bytes": 128 << 20})
    assert (changed["name"], changed["quota_bytes"]) == ("both", 128 << 20)


async def test_a_checkpoint_is_no_volume_of_its_own(root: Caller) -> None:
    volume = (await root.ok("POST /v1/volumes", {"name": fresh("v"), "quota_bytes": 64 << 20}))["id"]
    point = await root.ok(f"POST /v1/volumes/{volume}/checkpoints", {"name": "c"})
    copy = point["id"].replace("ckpt_", "vol_")
    for line in (f"GET /v1/volumes/{copy}", f"DELETE /v1/volumes/{copy}"):
        await root.refused(404, line)
    assert await root.ok(f"GET /v1/volumes/{volume}/checkpoints") == [point]


async def test_a_new_vm_names_its_volumes(root: Caller, tenant: Caller) -> None:
    """As `instavm deploy` does, which knows no ids."""
    name = fresh("cache")
    mount = {"name": name, "mount_path": "/cache", "mode": "rw"}
    await root.wrong("volumes.0.name", "POST /v1/vms", {"volumes": [mount]})
    await root.wrong("volumes.0.volume_id", "POST /v1/vms", {"volumes": [{"mount_path": "/cache"}]})
    wanted = mount | {"size_gb": 2, "create_if_missing": True}
    await root.wrong("volumes.1.name", "POST /v1/vms", {"volumes": [wanted, mount | {"name": f"{name}-none"}]})
    await root.wrong("volumes.0.size_gb", "POST /v1/vms", {"volumes": [wanted | {"size_gb": 0}]})
    assert name not in [one["name"] for one in await root.ok("GET /v1/volumes")]  # nothing is left of these
    first = await root.vm(volumes=[wanted])
    (volume,) = [one for one in await root.ok("GET /v1/volumes") if one["name"] == name]
    assert volume["quota_bytes"] == 2 * 1024**3
    assert [one["volume_id"] for one in await root.ok(f"GET /v1/vms/{first['vm_id']}/volumes")] == [volume["id"]]
    await root.ok(f"DELETE /v1/vms/{first['vm_id']}")
    await root.vm(volumes=[mount])  # the one that there is
    await tenant.wrong("volumes.0.name", "POST /v1/vms", {"volumes": [mount]})
