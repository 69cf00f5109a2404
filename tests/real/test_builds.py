"""Images that are built here: in a guest, by buildah, and made into guests themselves."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from hypeman.types import Build

from real.conftest import finish
from real.upstream import Machines, machines_of
from serving import Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lengthy,
    pytest.mark.timeout(2400),
    pytest.mark.asyncio(loop_scope="module"),
]
LIMIT = 1500
SECRET = "hunter2-hunter2"


def source(**files: str) -> bytes:
    """A tar.gz of these."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mode = len(text), 1234, 0o755
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with secrets."""
    place = tmp_path_factory.mktemp("builds")
    (place / "config.toml").write_text(f'[hypeman]\nbuild_secrets = "{place}"\n')
    (place / "token").write_text(SECRET)
    server = Server(place / "data", "--config", str(place / "config.toml")).start()
    yield server
    finish(server)


@pytest_asyncio.fixture(loop_scope="module")
async def machines(server: Server) -> AsyncIterator[Machines]:
    """Instances by upstream's client, gone after the test."""
    async with machines_of(server) as made:
        yield made


async def built(machines: Machines, dockerfile: str, files: dict[str, str], **fields: Any) -> tuple[Build, list[str]]:
    """A build at its end, and what it said."""
    sdk = machines.sdk
    asked = {"timeout_seconds": LIMIT, "memory_mb": 768} | fields
    made = await sdk.builds.create(source=source(Dockerfile=dockerfile, **files), **asked)
    said = []
    stream = await sdk.builds.events(made.id, follow=True, timeout=LIMIT)
    async for event in stream:
        said += [event.content or ""] if event.type == "log" else []
    return await sdk.builds.get(made.id), said


async def pushed(machines: Machines, target: str) -> str:
    """The name of an image that only a registry has, which no guest can reach."""
    sdk = machines.sdk
    async with asyncio.timeout(120):
        while (await sdk.images.create(name="busybox")).status != "ready":
            await asyncio.sleep(0.2)
        push = await sdk.pushes.create(image="busybox", target=target, insecure=True)
        while (push := await sdk.pushes.get(push.id)).status != "pushed":
            assert push.status != "failed", push
            await asyncio.sleep(0.2)
    return target


async def nothing_left(machines: Machines) -> None:
    """No machine and no disk of a build."""
    assert [one.name for one in await machines.sdk.instances.list() if one.name.startswith("build-")] == []
    assert [one.name for one in await machines.sdk.volumes.list() if one.name.startswith("build-")] == []


async def test_a_dockerfile_becomes_an_image_that_runs(machines: Machines, registry: str) -> None:
    base = await pushed(machines, f"{registry}/base/tools:v1")
    dockerfile = f"""
        ARG BASE={base}
        FROM $BASE AS made
        RUN echo in a stage > /made

        FROM busybox
        COPY --from=made /made /made
        COPY hello /hello
        RUN --mount=type=secret,id=token cat /run/secrets/token && wc -c < /run/secrets/token > /count
        ENV GREETING=salut
        CMD ["sleep", "1000"]
    """
    secrets = json.dumps([{"id": "token", "env_var": "TOKEN"}])
    done, said = await built(machines, dockerfile, {"hello": "hi\n"}, image_name="team/app:v1", secrets=secrets)
    assert (done.status, done.error, done.image_ref) == ("ready", None, "docker.io/team/app:v1"), said
    assert SECRET not in str(said) and any("***" in line for line in said)
    assert sum("given by this server, sha256:" in line for line in said) == 2, said
    await nothing_left(machines)
    vm = await machines.make(image=done.image_ref)
    script = "cat /made /hello /count; stat -c %u /hello; echo $GREETING; ls /run/secrets 2>/dev/null; true"
    assert await machines.say(vm.id, script) == f"in a stage\nhi\n{len(SECRET)}\n0\nsalut"
    image = await machines.sdk.images.get("team/app:v1")
    assert image.digest == done.image_digest


async def test_from_scratch_without_any_network_and_a_builder_that_remembers(machines: Machines) -> None:
    sdk = machines.sdk
    builder = await sdk.builders.create(id="cache", disk_size_gb=2)
    dockerfile = "FROM scratch\nCOPY a /a\nCOPY b /b\n"
    first, _ = await built(machines, dockerfile, {"a": "one", "b": "two"}, builder_id=builder.id)
    assert (first.status, first.builder_id) == ("ready", "cache"), first.error
    again, said = await built(machines, dockerfile, {"a": "one", "b": "other"}, builder_id=builder.id)
    assert again.status == "ready" and sum("Using cache" in line for line in said) == 1, said
    assert again.image_digest != first.image_digest
    await sdk.builders.prune(builder.id)
    async with asyncio.timeout(60):
        while (await sdk.builders.get(builder.id)).status != "ready":
            await asyncio.sleep(0.2)
    failed, said = await built(
        machines, dockerfile + "COPY nothing /\n", {"a": "one", "b": "two"}, builder_id=builder.id
    )
    assert failed.status == "failed" and "nothing" in (failed.error or ""), failed
    assert not any("Using cache" in line for line in said)
    await sdk.builders.delete(builder.id)
    await nothing_left(machines)


async def test_a_killed_server_leaves_nothing_of_a_build(server: Server, machines: Machines) -> None:
    sdk = machines.sdk
    asked: dict[str, Any] = {"timeout_seconds": LIMIT, "memory_mb": 768, "cpus": 1}
    made = await sdk.builds.create(source=source(Dockerfile="FROM scratch\nCOPY x /\n", x="x"), **asked)
    async with asyncio.timeout(300):
        while (found := await sdk.builds.get(made.id)).builder_instance_id is None:
            await asyncio.sleep(0.2)
    assert (await sdk.instances.get(found.builder_instance_id)).name == f"build-{made.id}"
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    async with machines_of(server) as again:
        found = await again.sdk.builds.get(made.id)
        assert (found.status, found.error) == ("failed", "the server was stopped meanwhile")
        async with asyncio.timeout(120):
            while [one for one in await again.sdk.volumes.list() if one.name.startswith("build-")]:
                await asyncio.sleep(0.2)
        await nothing_left(again)
        cancelled = await again.sdk.builds.create(source=source(Dockerfile="FROM scratch\nCOPY x /\n", x="x"), **asked)
        async with asyncio.timeout(300):
            while (await again.sdk.builds.get(cancelled.id)).builder_instance_id is None:
                await asyncio.sleep(0.2)
        await again.sdk.builds.cancel(cancelled.id)
        await nothing_left(again)
