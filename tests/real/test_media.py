"""Media and blank machines: what was uploaded is booted, looked at, and taken away; what was cut off leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from polyvisor.client import Client, Refused
from polyvisor.host.paths import Paths
from polyvisor.wire.native import AttachVolume, CreateSnapshot, CreateVolume, Display, Instance, MountRequest, Volume
from real.conftest import finish
from real.guests import Guests
from real.screens import Picture, picture
from serving import Server

MIB = 2**20
MENU = 'set timeout=-1\nmenuentry "a medium of a test" { true }\nmenuentry "another" { true }\n'


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An ISO that GRUB waits in, under BIOS and UEFI; it is a bootable disk as well."""
    folder = tmp_path_factory.mktemp("iso")
    (folder / "tree/boot/grub").mkdir(parents=True)
    (folder / "tree/boot/grub/grub.cfg").write_text(MENU)
    made = folder / "boot.iso"
    subprocess.run(["grub-mkrescue", "-o", made, folder / "tree"], check=True, capture_output=True, timeout=120)
    return made.read_bytes()


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), MIB):
        yield data[at : at + MIB]


class Media:
    """Volumes that are gone after the test."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._made: list[str] = []

    async def upload(self, data: bytes, kind: str, *, read_only: bool = False) -> Volume:
        """A new one of those bytes."""
        name = "m" + uuid.uuid4().hex[:8]
        self._made.append(name)
        return await self._client.volumes.upload(name, _chunks(data), len(data), kind=kind, read_only=read_only)

    async def discard(self) -> None:
        """Delete them all."""
        for name in self._made:
            await self._client.volumes.delete(name)


@pytest.fixture
async def media(client: Client) -> AsyncIterator[Media]:
    """Set up before `guests`, so that those are gone first."""
    made = Media(client)
    yield made
    await made.discard()


async def blank(guests: Guests, *volumes: MountRequest, firmware: str = "uefi", **more: object) -> Instance:
    """A machine of these volumes, that runs."""
    display = Display(name="main", width=800, height=600)
    return await guests.make(
        None, "launched", blank=True, firmware=firmware, memory="256M", volumes=list(volumes), displays=[display],
        network=False, **more,
    )  # fmt: skip


async def shown(client: Client, key: str, lit: int = 2000, limit: float = 120.0) -> Picture:
    """The screen, once it has so many lit pixels that do not change any more: a menu and not a cursor."""
    before = b""
    async with asyncio.timeout(limit):
        while True:
            try:
                png = await client.instances.screenshot(key)
            except Refused as refused:  # one that was restored is started anew for a reset
                assert refused.kind in ("Unavailable", "WrongState"), refused
            else:
                found = picture(png)
                if found.lit() >= lit and png == before:
                    return found
                before = png
            await asyncio.sleep(0.5)


async def state(client: Client, key: str) -> str:
    """In a word."""
    return (await client.instances.get(key)).state


async def test_an_iso_boots_and_its_menu_is_seen(
    client: Client, media: Media, guests: Guests, medium: bytes, base: Server
) -> None:
    iso = await media.upload(medium, "ISO", read_only=True)
    disk = await client.volumes.create(CreateVolume(name="d" + uuid.uuid4().hex[:8], size="64M", kind="DISK"))
    media._made.append(disk.name)
    vm = await blank(guests, MountRequest(volume=iso.name, bus="usb"), MountRequest(volume=disk.name))
    assert (vm.image, vm.disk, [(m.bus, m.read_only) for m in vm.volumes]) == (
        "", 0, [("usb", True), ("virtio", False)],
    )  # fmt: skip
    seen = await shown(client, vm.id)
    assert (seen.width, seen.height) == (800, 600)
    assert len(seen.bars()) == 3
    file = base.data.parent / f"{vm.id}.png"
    base.cli("screenshot", vm.id, str(file), check=True)
    assert picture(file.read_bytes()) == seen
    # a guest that does not listen to its power button goes on, and nobody ends it
    await client.instances.press(vm.id)
    assert await state(client, vm.id) == "running"
    await client.instances.pause(vm.id)
    assert (await state(client, vm.id), picture(await client.instances.screenshot(vm.id))) == ("paused", seen)
    await client.instances.resume(vm.id)
    await client.instances.reset(vm.id)
    await shown(client, vm.id)
    other = await media.upload(b"x", "DISK")
    for refused in (
        client.instances.snapshot(vm.id, CreateSnapshot()),
        client.instances.attach(vm.id, AttachVolume(volume=other.id, bus="usb")),
    ):
        with pytest.raises(Refused) as caught:
            await refused
        assert caught.value.kind == "Unsupported"
    await client.instances.stop(vm.id, force=True)
    assert await state(client, vm.id) == "stopped"
    with pytest.raises(Refused) as caught:
        await client.instances.screenshot(vm.id)
    assert caught.value.kind == "WrongState"
    assert Paths(base.data).volume(iso.id).read_bytes() == medium + bytes(iso.size - len(medium))


@pytest.mark.parametrize(("firmware", "bus"), [("bios", "virtio"), ("uefi", "usb")])
async def test_a_disk_boots_stands_by_and_goes_on(
    medium: bytes, tmp_path: Path, firmware: str, bus: Literal["virtio", "usb"]
) -> None:
    server = Server(tmp_path / "data").start()
    try:
        async with server.client() as client:
            disk = await client.volumes.upload("disk", _chunks(medium), len(medium), kind="DISK")
            mount = MountRequest(volume=disk.name, bus=bus)
            vm = await blank(Guests(client), mount, firmware=firmware)
            await shown(client, vm.id)
        server.kill()  # what runs is found again, with its screen
        server.start()
        async with server.client() as client:
            await shown(client, vm.id)
            await client.instances.standby(vm.id)
            assert await state(client, vm.id) == "suspended"
            await client.instances.restore(vm.id)
            assert await state(client, vm.id) == "running"
            ticket = await client.instances.screen_ticket(vm.id)
            await _look(server, ticket.path)
            await client.instances.reset(vm.id)  # what was restored cannot boot: it is started anew
            await shown(client, vm.id)
            await client.instances.stop(vm.id, force=True)
            await client.instances.start(vm.id)
            await shown(client, vm.id)
    finally:
        finish(server)


async def _look(base: Server, path: str) -> None:
    """As a VNC viewer does; and the ticket lets nobody in twice."""
    url = base.facts["url"].replace("http", "ws", 1) + path
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, proxy=None, origin="http://elsewhere.example")  # type: ignore[arg-type]  # it is a text
    assert caught.value.response.status_code == 403
    async with connect(url, proxy=None, subprotocols=["binary"], compression=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "binary"
        said = b""

        async def until(count: int) -> bytes:
            nonlocal said
            while len(said) < count:
                message = await asyncio.wait_for(socket.recv(), 20)
                assert isinstance(message, bytes)
                said += message
            taken, said = said[:count], said[count:]
            return taken

        assert await until(12) == b"RFB 003.008\n"
        await socket.send(b"RFB 003.008\n")
        assert await until(2) == b"\x01\x01"
        await socket.send(b"\x01")
        assert await until(4) == bytes(4)
        await socket.send(b"\x01")
        size = await until(24)
        assert int.from_bytes(size[:2]) > 0 and int.from_bytes(size[2:4]) > 0
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, proxy=None)
    assert caught.value.response.status_code == 404


async def test_one_writable_medium_is_in_one_machine(
    client: Client, media: Media, guests: Guests, medium: bytes
) -> None:
    disk = await media.upload(medium, "DISK")
    await blank(guests, MountRequest(volume=disk.name), power="off")
    with pytest.raises(Refused) as caught:
        await blank(guests, MountRequest(volume=disk.name))
    assert caught.value.kind == "Busy"


# -- uploads ---------------------------------------------------------------------------------------------------------


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_large_upload_takes_little_memory(client: Client, base: Server) -> None:
    piece, count, name = os.urandom(MIB), 2048, "m" + uuid.uuid4().hex[:8]
    before, most = _resident(base.pid), 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal most
        for _ in range(count):
            yield piece
            most = max(most, _resident(base.pid))

    volume = await client.volumes.upload(name, chunks(), count * MIB, kind="DISK")
    try:
        assert volume.size == count * MIB
        assert most - before < 32 * MIB
        with Paths(base.data).volume(volume.id).open("rb") as file:
            assert all(file.read(MIB) == piece for _ in range(count))
    finally:
        await client.volumes.delete(volume.id)


async def test_what_is_cut_off_leaves_nothing_and_so_does_a_killed_server(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", "--hypervisor", "fake").start()
    folder = Paths(server.data).volumes
    came = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for count in range(200):
            yield os.urandom(MIB)
            if count == 8:
                came.set()
        await asyncio.sleep(3600)

    async def upload(name: str) -> None:
        async with server.client() as client:
            await client.volumes.upload(name, endless(), 400 * MIB, kind="DISK")

    async def names() -> list[str]:
        async with server.client() as client:
            return [volume.name async for volume in client.volumes.list()]

    try:
        task = asyncio.create_task(upload("one"))
        await asyncio.wait_for(came.wait(), 60)
        assert (await names(), len(list(folder.iterdir()))) == (["one"], 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while await names() or any(folder.iterdir()):
            await asyncio.sleep(0.05)
        came.clear()
        task = asyncio.create_task(upload("two"))
        await asyncio.wait_for(came.wait(), 60)
        server.kill()
        with pytest.raises((Refused, httpx.HTTPError)):
            await task
        server.start()
        assert not await names()
        assert not list(folder.iterdir())
    finally:
        server.stop()
