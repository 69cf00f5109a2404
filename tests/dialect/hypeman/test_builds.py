"""Builds and builders in upstream's words, by its client where that can say it."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, ConflictError, NotFoundError
from hypeman.types import Build

from dialect.served import Served, fresh, serving
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")


def source(**files: str) -> bytes:
    """A tar.gz of these."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def told(*lines: str) -> bytes:
    """A source with a Dockerfile of these lines after its first."""
    return source(Dockerfile="\n".join(("FROM scratch", *lines)))


async def until(sdk: AsyncHypeman, id: str, wanted: Callable[[Build], bool]) -> Build:
    """The build once it is as wanted."""
    async with asyncio.timeout(20):
        while not wanted(found := await sdk.builds.get(id)):
            await asyncio.sleep(0.02)
    return found


async def over(sdk: AsyncHypeman, id: str) -> Build:
    """The build at its end."""
    return await until(sdk, id, lambda one: one.status in ("ready", "failed", "cancelled"))


async def said(sdk: AsyncHypeman, id: str, *, follow: bool = False) -> list[str]:
    """Its events: states, and lines after a `>`."""
    stream = await sdk.builds.events(id, follow=follow)
    return [str(one.status) if one.type == "status" else f"> {one.content}" async for one in stream]


async def left(served: Served) -> tuple[list[str], list[str]]:
    """Machines and disks of builds."""
    engine = served.parts.engine
    vms = [one.name for one in (await engine.instances.list(SYSTEM, None, 1000)).items if not one.intent.deleted]
    disks = [one.name for one in (await engine.volumes.list(SYSTEM, None, 1000)).items]
    return [one for one in vms if one.startswith("build-")], [one for one in disks if one.startswith("build-")]


async def test_a_build_from_its_queue_to_an_instance(
    served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient
) -> None:
    name = fresh("team/app") + ":v1"
    made = await sdk.builds.create(source=told("RUN echo hello"), image_name=name, tags=json.dumps({"of": name}))
    assert (made.status, made.queue_position, made.started_at, made.image_ref) == ("queued", 1, None, None)
    events = await said(sdk, made.id, follow=True)
    assert events == [
        "queued", "building", "> STEP 1/2: FROM scratch", "> STEP 2/2: RUN echo hello", "> hello", "pushing", "ready"
    ]  # fmt: skip
    done = await sdk.builds.get(made.id)
    assert (done.status, done.error, done.image_ref) == ("ready", None, f"docker.io/{name}")
    assert done.duration_ms is not None and done.provenance is not None and len(done.provenance.source_hash or "") == 64
    assert done.builder_instance_id is not None and done.builder_id is None
    with pytest.raises(NotFoundError):
        await sdk.instances.get(done.builder_instance_id)
    assert await left(served) == ([], [])
    assert [one.id for one in await sdk.builds.list(tags={"of": name})] == [made.id]
    assert made.id in [one.id for one in await sdk.builds.list()]
    assert await said(sdk, made.id) == events
    instance = await sdk.instances.create(name=fresh("hm"), image=done.image_ref or "", size="256MB")
    assert instance.image == done.image_ref
    answer = await http.get(f"/builds/{made.id}")
    assert answer.text.startswith('{"builder_id":null,"builder_instance_id":') and answer.text.endswith("}\n")
    with pytest.raises(ConflictError, match="already completed"):
        await sdk.builds.cancel(made.id)


