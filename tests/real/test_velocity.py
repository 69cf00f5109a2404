"""A machine made through Velocity alone: its media uploaded there, booted, looked at, paused, and ended."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyvisor.client import Client
from real.namespaces import HOST, WORLD, Ground, Namespace
from real.screens import keep
from real.systems import system
from real.test_media import medium, shown
from real.test_network import outside
from serving import Server

__all__ = ["medium", "outside"]  # fixtures
MIB = 2**20
OBEYS = """
for event in /dev/input/event*; do
  { /bin/busybox head -c 1 $event >/dev/null && /bin/busybox poweroff -f; } &
done
wait
"""
CALLS = """
bb=/bin/busybox
printf '#!/bin/busybox sh\\n[ "$1" = bound ] && /bin/busybox ip addr add $ip/24 dev eth0 && \
/bin/busybox ip route add default via $router && echo $router > /router' > /got
$bb chmod +x /got
$bb ip link set eth0 up
until [ -s /router ]; do $bb udhcpc -i eth0 -n -q -f -s /got; done
for where in $($bb cat /router) 198.51.100.1; do $bb timeout 5 $bb wget -q -O - http://$where:8081/; done
$bb wget -q -O - http://198.51.100.2:8080/
$bb sleep 1000
"""
BUTTON = ("drivers/acpi/button", "drivers/input/evdev")
VIRTIO = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci")
NETWORK = (*(f"drivers/virtio/{name}" for name in VIRTIO), "net/core/failover", "drivers/net/net_failover",
           "drivers/net/virtio_net")  # fmt: skip


class Velocity:
    """The administrator's calls."""

    def __init__(self, http: httpx.AsyncClient, authkey: str) -> None:
        self._http = http
        self._headers = {"Authorization": f"Bearer {authkey}"}

    async def ask(self, line: str, **body: Any) -> httpx.Response:
        """`METHOD /path` with a JSON body."""
        method, path = line.split()
        return await self._http.request(method, path, json=body, headers=self._headers)

    async def ok(self, line: str, **body: Any) -> Any:
        """What a call that succeeds says."""
        answer = await self.ask(line, **body)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def upload(self, gid: int, name: str, kind: str, data: bytes, *, readonly: bool) -> str:
        """The MID of a new medium."""
        told = {"mpid": 0, "gid": gid, "name": name, "type": kind, "readonly": str(readonly).lower()}
        headers = self._headers | {f"x-velocity-{key}": str(value) for key, value in told.items()}
        answer = await self._http.put("/m/media/upload", content=data, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["mid"])

    async def group(self) -> int:
        """A new one, which may do everything in the default pool."""
        gid = int((await self.ok("PUT /u/group", name="g" + uuid.uuid4().hex[:8], parent_gid=0))["gid"])
        await self.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=True, manage=True)
        return gid

    async def run(self, gid: int, iso: str, *nics: dict[str, str | int], name: str = "runs") -> int:
        """A new machine without a screen that boots it."""
        made = await self.ok(
            "PUT /v/vm/efi", name=name, gid=gid, cpus=1, memory_mib=256, nics=nics, displays=[], rosetta=False,
            autostart=False, media=[{"mid": iso, "mode": "BLOCK", "readonly": True}],
        )  # fmt: skip
        await self.ok("PUT /v/vm/state", vmid=made["vmid"], state="RUNNING")
        await self.until(made["vmid"], "RUNNING")
        return int(made["vmid"])

    async def until(self, vmid: int, state: str) -> None:
        """Until it is in that state."""
        async with asyncio.timeout(120):
            while (await self.ok("POST /v/vm/state", vmid=vmid))["state"] != state:
                await asyncio.sleep(0.1)


@asynccontextmanager
async def calls(server: Server) -> AsyncIterator[Velocity]:
    """With a key that was asked for with the password of the first start."""
    admin = server.facts["admin"]
    async with httpx.AsyncClient(base_url=server.facts["url"], trust_env=False, timeout=120) as http:
        answer = await http.post("/u/auth", json={"username": admin["username"], "password": admin["password"]})
        yield Velocity(http, answer.json()["authkey"])


@pytest.fixture
async def velocity(base: Server) -> AsyncIterator[Velocity]:
    """Of the server that all share."""
    async with calls(base) as made:
        yield made


