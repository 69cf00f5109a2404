"""The full shape: Debian 12 from this machine's own packages, under BIOS and UEFI, with cloud-init, SSH and memory.

Such a guest takes a minute to boot here, so each shows many things.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from polyvisor.client import Client
from polyvisor.wire.native import (
    AttachVolume,
    CloudInitRequest,
    CreateInstance,
    CreateSnapshot,
    CreateVolume,
    ForkInstance,
    Instance,
    MountRequest,
    PortRequest,
    PullProgress,
)
from real.conftest import finish, share
from real.guests import Guests, lasting, run, sh
from real.namespaces import ground
from real.test_killed import BOOT_ID
from real.verges import Verge, eventually, sector
from real.visors import Visor
from serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
UP = 600.0
WHO = """hostname; cat /etc/machine-id; cat /sys/class/net/e*/address
for key in rsa ecdsa ed25519; do cut -d ' ' -f 2 /etc/ssh/ssh_host_${key}_key.pub; done
sed -n '/^MACAddress/p' /etc/systemd/network/*"""
SETTING = "/sys/firmware/efi/efivars/Polyvisor-5a1e2c30-94f7-4b5e-9d0a-3f0e6f2d7c11"
REMEMBER = f"printf '\\007\\0\\0\\0{{}}' > /tmp/v; chattr -i {SETTING} 2> /dev/null; cat /tmp/v > {SETTING}"
RECALL = f"cat {SETTING} | tail -c +5"  # such a file cannot be sought in
DATA = "#cloud-config\nbootcmd: [echo early > /run/early]\nruncmd: [echo late > /var/late]\n"
MANAGED = "networkctl --no-legend list | awk '$3 == \"ether\" {print $5}'"
USERS = {"bios": "dev", "uefi": "root"}
COLD = "deb-cold"
# Its unit writes who it is and which boot this is on the disk of 1 GiB: to the first sector once it is up, to the next
# one when it is stopped in order. Before logind is there, nobody heeds the power button. Later boots are to be quick.
MARKS = """#cloud-config
ssh_genkeytypes: [ed25519]
write_files:
- path: /usr/local/sbin/mark
  permissions: "0755"
  content: |
    #!/bin/sh
    disk=$(lsblk -bdno PATH,SIZE | awk '$2 == 1073741824 {print $1}')
    text="$(hostname) $(cat /proc/sys/kernel/random/boot_id)"
    printf '%-512s' "$text" | dd of=$disk bs=512 seek=$1 conv=notrunc,fsync
- path: /etc/systemd/system/marks.service
  content: |
    [Unit]
    After=systemd-logind.service
    [Service]
    Type=oneshot
    RemainAfterExit=yes
    ExecStart=/usr/local/sbin/mark 0
    ExecStop=/usr/local/sbin/mark 1
    [Install]
    WantedBy=multi-user.target
runcmd: [touch /etc/cloud/cloud-init.disabled, systemctl enable --now marks.service]
"""
# Runs at the first boot alone. Its unit says of each boot that it was shut down in order.
ONCE = """#!/bin/sh
echo ran >> /root/ran
cat > /etc/systemd/system/tells.service <<'END'
[Unit]
After=systemd-logind.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c "cat /proc/sys/kernel/random/boot_id >> /root/stopped; sync"
[Install]
WantedBy=multi-user.target
END
systemctl enable --now tells.service
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SSH key of the test's own."""
    return make_key(tmp_path_factory.mktemp("ssh") / "key")


def make_key(path: Path) -> Path:
    """A pair of keys, the public one beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, timeout=30)
    return path


async def ssh(
    vm: Instance, key: Path, user: str, command: str, prefix: tuple[str, ...] = (), known: Path = Path(os.devnull)
) -> str:
    """Run a command over SSH, from this host: through the forward in user mode, at the address in bridge mode. The host
    key that is shown is noted in `known`."""
    port = next((forward.host for forward in vm.ports if forward.guest == 22), 22)
    where = "127.0.0.1" if vm.ports else vm.address
    quiet = ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes"]
    argv = [*prefix, "ssh", "-i", str(key), *quiet, "-p", str(port), f"{user}@{where}", command]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_debian_is_built_once_and_its_progress_only_rises(base: Server, debian_told: list[PullProgress]) -> None:
    fractions = [said.fraction for said in debian_told if said.fraction is not None]
    assert fractions == sorted(fractions)
    image = debian_told[-1].image
    assert image is not None and (image.kind, image.names) == ("disk", ["debian-12:latest"])
    if len(debian_told) > 2:  # it was not there yet
        assert {"unpacking the base system", "making the boot disk"} <= {said.text for said in debian_told}
    assert base.cli("images", "pull", "debian-12", timeout=20, check=True).stdout == b"debian-12:latest\n"
    path = base.data / "images" / image.digest.removeprefix("sha256:") / "disk.qcow2"
    argv = ["qemu-img", "info", "-f", "qcow2", "-U", str(path)]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert "virtual size: 2 GiB" in said
    assert "backing file" not in said


async def boot_id(client: Client, key: str) -> str:
    """Which boot of the guest it is; empty while nobody answers."""
    try:
        return await sh(client, key, "cat /proc/sys/kernel/random/boot_id")
    except Exception:
        return ""


def test_vergeos_gives_it_first_boot_files_and_powers_it(
    verge: Verge, base: Server, debian_told: list[PullProgress]
) -> None:
    image = debian_told[-1].image
    assert image is not None
    path = base.data / "images" / image.digest.removeprefix("sha256:") / "disk.qcow2"
    file = verge.sdk.files.upload(path, name="debian-12.qcow2")
    files = {"/user-data": MARKS, "/meta-data": "instance-id: one\nlocal-hostname: marked\n"}
    vm = verge.vm(cloudinit_datasource="NoCloud", cloud_init=files)
    vm.drives.import_drive(file_key=file.key, name="root")
    verge.sdk.files.delete(file.key)
    marks = verge.volume(vm.drives.create(size_gb=1, name="marks"))
    vm.nics.create(network="Internal")

    def up(before: str) -> str:
        return str(eventually(lambda: now if (now := sector(marks, 0)) != before else None, UP))

    vm.power_on()
    first = up("")
    assert first.startswith("marked ")
    assert sector(marks, 1) == ""
    vm.guest_reboot()
    second = up(first)
    assert sector(marks, 1) == first  # it was shut down, and has another boot id now
    vm.power_off()
    verge.until(vm, "stopped", 120)
    assert sector(marks, 1) == second
    vm.power_on()
    up(second)
    vm.power_off(force=True)
    verge.until(vm, "stopped")
    assert sector(marks, 1) == second  # nobody asked it


def typed(terminal: str, line: str) -> str:
    """What a terminal says to that line, until its shell is gone."""
    with connect(terminal, proxy=None, open_timeout=60) as socket:
        socket.send(line)
        return b"".join(piece for piece in socket if isinstance(piece, bytes)).decode()


@pytest.mark.lengthy
@pytest.mark.timeout(2400)
async def test_hanzo_launches_it_with_keys_and_data(
    base: Server, client: Client, guests: Guests, debian: str, key: Path, tmp_path: Path
) -> None:
    """Keys, data that runs once, its size, and a volume that goes on to another machine."""
    visor, other = Visor(base), tmp_path / "other"
    make_key(other)
    keys = [path.with_suffix(".pub").read_text().strip() for path in (key, other)]
    where = {"organizationId": visor.organization, "region": "us-east"}

    def ask(line: str, status: int = 200, **fields: Any) -> Any:
        return asyncio.to_thread(visor.ok, line, status, **fields)

    async def up() -> Any:
        await asyncio.to_thread(visor.until, vm, "running", UP)
        await client.instances.wait(ours, ["ready"], timeout=UP)  # where it boots so slowly that it is told before
        return await ask("GET vm.one", vmId=vm)

    launched = await ask(
        "POST vm.launch", 201, name="Hanzo's own", plan="nano", os=debian, sshKeys=keys, userData=ONCE, **where
    )
    vm = launched["id"]
    ours = vm.removeprefix("vm_")
    volume = (await ask("POST volume.create", 201, name="h-moves", sizeGb=10, **where))["id"]
    place = {"vmId": vm, "volumeId": volume}
    assert (launched["status"], launched["ip"]) == ("provisioning", None)
    try:
        first = await up()
        # what it is, and who comes in
        # Not by `cloud-init status --wait`, which is busy all the while.
        await sh(client, ours, "until [ -e /var/lib/cloud/instance/boot-finished ]; do sleep 1; done")
        assert await sh(client, ours, "cat /root/ran; nproc; lsblk -bdno SIZE /dev/vda") == f"ran\n1\n{25 * 1024**3}"
        memory = int(await sh(client, ours, "awk '/^MemTotal/ {print $2}' /proc/meminfo"))
        assert 900 * 1024 < memory <= 1024**2
        native = await client.instances.get(ours)
        assert (first["ip"], first["sshPort"]) == ("127.0.0.1", native.ports[0].host)
        for one in (key, other):
            assert await ssh(native, one, "root", "id -un") == "root"
        assert vm in [one["id"] for one in await ask("GET vm.all", organizationId=visor.organization)]
        terminal = (await ask("GET vm.terminal", vmId=vm))["url"]
        assert "root of Debian\r\n" in await asyncio.to_thread(typed, terminal, "echo $(id -un) of Debian; exit\n")
        # a volume, over a restart and a stop
        assert (await ask("POST vm.attachVolume", mountPath="/mnt/data", **place))["mounted"] is True
        assert [one["id"] for one in await ask("GET vm.volumes", vmId=vm)] == [volume]
        made = await sh(client, ours, "head -c 3000000 /dev/urandom > /mnt/data/file; sha256sum < /mnt/data/file")
        assert "nofail" in await sh(client, ours, "grep ' /mnt/data ' /etc/fstab")
        await ask("POST vm.restart", vmId=vm)
        await up()
        # It is ready before logind, which hears the button, is there.
        await sh(client, ours, "until systemctl -q is-active tells.service; do sleep 1; done")
        await ask("POST vm.stop", vmId=vm)
        stopped = await asyncio.to_thread(visor.until, vm, "stopped", UP)
        assert (stopped["ip"], stopped["privateIp"]) == (first["ip"], first["privateIp"])
        await ask("POST vm.start", vmId=vm)
        assert (await up())["privateIp"] == first["privateIp"]
        told = await sh(client, ours, "cat /root/ran; wc -l < /root/stopped; uniq -d /root/stopped")
        assert told == "ran\n2", told
        assert await sh(client, ours, "sha256sum < /mnt/data/file") == made
        # which another machine gets
        await ask("POST vm.detachVolume", **place)
        assert await sh(client, ours, "! grep /mnt/data /etc/fstab; ! findmnt /mnt/data") == ""
        await ask("DELETE vm.destroy", 204, vmId=vm)
        small = await guests.boot()
        await ask("POST vm.attachVolume", vmId=f"vm_{small.id}", volumeId=volume, mountPath="/data")
        assert await sh(client, small.id, "sha256sum < /data/file") == made
    finally:
        await guests.discard()
        left = [one["id"] for one in await ask("GET vm.all", organizationId=visor.organization)]
        if vm in left:
            await ask("DELETE vm.destroy", 204, vmId=vm)
        await ask("DELETE volume.remove", 204, volumeId=volume)


@pytest.mark.bridge
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and bridges need root")
async def test_ssh_over_the_bridge(base: Server, debian: str, key: Path, tmp_path: Path) -> None:
    """DHCP by the guest's own networkd, names by the bridge's DNS, SSH from the host at the guest's address."""
    data = tmp_path / "data"
    share(base.data, data)
    share(base.data, data, "images")
    with ground() as made, made.host.inside():
        server = Server(data, "--network", "bridge", prefix=made.host.prefix).start()
        async with server.client() as client:
            init = CloudInitRequest(ssh_keys=[key.with_suffix(".pub").read_text().strip()], user="dev")
            vm = await Guests(client).boot(debian, name="deb-bridge", cloud_init=init, timeout=UP)
            await sh(client, vm.id, "cloud-init status --wait > /dev/null")
            assert vm.address and vm.address in await sh(client, vm.id, "hostname -I")
            assert await ssh(vm, key, "dev", "hostname", made.host.prefix) == "deb-bridge"
        finish(server)


# -- in memory --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["bios", pytest.param("uefi", marks=pytest.mark.lengthy)])
def source(request: pytest.FixtureRequest, base: Server, debian: str, key: Path) -> Iterator[str]:
    """The id of a guest of that firmware: with UEFI, two vCPUs and a word in its NVRAM; with BIOS, a larger disk and a
    volume."""
    public = key.with_suffix(".pub").read_text().strip()
    init = CloudInitRequest(ssh_keys=[public], user=USERS[request.param], user_data=DATA)
    fields = {"firmware": request.param, "memory": "512M", "cloud_init": init, "timeout": UP}
    if request.param == "uefi":
        fields |= {"vcpus": 2}
    else:
        base.cli("volumes", "create", COLD, "64M", timeout=20, check=True)
        fields |= {"disk": "4G", "volumes": [MountRequest(volume=COLD, path="/srv/cold")]}
    with lasting(base, debian, name=f"mem-{request.param}", **fields) as id:
        asyncio.run(_settle(base, id))
        yield id
    if request.param == "bios":
        base.cli("volumes", "rm", COLD, timeout=20, check=True)


async def _settle(base: Server, id: str) -> None:
    async with base.client() as client:
        await sh(client, id, "cloud-init status --wait > /dev/null; echo here > /root/disk; sync")
        if (await client.instances.get(id)).firmware == "uefi":
            await sh(client, id, REMEMBER.format("first"))


async def works(client: Client, id: str) -> None:
    """It reads and writes its disk, its clock is right, and its firmware answers; its network is there as well."""
    async with asyncio.timeout(60):  # a copy asks for its address once its link is up
        while await sh(client, id, MANAGED) != "configured":
            await asyncio.sleep(0.5)
    script = "cat /root/disk; echo more > /root/more; sync; until systemctl -q is-active ssh; do sleep 1; done"
    assert await sh(client, id, script) == "here"
    vm = await client.instances.get(id)
    if vm.firmware == "uefi":
        assert await sh(client, id, RECALL) == "first"
        await sh(client, id, REMEMBER.replace("Polyvisor-", "Another-").format("second"))


async def boots_anew(client: Client, id: str) -> None:
    """A reboot from inside is one, and what NVRAM held is still there."""
    before = await boot_id(client, id)
    await run(client, id, "systemctl", "reboot", "--no-block")
    async with asyncio.timeout(UP):
        while await boot_id(client, id) in (before, ""):
            await asyncio.sleep(1)
    await works(client, id)


@pytest.mark.parametrize("source", ["bios"], indirect=True)
async def test_volumes_come_and_go_and_it_reboots(client: Client, guests: Guests, source: str) -> None:
    assert await sh(client, source, "findmnt -n -o TARGET,FSTYPE /srv/cold | tr -s ' '") == "/srv/cold ext4"
    gigabytes = int(await sh(client, source, "df --output=size -B1M / | tail -n 1"))
    assert 3500 < gigabytes < 4096  # its root has grown into the disk
    # hot, made into something else by the guest, and read by another guest
    await client.volumes.create(CreateVolume(name="deb-hot", size="64M"))
    try:
        await client.instances.attach(source, AttachVolume(volume="deb-hot"))
        serial = (await client.volumes.get("deb-hot")).id[:20]
        await sh(
            client, source,
            f"d=/dev/disk/by-id/virtio-{serial}; udevadm settle; mkfs.ext4 -q -F $d && mount $d /mnt && "
            "echo from debian > /mnt/file && umount /mnt",
        )  # fmt: skip
        await client.instances.detach(source, "deb-hot")
        other = await guests.boot()
        await client.instances.attach(other.id, AttachVolume(volume="deb-hot", path="/v"))
        assert await sh(client, other.id, "cat /v/file") == "from debian"
    finally:
        await guests.discard()
        await client.volumes.delete("deb-hot")
    await boots_anew(client, source)
    await client.instances.wait(source, ["ready"], timeout=60)
    assert await sh(client, source, "findmnt -n -o TARGET /srv/cold") == "/srv/cold"
    await client.instances.detach(source, COLD)  # what it writes to would be in no copy of it


async def test_it_heeds_its_owners_data(client: Client, source: str, key: Path) -> None:
    vm = await client.instances.get(source)
    script = "cat /run/early /var/late; hostname; nproc; [ ! -d /sys/firmware/efi ] || echo efi"
    said = ["early", "late", vm.name, *(["2", "efi"] if vm.firmware == "uefi" else ["1"])]
    assert (await sh(client, source, script)).split() == said
    assert await ssh(vm, key, USERS[vm.firmware], "id -un") == USERS[vm.firmware]


async def test_it_goes_on_after_standby(client: Client, source: str, key: Path) -> None:
    boot = await sh(client, source, BOOT_ID)
    for _ in range(2):
        assert (await client.instances.standby(source)).state == "suspended"
        vm = await client.instances.restore(source, wait="ready")
        assert await sh(client, source, BOOT_ID) == boot
        await works(client, source)
        assert await ssh(vm, key, USERS[vm.firmware], "hostname") == vm.name


async def test_a_fork_is_another_machine_and_boots_anew(
    client: Client, guests: Guests, source: str, key: Path, tmp_path: Path
) -> None:
    vm = await client.instances.get(source)
    user = USERS[vm.firmware]
    boot, before = await sh(client, source, BOOT_ID), set((await sh(client, source, WHO)).splitlines())
    guests.also(f"{vm.name}-fork")
    ports = [PortRequest(guest=22), PortRequest(guest=8000)]
    asked = ForkInstance(name=f"{vm.name}-fork", ports=ports)
    fork = await client.instances.fork(source, asked, wait="ready", timeout=240)
    assert await sh(client, fork.id, BOOT_ID) == boot
    after = (await sh(client, fork.id, WHO)).splitlines()
    assert not before & set(after)
    assert after[0] == fork.name
    await works(client, fork.id)
    known = tmp_path / "known"
    assert await ssh(fork, key, user, "hostname", known=known) == fork.name
    assert known.read_text().split()[-1] in after
    assert await ssh(vm, key, USERS[vm.firmware], "hostname") == vm.name
    if vm.firmware == "uefi":  # which has an NVRAM to be found again
        await boots_anew(client, fork.id)
        fork = await client.instances.get(fork.id)  # another process has other host ports
        assert await ssh(fork, key, user, "hostname", known=known) == fork.name
    await works(client, source)


@pytest.mark.lengthy
@pytest.mark.parametrize("source", ["uefi"], indirect=True)  # which has an NVRAM to be kept as well
async def test_what_a_snapshot_kept_outlives_what_came_later(client: Client, guests: Guests, source: str) -> None:
    vm = await client.instances.get(source)
    kept = await client.instances.snapshot(source, CreateSnapshot(name=f"{vm.name}-kept", kind="full"))
    try:
        assert (await client.instances.get(source)).state == "running"
        await sh(client, source, "rm /root/disk; sync")
        await sh(client, source, REMEMBER.format("later"))
        guests.also(f"{vm.name}-made")
        made = CreateInstance(snapshot=kept.id, name=f"{vm.name}-made")
        await works(client, (await client.instances.create(made, wait="ready", timeout=240)).id)
        await client.instances.stop(source, force=True)
        await client.instances.revert(source, kept.id)
        assert (await client.instances.start(source, wait="ready", timeout=240)).ready
        await works(client, source)
    finally:
        await guests.discard()
        await client.snapshots.delete(kept.id)
