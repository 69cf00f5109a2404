"""VMs made and driven by upstream's own client of the VergeOS dialect, over TLS, on real machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyvergeos import VergeClient
from pyvergeos.exceptions import ConflictError

from real.systems import system
from real.test_velocity import BUTTON, VIRTIO
from serving import Server

GIB = 2**30
COUNTS = r"""
bb=/bin/busybox
n=$($bb dd if=/dev/vda bs=512 count=1 2>/dev/null | $bb tr -dc 0-9)
n=$((n + 1))
write() { printf '%-512s' "$1" | $bb dd of=/dev/vda bs=512 seek=$2 conv=notrunc,fsync 2>/dev/null; }
write $n 0
for event in /dev/input/event*; do
  { $bb head -c 1 $event >/dev/null && write "clean $n" 1 && $bb sync && $bb poweroff -f; } &
done
wait
"""
MODULES = (*(f"drivers/virtio/{name}" for name in VIRTIO), "drivers/block/virtio_blk", *BUTTON)


class Verge:
    """Upstream's client of one server, and what a test wants to know beside it."""

    def __init__(self, server: Server) -> None:
        told = json.loads((server.data / "bootstrap.json").read_text())
        self.server = server
        self.url = str(told["tls_url"])
        self.key = str(told["api_key"])
        self.password = str(told["admin"]["password"])
        self.sdk = VergeClient(
            host=self.url.removeprefix("https://"), username=told["admin"]["username"], password=self.password,
            verify_ssl=False,
        )  # fmt: skip

    def vm(self, **more: Any) -> Any:
        """A new VM."""
        return self.sdk.vms.create(**{"name": "v" + uuid.uuid4().hex[:10], "ram": 512, "cpu_cores": 1, **more})

    def until(self, vm: Any, word: str, limit: float = 30) -> Any:
        """The VM once it is that."""
        return eventually(lambda: now if (now := vm.refresh()).get("status") == word else None, limit)

    def volume(self, drive: Any) -> Path:
        """The file behind a drive, which is the only new one of its size."""
        files = [
            one for one in (self.server.data / "volumes").glob("*.raw") if one.stat().st_size == drive.get("disksize")
        ]
        return max(files, key=lambda one: one.stat().st_mtime)


def eventually(look: Callable[[], Any], limit: float) -> Any:
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + limit
    while not (found := look()):
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.1)
    return found


@pytest.fixture
def verge(base: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Verge]:
    """The administrator's; what a test has made is gone after it."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # with either, its `verify_ssl=False` is not heard
        monkeypatch.delenv(name, raising=False)
    made = Verge(base)
    before = {vm.key for vm in made.sdk.vms.list()}
    yield made
    for vm in made.sdk.vms.list():
        if vm.key not in before:
            if vm.is_running or vm.get("status") not in ("stopped", "error"):
                vm.power_off(force=True)
                made.until(vm, "stopped")
            made.sdk.vms.delete(vm.key)
    made.sdk.disconnect()


@pytest.fixture(scope="module")
def counting(base: Server, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A system that counts its boots on its disk, and notes there when it is shut down by the power button."""
    return system(base, tmp_path_factory.mktemp("counting"), COUNTS, MODULES)


def furnished(verge: Verge, medium: bytes, **more: Any) -> tuple[Any, Path]:
    """A VM with an empty disk that boots that medium, and the file of its disk."""
    with tempfile.NamedTemporaryFile(suffix=".iso") as file:
        file.write(medium)
        file.flush()
        iso = verge.sdk.files.upload(file.name)
    vm = verge.vm(boot_order="dc", **more)
    disk = vm.drives.create(size_gb=1, name="disk")
    vm.drives.create(name="cd", media="cdrom", media_source=iso.key)
    return vm, verge.volume(disk)


def sector(disk: Path, number: int) -> str:
    """The text in a sector of a disk."""
    with disk.open("rb") as file:
        file.seek(number * 512)
        return file.read(512).rstrip(b"\0 ").decode()


def boots(disk: Path) -> int:
    """How often the system on that disk has come up."""
    return int(sector(disk, 0) or 0)


