"""The client: every refusal is one kind of exception, whoever it comes from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dialect.served import Served, fresh
from polyvisor.client import Client, Refused
from polyvisor.server.bootstrap import ensure_certificate
from polyvisor.wire.native import AttachVolume, CreateInstance, CreateVolume, UpdateInstance

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_whole_api_by_its_client(served: Served) -> None:
    async with served.client() as client:
        vm = await client.instances.create(CreateInstance(image="busybox", name=fresh("vm")), wait="ready")
        volume = await client.volumes.create(CreateVolume(name=fresh("v"), size="1G"), idempotency_key=fresh("k"))
        attached = await client.instances.attach(vm.id, AttachVolume(volume=volume.name))
        assert attached.volumes[0].volume == volume.id
        assert not (await client.instances.detach(vm.id, volume.id)).volumes
        assert (await client.volumes.resize(volume.id, "2G")).size == 2**31
        assert (await client.volumes.get(volume.name)).id == volume.id
        await client.volumes.delete(volume.id)
        assert (await client.instances.pause(vm.id)).state == "paused"
        assert (await client.instances.resume(vm.id)).state == "running"
        assert (await client.instances.reset(vm.id)).state == "running"
        assert (await client.instances.restart(vm.id, force=True)).incarnation == 2
        labels = {fresh("label"): "b"}
        assert (await client.instances.update(vm.id, UpdateInstance(labels=labels))).labels == labels
        assert [found.id async for found in client.instances.list(labels)] == [vm.id]
        assert (await client.instances.stop(vm.id, force=True)).state == "stopped"
        assert (await client.instances.wait(vm.id)).state == "stopped"
        assert (await client.instances.start(vm.id)).state == "running"
        operation = (await client.operations.list(vm.id, 1))[0]
        assert (await client.operations.get(operation.id)).verb == "start"
        assert (await client.images.get("busybox")).digest in [image.digest for image in await client.images.list()]
        assert (await client.hosts.list())[0].hypervisor == "fake"
        assert (await client.hosts.about()).operator
        await client.instances.delete(vm.id, force=True)
        with pytest.raises(Refused, match="no instance") as refused:
            await client.instances.get(vm.id)
        assert (refused.value.status, refused.value.kind, refused.value.problem.subject) == (404, "NotFound", vm.id)


async def test_files_both_ways(served: Served) -> None:
    vm = (await served.make())["id"]

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async with served.client() as client:
        await client.files.write(vm, "/d/f", chunks(), mode=0o600)
        assert b"".join([piece async for piece in client.files.read(vm, "/d/f")]) == b"ab"
        tar = b"".join([piece async for piece in client.files.read_tar(vm, "/d")])

        async def again() -> AsyncIterator[bytes]:
            yield tar

        await client.files.write_tar(vm, "/other", again())
        assert (await client.files.stat(vm, "/other/d/f")).size == 2


async def test_a_key_with_a_slash_in_it_stays_a_key(served: Served) -> None:
    async with served.client() as client:
        for key in ("../volumes", "x/wait", "..", "", "?x=1", "#", "%2e"):
            with pytest.raises(Refused) as refused:
                await client.instances.get(key)
            assert refused.value.kind == "NotFound"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with Client("http://127.0.0.1:9", "key") as client:
        with pytest.raises(Refused, match=r"cannot talk to http://127\.0\.0\.1:9") as refused:
            await client.hosts.about()
        assert (refused.value.kind, refused.value.status) == ("Unavailable", None)
        with pytest.raises(Refused):
            async with client.instances.console("x"):
                pass


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "Upstream"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nhi", "Upstream"),
        (b"garbage\r\n\r\n", "Unavailable"),
        (b"", "Unavailable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhi", "Unavailable"),
    ],
    ids=["a page", "a proxy", "garbage", "silence", "half an answer"],
)
async def test_an_answer_that_is_not_ours_is_told_as_that(answer: bytes, kind: str) -> None:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server, Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "key") as client:
        with pytest.raises(Refused) as refused:
            await client.hosts.about()
    assert refused.value.kind == kind


async def test_the_key_is_in_no_message(served: Served) -> None:
    async with Client("http://127.0.0.1:9", "pv_secret") as client:
        with pytest.raises(Refused) as refused:
            await client.hosts.about()
    assert "pv_secret" not in str(refused.value) + repr(refused.value) + str(refused.value.problem)


async def test_a_certificate_of_ones_own_is_believed_when_it_is_named(served: Served) -> None:
    certificate, _ = ensure_certificate(served.parts.config.data)
    async with Client("https://127.0.0.1:9", "key", ca_file=str(certificate)) as client:
        with pytest.raises(Refused):
            await client.hosts.about()