async def test_a_guest_that_heeds_its_power_button_is_stopped_by_it(
    velocity: Velocity, base: Server, tmp_path: Path
) -> None:
    gid = await velocity.group()
    data = await asyncio.to_thread(system, base, tmp_path, OBEYS, BUTTON)
    iso = await velocity.upload(gid, "system", "ISO", data, readonly=True)
    vmid = await velocity.run(gid, iso)
    async with asyncio.timeout(120):  # pressed before it listens, the button does nothing
        while (await velocity.ok("POST /v/vm/state", vmid=vmid))["state"] != "STOPPED":
            await velocity.ask("PUT /v/vm/state", vmid=vmid, state="STOPPED")
            await asyncio.sleep(1)
    await velocity.ok("DELETE /u/group", gid=gid)


@pytest.mark.bridge
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
async def test_nat_leads_out_and_not_to_what_only_this_host_hears(
    outside: tuple[Ground, Server], tmp_path: Path
) -> None:
    ground, server = outside
    data = await asyncio.to_thread(system, server, tmp_path, CALLS, NETWORK)
    async with calls(server) as velocity:
        gid = await velocity.group()
        iso = await velocity.upload(gid, "system", "ISO", data, readonly=True)
        with heard(ground.world, WORLD, 8080) as came, heard(ground.host, "127.0.0.1", 8081) as never:
            vmid = await velocity.run(gid, iso, {"type": "NAT"})
            assert await asyncio.to_thread(came, 120) == HOST
            assert await asyncio.to_thread(never, 0) is None
        await velocity.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)


@contextmanager
def heard(space: Namespace, address: str, port: int) -> Iterator[Callable[[float], str | None]]:
    """Who has connected there; None: nobody until so many seconds have passed."""
    with space.inside():
        sock = socket.create_server((address, port))

    def who(limit: float) -> str | None:
        sock.settimeout(limit)
        try:
            peer, (name, _) = sock.accept()
        except (TimeoutError, BlockingIOError):
            return None
        peer.close()
        return str(name)

    with sock:
        yield who


async def test_an_efi_machine_boots_its_iso_and_stays_until_it_is_ended(
    velocity: Velocity, client: Client, medium: bytes
) -> None:
    gid = await velocity.group()
    iso = await velocity.upload(gid, "Installer, amd64", "ISO", medium, readonly=True)
    disk = await velocity.upload(gid, "system", "DISK", bytes(8 * MIB), readonly=False)
    made = await velocity.ok(
        "PUT /v/vm/efi", name="A desktop", gid=gid, cpus=1, memory_mib=256, nics=[], rosetta=True, autostart=False,
        displays=[{"name": "main", "width": 800, "height": 600, "ppi": 80}],
        media=[{"mid": iso, "mode": "USB", "readonly": True}, {"mid": disk, "mode": "VIRTIO", "readonly": False}],
    )  # fmt: skip
    vmid = made["vmid"]
    assert (await velocity.ok("PUT /v/vm/state", vmid=vmid, state="RUNNING"))["state"] in ("STARTING", "RUNNING")
    await velocity.until(vmid, "RUNNING")
    (key,) = [one.id async for one in client.instances.list() if not one.image]
    seen = await shown(client, key)
    keep("velocity-efi.png", await client.instances.screenshot(key))
    assert (seen.width, seen.height) == (800, 600)
    top, chosen, bottom = seen.bars()  # GRUB's frame, and one entry of its menu
    assert (top, bottom) == (1, 1) and 10 < chosen < 30
    # its loader does not listen to the button
    assert (await velocity.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED"))["state"] == "RUNNING"
    await velocity.ok("PUT /v/vm/state", vmid=vmid, state="PAUSED")
    await velocity.until(vmid, "PAUSED")
    assert (await velocity.ask("PUT /v/vm/state", vmid=vmid, state="STOPPED")).status_code == 500
    await velocity.ok("PUT /v/vm/state", vmid=vmid, state="RUNNING")
    await velocity.until(vmid, "RUNNING")
    assert (await velocity.ask("DELETE /v/vm", vmid=vmid)).status_code == 409
    await velocity.ok("PUT /v/vm/state", vmid=vmid, state="STOPPED", force=True)
    await velocity.until(vmid, "STOPPED")
    await velocity.ok("DELETE /u/group", gid=gid)  # with its machine and its media
    assert (await velocity.ask("POST /m/media/list", gid=gid)).status_code == 404