@pytest.mark.slow
def test_the_power_guide_on_a_guest_that_counts(verge: Verge, counting: bytes) -> None:
    vm, disk = furnished(verge, counting)
    vm.power_on()
    vm = verge.until(vm, "running", 30)
    assert (vm.get("node_key"), vm.get("cluster_name")) != (None, None)
    with pytest.raises(ConflictError, match="Cannot power on VM: already in running state"):
        vm.power_on()
    eventually(lambda: boots(disk) == 1, 90)
    vm.reset()  # the reset button: nothing is noted
    eventually(lambda: boots(disk) == 2, 90)
    assert sector(disk, 1) == ""
    assert vm.refresh().is_running
    vm.guest_reboot()  # graceful: it is shut down, and comes up again
    eventually(lambda: boots(disk) == 3, 120)
    assert sector(disk, 1) == "clean 2"
    vm.power_off()
    verge.until(vm, "stopped", 60)
    assert sector(disk, 1) == "clean 3"
    vm.power_on()
    eventually(lambda: boots(disk) == 4, 90)
    vm.power_off(force=True)
    verge.until(vm, "stopped", 30)
    assert sector(disk, 1) == "clean 3"
    with pytest.raises(ConflictError, match="Cannot power off VM: not in running state"):
        vm.power_off()


@pytest.mark.slow
def test_a_snapshot_of_a_running_vm_is_restored_and_its_clones_go_their_own_ways(verge: Verge, counting: bytes) -> None:
    vm, disk = furnished(verge, counting)
    vm.power_on()
    eventually(lambda: boots(disk) == 1, 90)
    vm.snapshots.create(name="running", retention=0, quiesce=False)
    (snap,) = vm.snapshots.list()
    assert snap.snap_machine_key != vm.machine_key
    vm.reset()
    eventually(lambda: boots(disk) == 2, 90)
    vm.power_off(force=True)
    verge.until(vm, "stopped")
    restored = verge.sdk.vms.get(
        int(vm.snapshots.restore(snap.key, name="r" + uuid.uuid4().hex[:8])["response"]["vmkey"])
    )
    mine = verge.volume(restored.drives.list()[0])
    assert boots(mine) == 1
    restored.power_on()
    eventually(lambda: boots(mine) == 2, 90)
    assert vm.drives.list()[0].get("disksize") == GIB
    vm.snapshots.restore(snap.key, replace_original=True)
    again = verge.sdk.vms.get(vm.key)
    assert (again.key, again.machine_key) == (vm.key, vm.machine_key)
    vm.snapshots.delete(snap.key)
    assert vm.snapshots.list() == []


@pytest.mark.slow
def test_parts_come_to_a_running_vm_and_it_hibernates(verge: Verge, counting: bytes) -> None:
    vm, disk = furnished(verge, counting)
    vm.power_on()
    eventually(lambda: boots(disk) == 1, 90)
    vm.hibernate()
    verge.until(vm, "hibernated", 60)
    vm.power_on()
    verge.until(vm, "running", 10)
    time.sleep(1)
    assert boots(disk) == 1  # it went on
    vm.hotplug_drive(name="hot", size=GIB, interface="virtio-scsi", tier=1)
    assert {one.name: one.get("status") for one in vm.drives.list()}["hot"] == "online"
    vm.hotplug_nic(name="cable", network="Internal")
    assert [(one.name, one.get("status")) for one in vm.nics.list()] == [("cable", "up")]
    vm = verge.sdk.vms.update(vm.key, ram=1024)
    assert vm.get("ram") == 1024
    assert vm.machine_status.get().running_ram == 512
    vm.power_off()
    verge.until(vm, "stopped", 60)
    vm.power_on()
    eventually(lambda: boots(disk) == 2, 90)
    assert vm.machine_status.get().running_ram == 1024


def test_upstreams_command_line_drives_a_vm(verge: Verge, tmp_path: Path) -> None:
    host = verge.url.removeprefix("https://")
    told = {"VERGE_HOST": host, "VERGE_TOKEN": verge.key, "HOME": str(tmp_path), "VERGE_VERIFY_SSL": "false"}
    environment = {key: value for key, value in os.environ.items() if not key.endswith("CA_BUNDLE")} | told

    def vrg(*words: str, code: int = 0) -> Any:
        line = [sys.executable, "-m", "verge_cli", "-o", "json", *words]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else done.stdout

    name, copy = ("c" + uuid.uuid4().hex[:8] for _ in range(2))
    vrg("vm", "create", "--name", name, "--ram", "512", "--cpu", "1")
    assert name in [row["name"] for row in vrg("vm", "list")]
    vrg("vm", "start", name, "--wait", "--timeout", "30")
    assert vrg("vm", "get", name)["status"] == "running"
    vrg("vm", "reset", name, "--yes")
    vrg("vm", "stop", name, "--force", "--wait", "--timeout", "30")
    vrg("vm", "snapshot", "create", name, "--name", "s")
    assert [row["name"] for row in vrg("vm", "snapshot", "list", name)] == ["s"]
    vrg("vm", "clone", name, "--name", copy)
    for one in (copy, name):
        vrg("vm", "delete", one, "--yes")
    assert not {name, copy} & {row["name"] for row in vrg("vm", "list")}
