"""A machine made through Velocity alone: its media uploaded there, booted, looked at, paused, and ended."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyvisor.client import Client
from real.guests import make_boot_files
from real.screens import keep
from real.test_media import medium, shown
from serving import Server

__all__ = ["medium"]  # a fixture
MIB = 2**20
MENU = "set timeout=0\nmenuentry one { linux /vmlinuz quiet\ninitrd /initrd }\n"
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /*.ko; do /bin/busybox insmod $module; done
for event in /dev/input/event*; do
  { /bin/busybox head -c 1 $event >/dev/null && /bin/busybox poweroff -f; } &
done
wait
"""


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

    async def until(self, vmid: int, state: str) -> None:
        """Until it is in that state."""
        async with asyncio.timeout(120):
            while (await self.ok("POST /v/vm/state", vmid=vmid))["state"] != state:
                await asyncio.sleep(0.1)


@pytest.fixture
async def velocity(base: Server) -> AsyncIterator[Velocity]:
    """With a key that was asked for with the password of the first start."""
    admin = base.facts["admin"]
    async with httpx.AsyncClient(base_url=base.facts["url"], trust_env=False, timeout=120) as http:
        answer = await http.post("/u/auth", json={"username": admin["username"], "password": admin["password"]})
        yield Velocity(http, answer.json()["authkey"])


@pytest.fixture
def obeying(base: Server, tmp_path: Path) -> bytes:
    """An ISO with a system that does nothing but end when its power button is pressed."""
    make_boot_files(base)
    (kernel,) = base.data.glob("boot/kernel/boot/vmlinuz-*")
    tree, root = tmp_path / "tree", tmp_path / "root"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(MENU)
    shutil.copy(kernel, tree / "vmlinuz")
    for folder in ("bin", "dev"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    for module in ("drivers/acpi/button.ko", "drivers/input/evdev.ko"):
        (found,) = base.data.glob(f"boot/kernel/lib/modules/*/kernel/{module}")
        shutil.copy(found, root)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with (tree / "initrd").open("wb") as out:
        packed = ["cpio", "--quiet", "--create", "--format=newc"]
        subprocess.run(packed, input=names.encode(), stdout=out, cwd=root, check=True, timeout=60)
    made = ["grub-mkrescue", "-o", str(tmp_path / "boot.iso"), str(tree)]
    subprocess.run(made, check=True, capture_output=True, timeout=120)
    return (tmp_path / "boot.iso").read_bytes()


async def test_a_guest_that_heeds_its_power_button_is_stopped_by_it(velocity: Velocity, obeying: bytes) -> None:
    gid = (await velocity.ok("PUT /u/group", name="g" + uuid.uuid4().hex[:8], parent_gid=0))["gid"]
    await velocity.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=True, manage=True)
    iso = await velocity.upload(gid, "system", "ISO", obeying, readonly=True)
    made = await velocity.ok(
        "PUT /v/vm/efi", name="obeys", gid=gid, cpus=1, memory_mib=256, nics=[], displays=[], rosetta=False,
        autostart=False, media=[{"mid": iso, "mode": "BLOCK", "readonly": True}],
    )  # fmt: skip
    vmid = made["vmid"]
    await velocity.ok("PUT /v/vm/state", vmid=vmid, state="RUNNING")
    await velocity.until(vmid, "RUNNING")
    async with asyncio.timeout(120):  # pressed before it listens, the button does nothing
        while (await velocity.ok("POST /v/vm/state", vmid=vmid))["state"] != "STOPPED":
            await velocity.ask("PUT /v/vm/state", vmid=vmid, state="STOPPED")
            await asyncio.sleep(1)
    await velocity.ok("DELETE /u/group", gid=gid)


async def test_an_efi_machine_boots_its_iso_and_stays_until_it_is_ended(
    velocity: Velocity, client: Client, medium: bytes
) -> None:
    gid = (await velocity.ok("PUT /u/group", name="g" + uuid.uuid4().hex[:8], parent_gid=0))["gid"]
    await velocity.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=True, manage=True)
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