async def test_without_a_name_it_is_called_by_its_id(sdk: AsyncHypeman) -> None:
    made = await sdk.builds.create(source=source(file="x"), dockerfile="FROM busybox\nCOPY file /file\n")
    done = await over(sdk, made.id)
    assert (done.status, done.image_ref) == ("ready", f"docker.io/builds/{made.id}:latest")
    events = await said(sdk, made.id)
    base = next(line for line in events if "given by this server" in line)
    assert base.startswith("> docker.io/library/busybox:latest: ")
    assert done.provenance is not None and base.endswith(done.provenance.base_image_digest or "none")
    pinned = await sdk.builds.create(
        source=told(), dockerfile="FROM busybox\n", base_image_digest=done.provenance.base_image_digest or ""
    )
    assert (await over(sdk, pinned.id)).status == "ready"
    other = await sdk.builds.create(source=told(), base_image_digest="sha256:" + "0" * 64)
    failed = await over(sdk, other.id)
    assert failed.status == "failed" and "base_image_digest" in (failed.error or "")


async def test_a_failure_says_why_and_leaves_nothing(served: Served, sdk: AsyncHypeman) -> None:
    made = await sdk.builds.create(source=told("RUN false", "RUN echo never"))
    done = await over(sdk, made.id)
    assert (done.status, done.image_ref, done.provenance) == ("failed", None, None)
    assert done.error == 'build: exit 1: Error: building at STEP "RUN false": exit status 1'
    events = await said(sdk, made.id)
    assert events[-2:] == [f"> {done.error}", "failed"] and not any("never" in line for line in events)
    assert await left(served) == ([], [])
    late = await sdk.builds.create(source=told("RUN sleep 30"), timeout_seconds=1)
    assert (await over(sdk, late.id)).error == "it took longer than 1 seconds"
    assert await left(served) == ([], [])


async def test_builds_wait_for_their_turn_and_are_cancelled(served: Served, sdk: AsyncHypeman) -> None:
    ids = [(await sdk.builds.create(source=told("RUN sleep 30"))).id for _ in range(4)]
    for id in ids[:2]:
        await until(sdk, id, lambda one: one.status == "building" and one.builder_instance_id is not None)
    waiting = [await sdk.builds.get(id) for id in ids]
    assert [one.queue_position for one in waiting] == [None, None, 1, 2]
    for id in reversed(ids):
        await sdk.builds.cancel(id)
        assert (await sdk.builds.get(id)).status == "cancelled"
        assert (await said(sdk, id))[-1] == "cancelled"
    assert await left(served) == ([], [])


BAD: list[tuple[dict[str, str], str, str]] = [
    ({"cpus": "0"}, "invalid_request", "cpus"),
    ({"cpus": "two"}, "invalid_request", "cpus"),
    ({"memory_mb": "64"}, "invalid_request", "memory_mb"),
    ({"timeout_seconds": "0"}, "invalid_request", "timeout_seconds"),
    ({"timeout_seconds": "1000000"}, "invalid_request", "timeout_seconds"),
    ({"image_name": "Not A Name"}, "invalid_name", "image"),
    ({"image_name": "busybox"}, "invalid_request", "image_name"),
    ({"image_name": f"x@sha256:{'0' * 64}"}, "invalid_request", "image_name"),
    ({"base_image_digest": "latest"}, "invalid_request", "base_image_digest"),
    ({"secrets": "{"}, "invalid_request", "secrets"),
    ({"secrets": '[{"env_var": "X"}]'}, "invalid_request", "secrets"),
    ({"secrets": '[{"id": "../x"}]'}, "invalid_request", "secrets"),
    ({"secrets": '[{"id": "unknown"}]'}, "invalid_request", "secrets"),
    ({"secrets": '[{"id": "a", "env_var": "PATH"}]'}, "invalid_request", "secrets"),
    ({"tags": '{"a": 1}'}, "invalid_request", "tags"),
    ({"tags": '{"hypeman.system/x": "1"}'}, "invalid_request", "tags"),
    ({"tags": "["}, "invalid_request", "tags"),
    ({"cache_scope": "x"}, "invalid_request", "cache_scope"),
    ({"global_cache_key": "node"}, "invalid_request", "global_cache_key"),
    ({"is_admin_build": "true"}, "invalid_request", "is_admin_build"),
]


