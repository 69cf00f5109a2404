"""VMs made and driven by upstream's own client of the VergeOS dialect, over TLS, on real machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyvergeos.exceptions import APIError, ConflictError, NotFoundError

from real.systems import system
from real.test_velocity import BUTTON, VIRTIO
from real.verges import Verge, eventually, sector
from serving import Server

GIB = 2**30
COUNTS = r"""
bb=/bin/busybox
n=$($bb dd if=/dev/vda bs=512 count=1 2>/dev/null | $bb tr -dc 0-9)
n=$((n + 1))
write() { printf '%-512s' "$1" | $bb dd of=/dev/vda bs=512 seek=$2 conv=notrunc,fsync 2>/dev/null; }
for event in /dev/input/event*; do
  exec 3<$event # held before the boot is noted: a press that nobody listens to is lost
  { $bb head -c 1 <&3 >/dev/null && write "clean $n" 1 && $bb sync && $bb poweroff -f; } &
done
write $n 0
wait
"""
MODULES = (*(f"drivers/virtio/{name}" for name in VIRTIO), "drivers/block/virtio_blk", *BUTTON)


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


def test_what_is_refused_is_an_error_of_the_clients_and_leaves_nothing(verge: Verge) -> None:
    vm = verge.vm(cpu_cores=200)
    with pytest.raises(APIError, match="Insufficient cluster resources to start VM") as caught:
        vm.power_on()
    assert caught.value.status_code == 507
    with pytest.raises(ConflictError, match="not running"):
        vm.hotplug_drive(name="hot", size=GIB, interface="virtio-scsi", tier=1)
    assert vm.drives.list() == []
    verge.sdk.vms.delete(vm.key)
    for lost in (vm.power_on, vm.refresh):
        with pytest.raises(NotFoundError):
            lost()


def test_a_killed_server_leaves_whole_vms(another: Callable[..., Server]) -> None:
    server = another()
    receipts: list[Any] = []
    for _ in range(2):
        with _caller(server) as http, ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(_made, http) for _ in range(32)]
            while sum(one.done() for one in asked) <= 8:
                time.sleep(0.01)
            server.kill()
        receipts += [one.result() for one in asked]
        server.start()
    with _caller(server) as http:
        fields = "$key,name,machine,machine#status#status as status"
        rows = {row["$key"]: row for row in http.get("/vms", params={"fields": fields}).json()}
        for made in filter(None, receipts):  # whoever was answered has what he was told
            assert str(rows[int(made["$key"])]["machine"]) == made["response"]["machine"]
        assert {row["status"] for row in rows.values()} == {"stopped"}
        machines = http.get("/machines", params={"fields": "$key", "filter": "type eq 'vm'"}).json()
        assert {row["$key"] for row in machines} == {row["machine"] for row in rows.values()}
        owners = {row["owner"] for row in http.get("/cloudinit_files", params={"fields": "owner"}).json()}
        assert owners <= {f"vms/{key}" for key in rows}
        for key, row in rows.items():
            assert http.post("/vms", json={"name": row["name"]}).status_code == 422
            assert http.delete(f"/vms/{key}").status_code == 200
        for table in ("vms", "cloudinit_files"):
            assert http.get(f"/{table}").json() == []


def _caller(server: Server) -> httpx.Client:
    """The administrator's calls, without a client library that would ask again."""
    headers = {"Authorization": f"Bearer {server.facts['api_key']}"}
    return httpx.Client(base_url=f"{server.facts['url']}/api/v4", headers=headers, trust_env=False, timeout=60)


def _made(http: httpx.Client) -> Any:
    """The receipt of a new VM with a file; none from a server that is killed."""
    files = [{"name": "/user-data", "contents": "#cloud-config"}]
    body = {"name": "k" + uuid.uuid4().hex[:10], "cloudinit_datasource": "nocloud", "cloudinit_files": files}
    try:
        answer = http.post("/vms", json=body)
    except httpx.TransportError:
        return None
    assert answer.status_code == 201, answer.text
    return answer.json()


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
