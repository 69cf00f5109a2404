"""Images and volumes by upstream's client."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, ConflictError, NotFoundError

from dialect.hypeman.making import IMAGE, make
from dialect.served import Served, fresh

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_image_is_fetched_and_found_by_every_way_to_write_its_name(
    sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    raw = await http.post("/images", json={"name": "busybox", "tags": {"k": "v"}})
    assert raw.status_code == 202
    assert raw.json()["name"] == IMAGE and raw.json()["status"] == "ready"
    assert raw.json()["digest"].startswith("sha256:")
    for name in ("busybox", IMAGE, "docker.io/library/busybox", "library/busybox:latest", raw.json()["digest"]):
        found = await sdk.images.get(name)
        assert (found.digest, found.platform) == (raw.json()["digest"], "linux/amd64")
    escaped = await http.get("/images/docker.io%2Flibrary%2Fbusybox%3Alatest")
    assert (escaped.status_code, escaped.json()["tags"]) == (200, {"k": "v"})
    assert IMAGE in [one.name for one in await sdk.images.list(tags={"k": "v"})]
    assert await sdk.images.list(tags={"k": "w"}) == []


async def test_an_image_gets_other_names(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    name = f"registry.example/{fresh('team')}/app:1"
    await sdk.images.create(name=name)
    other = fresh("mine")
    tagged = await sdk.images.tag(name, target=f"{other}:v1")
    assert tagged.name == f"docker.io/library/{other}:v1"
    assert (await sdk.images.get(f"{other}:v1")).digest == (await sdk.images.get(name)).digest
    made = await make(sdk, image=f"{other}:v1")
    assert made.image == f"{other}:v1"
    await sdk.images.delete(name)
    with pytest.raises(NotFoundError):
        await sdk.images.get(name)
    for bad, status in (("UPPER", 400), (f"{other}@sha256:" + "a" * 64, 400), ("busybox", 409)):
        answer = await http.post(f"/images/{other}:v1/tag", json={"target": bad})
        assert answer.status_code == status, answer.text
    assert (await http.post("/images/nothing/tag", json={"target": "x"})).status_code == 404
    with pytest.raises(ConflictError):
        await sdk.with_options(max_retries=0).images.delete(f"{other}:v1")  # an instance needs it
    await sdk.instances.delete(made.id)
    await sdk.images.delete(f"{other}:v1")
    with pytest.raises(NotFoundError):
        await sdk.images.delete(f"{other}:v1")


async def test_an_image_may_be_called_tag(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    name = f"registry.example/{fresh('team')}/tag"
    await sdk.images.create(name=name)
    assert (await http.get(f"/images/{name}")).json()["name"] == f"{name}:latest"
    await sdk.images.delete(name)
    assert (await http.put(f"/images/{name}")).status_code == 405


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "Bad Request"), ({"name": "UPPER CASE"}, 400, "invalid_name"),
        ({"name": "busybox", "platform": "plan9/amd64"}, 400, "invalid_platform"),
        ({"name": "busybox", "platform": "linux/arm64"}, 404, "platform_not_available"),
        ({"name": "busybox", "credentials": {"username": "x", "password": "y"}}, 400, "invalid_request"),
        ({"name": "busybox", "tags": {"hypeman.system/x": ""}}, 400, "invalid_request"),
    ],
)  # fmt: skip
async def test_images_that_cannot_be_had(http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str) -> None:
    answer = await http.post("/images", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_fetch_that_fails_is_told_of_until_it_is_forgotten(
    served: Served, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyvisor.model.faults import Upstream

    name = f"registry.example/{fresh('gone')}:1"

    async def fail(*_: object, **__: object) -> None:
        raise Upstream("the registry says no")

    with monkeypatch.context() as patch:
        patch.setattr(served.parts.host.images, "pull", fail)
        answer = await http.post("/images", json={"name": name})
    assert (answer.status_code, answer.json()["status"]) == (202, "failed")
    found = (await http.get(f"/images/{name}")).json()
    assert (found["status"], found["error"], found["digest"]) == ("failed", "the registry says no", "")
    assert name in [one["name"] for one in (await http.get("/images")).json()]
    assert (await http.delete(f"/images/{name}")).status_code == 204
    assert (await http.get(f"/images/{name}")).status_code == 404


async def test_the_life_of_a_volume(sdk: AsyncHypeman) -> None:
    id, name = fresh("vol"), fresh("data")
    made = await sdk.volumes.create(name=name, size_gb=2, id=id, tags={"k": "v"})
    assert (made.id, made.name, made.size_gb, made.tags) == (id, name, 2, {"k": "v"})
    with pytest.raises(ConflictError) as refused:
        await sdk.with_options(max_retries=0).volumes.create(name="x", size_gb=1, id=id)
    assert refused.value.body == {"code": "already_exists", "message": "volume with this ID already exists"}
    same_name = await sdk.volumes.create(name=name, size_gb=1)
    assert same_name.name == name and len(same_name.id) == 24
    assert [one.id for one in await sdk.volumes.list(tags={"k": "v"}) if one.name == name] == [id]
    holder = await make(sdk, volumes=[{"volume_id": id, "mount_path": "/data"}])
    assert holder.volumes is not None
    assert [v.to_dict() for v in holder.volumes] == [{"mount_path": "/data", "volume_id": id, "readonly": False}]
    held = await sdk.volumes.get(id)
    assert held.attachments is not None
    assert [a.to_dict() for a in held.attachments] == [
        {"instance_id": holder.id, "mount_path": "/data", "readonly": False}
    ]
    with pytest.raises(ConflictError) as refused:
        await sdk.with_options(max_retries=0).volumes.delete(id)
    assert refused.value.body == {"code": "conflict", "message": "volume is in use by an instance"}
    await sdk.instances.delete(holder.id)
    await sdk.volumes.delete(id)
    with pytest.raises(NotFoundError):
        await sdk.volumes.get(id)
    assert (await sdk.volumes.create(name=name, size_gb=1, id=id)).id == id


async def test_volumes_come_to_instances_that_are_there_and_leave_them(
    sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    volume, made, other = await sdk.volumes.create(name=fresh("v"), size_gb=1), await make(sdk), await make(sdk)
    with_it = await sdk.instances.volumes.attach(volume.id, id=made.id, mount_path="/data")
    assert with_it.volumes is not None and with_it.volumes[0].volume_id == volume.id
    path = f"/instances/{other.id}/volumes/{volume.id}"
    assert (await http.post(path, json={"mount_path": "/data"})).json()["code"] == "conflict"
    again = await http.post(f"/instances/{made.id}/volumes/{volume.id}", json={"mount_path": "/other"})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert (await http.delete(path)).status_code == 404
    without = await sdk.instances.volumes.detach(volume.id, id=made.id)
    assert without.volumes is None
    for bad, status in (({"mount_path": "relative"}, 400), ({}, 400), ({"mount_path": ""}, 400)):
        assert (await http.post(path, json=bad)).status_code == status
    assert (await http.post(f"/instances/{made.id}/volumes/no", json={"mount_path": "/d"})).json()["message"] == (
        "volume not found"
    )


async def test_many_may_read_a_volume_and_one_may_write(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    volume = await sdk.volumes.create(name=fresh("v"), size_gb=1)
    mount = {"volume_id": volume.id, "mount_path": "/data", "readonly": True}
    one, two = await make(sdk, volumes=[mount]), await make(sdk, volumes=[mount])
    assert (await sdk.volumes.get(volume.id)).attachments is not None
    body = {"name": fresh("w"), "image": IMAGE, "volumes": [mount | {"readonly": False}]}
    refused = await http.post("/instances", json=body)
    assert refused.status_code == 409
    for holder in (one, two):
        await sdk.instances.delete(holder.id)


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"}, {"name": "x", "size_gb": 0}, {"name": "x", "size_gb": -1}, {"name": "", "size_gb": 1},
        {"name": "x", "size_gb": 10**9}, {"name": "x", "size_gb": 1, "id": "a/b"},
        {"name": "x", "size_gb": 1, "id": ".."}, {"name": "x", "size_gb": 1, "id": "builder-disk-1"},
        {"name": "x", "size_gb": 1.5},
    ],
    ids=str,
)  # fmt: skip
async def test_volumes_that_cannot_be_made(sdk: AsyncHypeman, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    before = len(await sdk.volumes.list())
    assert (await http.post("/volumes", json=body)).status_code == 400
    assert len(await sdk.volumes.list()) == before


async def test_the_server_says_what_it_is(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    can = await sdk.capabilities.get()
    assert (can.server.api_version, can.default_runtime.name, can.network.guest_to_guest) == ("0.3.0", "qemu", False)
    assert {"instances", "builds", "exec", "logs"} <= set(can.features)
    made = await make(sdk)
    has = await sdk.resources.get()
    assert has.cpu.type == "cpu" and has.memory.capacity > 0
    assert [a.cpu for a in has.allocations if a.instance_id == made.id] == [2]
    done = await sdk.resources.reclaim_memory(reclaim_bytes=64 * 1024**2, dry_run=True)
    assert (done.requested_reclaim_bytes, done.host_pressure_state) == (64 * 1024**2, "healthy")
    assert made.id in [action.instance_id for action in done.actions]
    for body in ({"reclaim_bytes": 1, "hold_for": "2h"}, {"reclaim_bytes": 1, "hold_for": "x"}):
        answer = await http.post("/resources/memory/reclaim", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert await sdk.devices.list() == []


def tarball(*files: tuple[str, bytes]) -> bytes:
    """A tar.gz archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def announced(size: int) -> bytes:
    """The beginning of an archive with a member of that size."""
    info = tarfile.TarInfo("big")
    info.size = size
    return gzip.compress(info.tobuf())


async def test_a_volume_is_made_of_an_archive(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    id, name = fresh("vol"), fresh("data")
    made = await sdk.volumes.create_from_archive(tarball(("a", b"x")), name=name, size_gb=1, id=id, tags={"k": "v"})
    assert (made.id, made.name, made.size_gb, made.tags) == (id, name, 1, {"k": "v"})
    before = len(await sdk.volumes.list())
    for query, body, code in (
        (f"name=x&size_gb=1&id={id}", tarball(("a", b"x")), "already_exists"), ("size_gb=1", b"", "Bad Request"),
        ("name=x&size_gb=0", b"", "invalid_field"), ("name=x&size_gb=1", b"no archive", "invalid_request"),
        ("name=x&size_gb=1", tarball(("../out", b"x")), "invalid_request"),
        ("name=x&size_gb=1", announced(1024**3 + 1), "archive_too_large"),
    ):  # fmt: skip
        headers = {"Content-Type": "application/gzip"}
        answer = await http.post(f"/volumes/from-archive?{query}", content=body, headers=headers)
        assert answer.json()["code"] == code, answer.text
    assert len(await sdk.volumes.list()) == before