@pytest.mark.parametrize(("fields", "code", "named"), BAD, ids=[f"{next(iter(one[0].items()))}"[:60] for one in BAD])
async def test_a_bad_field_is_named(fields: dict[str, str], code: str, named: str, http: httpx.AsyncClient) -> None:
    before = (await http.get("/builds")).json()
    answer = await http.post("/builds", data=fields, files={"source": told()})
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    assert named in answer.json()["message"]
    assert (await http.get("/builds")).json() == before


async def test_a_bad_source_is_refused(served: Served, http: httpx.AsyncClient) -> None:
    whole = told("RUN true")
    for data, code in (
        (b"", "invalid_source"), (b"not an archive", "invalid_source"), (whole[:60], "invalid_source"),
        (source(file="x"), "dockerfile_required"), (source(Dockerfile=" \n"), "dockerfile_required"),
    ):  # fmt: skip
        answer = await http.post("/builds", files={"source": data})
        assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text
    for answer in (
        await http.post("/builds", json={"source": "x"}),
        await http.post("/builds", data={"source": "text"}),
        await http.post("/builds", data={"cpus": "1"}, files={"other": b"x"}),
        await http.post(
            "/builds", content=b"--x\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=x"}
        ),
        await http.post("/builds", content=b"x", headers={"Content-Type": "multipart/form-data"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request"), answer.text
    assert not any(served.parts.engine.images.uploads.iterdir())


async def test_what_is_not_there(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    for path in ("/builds/none", "/builds/none/events", "/builders/none", "/builds/%00"):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    with pytest.raises(NotFoundError, match="builder not found"):
        await sdk.builds.create(source=told(), builder_id="none")
    for ask in (sdk.builds.cancel, sdk.builders.delete, sdk.builders.prune):
        with pytest.raises(NotFoundError):
            await ask("none")


async def test_others_see_nothing_of_it(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await sdk.builds.create(source=told("RUN true"))
    builder = await sdk.builders.create()
    theirs = {"Authorization": f"Bearer {await served.stranger()}"}
    for path in (f"/builds/{made.id}", f"/builds/{made.id}/events", f"/builders/{builder.id}"):
        assert (await http.get(path, headers=theirs)).status_code == 404, path
        assert (await http.delete(path, headers=theirs)).status_code in (404, 405), path
    assert (await http.get("/builds", headers=theirs)).json() == []
    assert (await http.get("/builders", headers=theirs)).json() == []
    form = {"builder_id": builder.id}
    answer = await http.post("/builds", data=form, files={"source": told()}, headers=theirs)
    assert (answer.status_code, answer.json()["message"]) == (404, "builder not found")
    await over(sdk, made.id)
    await sdk.builders.delete(builder.id)


async def test_a_builder_serves_one_build_at_a_time(sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    id = fresh("Cache_1")
    made = await sdk.builders.create(id=id, name="mine", disk_size_gb=3, tags={"of": id})
    assert (made.id, made.name, made.disk_size_gb, made.status, made.max_concurrency) == (id, "mine", 3, "ready", 1)
    assert (made.active_build_id, made.queued_builds, made.last_used_at) == (None, [], None)
    assert [one.id for one in await sdk.builders.list(tags={"of": id})] == [id]
    with pytest.raises(ConflictError, match="already_exists"):
        await sdk.builders.create(id=id)
    scripts = ("RUN sleep 30", "RUN true", "RUN true")
    builds = [(await sdk.builds.create(source=told(one), builder_id=id)).id for one in scripts]
    await until(sdk, builds[0], lambda one: one.status == "building" and one.builder_instance_id is not None)
    busy = await sdk.builders.get(id)
    assert (busy.active_build_id, busy.queued_builds) == (builds[0], builds[1:]) and busy.last_used_at is not None
    for ask in (sdk.builders.delete, sdk.builders.prune):
        with pytest.raises(ConflictError, match="in use"):
            await ask(id)
    await sdk.builds.cancel(builds[0])
    for build in builds[1:]:
        done = await over(sdk, build)
        assert (done.status, done.builder_id) == ("ready", id)
    disk = next(one for one in await sdk.volumes.list() if one.name == f"builder-disk-{id}")
    assert (disk.size_gb, disk.attachments) == (3, None)
    with pytest.raises(ConflictError, match="disk of a builder"):
        await sdk.volumes.delete(disk.id)
    assert (await sdk.builders.prune(id)).status in ("pruning", "ready")
    async with asyncio.timeout(10):
        while (await sdk.builders.get(id)).status != "ready":
            await asyncio.sleep(0.02)
    anew = next(one for one in await sdk.volumes.list() if one.name == f"builder-disk-{id}")
    assert anew.id != disk.id and anew.size_gb == 3
    await sdk.builders.delete(id)
    assert (await http.get(f"/builders/{id}")).status_code == 404
    assert all(one.name != f"builder-disk-{id}" for one in await sdk.volumes.list())


async def test_a_builder_needs_room_and_a_proper_id(served: Served, http: httpx.AsyncClient) -> None:
    small = {"Authorization": f"Bearer {await served.stranger(disk=5 * 1024**3)}"}
    answer = await http.post("/builders", json={"disk_size_gb": 6}, headers=small)
    assert (answer.status_code, answer.json()["code"]) == (409, "quota_exceeded")
    for body in (
        {"id": "-x"},
        {"id": ""},
        {"id": "a/b"},
        {"id": "x" * 65},
        {"disk_size_gb": 0},
        {"disk_size_gb": 10**9},
    ):
        answer = await http.post("/builders", json=body)
        assert answer.status_code == 400, answer.text
    answer = await http.post("/builders", json={"tags": {"hypeman.system/x": "y"}})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert (await http.get("/builders", headers=small)).json() == []


async def test_a_builder_without_its_disk_says_so(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    made = await sdk.builders.create()
    disk = next(one for one in await sdk.volumes.list() if one.name == f"builder-disk-{made.id}")
    await served.parts.engine.volumes.delete(SYSTEM, disk.id)
    assert (await sdk.builders.get(made.id)).status == "error"
    answer = await http.post("/builds", data={"builder_id": made.id}, files={"source": told()})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    await sdk.builders.prune(made.id)
    async with asyncio.timeout(10):
        while (await sdk.builders.get(made.id)).status != "ready":
            await asyncio.sleep(0.02)
    await sdk.builders.delete(made.id)


async def test_secrets_and_restarts(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("hunter2hunter2\n")
    settings = {"hypeman.build_secrets": str(tmp_path / "secrets")}
    form: dict[str, Any] = {"secrets": json.dumps([{"id": "token", "env_var": "TOKEN"}])}
    async with serving(tmp_path / "data", settings) as served:
        made = (await served.http.post("/builds", data=form, files={"source": told("RUN env", "RUN sleep 60")})).json()
        async with asyncio.timeout(20):
            while "TOKEN=***" not in (text := (await served.http.get(f"/builds/{made['id']}/events")).text):
                await asyncio.sleep(0.02)
        assert "hunter2" not in text
        stranger = {"Authorization": f"Bearer {await served.stranger()}"}
        answer = await served.http.post("/builds", data=form, files={"source": told()}, headers=stranger)
        assert (answer.status_code, answer.json()["message"]) == (400, "secrets: there is no secret 'token'")
    async with serving(tmp_path / "data", settings) as served:
        found = (await served.http.get(f"/builds/{made['id']}")).json()
        assert (found["status"], found["error"]) == ("failed", "the server was stopped meanwhile")
        events = (await served.http.get(f"/builds/{made['id']}/events", params={"follow": "true"})).text
        assert "TOKEN=***" in events and '"status":"failed"' in events.splitlines()[-2]
        assert await left(served) == ([], [])
    assert b"hunter2" not in (tmp_path / "data" / "polyvisor.db").read_bytes()
