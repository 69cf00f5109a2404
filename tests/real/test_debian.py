"""The full shape: Debian 12 from this machine's own packages, under BIOS and UEFI, with cloud-init and SSH.

Such a guest takes a minute to boot here, so each of the two shows many things.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from polyvisor.client import Client
from polyvisor.host.guest.agent import Agent
from polyvisor.host.hypervisor.qemu.qmp import Qmp
from polyvisor.host.paths import AGENT_SOCKET, QMP_SOCKET
from polyvisor.model.guest import Identity
from polyvisor.model.instance import Address
from polyvisor.wire.native import (
    AttachVolume,
    CloudInitRequest,
    CreateVolume,
    Instance,
    MountRequest,
    PullProgress,
)
from real.conftest import finish, share
from real.guests import Guests, run, sh
from real.namespaces import ground
from serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
UP = 600.0
WHO = """hostname; cat /etc/machine-id; cat /sys/class/net/e*/address
for key in rsa ecdsa ed25519; do cut -d ' ' -f 2 /etc/ssh/ssh_host_${key}_key.pub; done
sed -n '/^MACAddress/p' /etc/systemd/network/*"""
MANAGED = "networkctl --no-legend list | awk '$3 == \"ether\" {print $5}'"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SSH key of the test's own."""
    path = tmp_path_factory.mktemp("ssh") / "key"
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


async def test_bios_with_cloud_init_ssh_and_volumes(client: Client, guests: Guests, debian: str, key: Path) -> None:
    for name in ("deb-cold", "deb-hot"):
        await client.volumes.create(CreateVolume(name=name, size="64M"))
    try:
        init = CloudInitRequest(ssh_keys=[key.with_suffix(".pub").read_text().strip()], user="dev")
        vm = await guests.boot(
            debian, name="deb-bios", firmware="bios", disk="4G", hostname="deb", cloud_init=init, timeout=UP,
            volumes=[MountRequest(volume="deb-cold", path="/srv/cold")],
        )  # fmt: skip
        assert vm.shape == "full" and vm.ready
        assert await sh(client, vm.id, "cloud-init status --wait > /dev/null; hostname; id -un dev") == "deb\ndev"
        assert await ssh(vm, key, "dev", "hostname; sudo id -u") == "deb\n0"
        gigabytes = int(await sh(client, vm.id, "df --output=size -B1M / | tail -n 1"))
        assert 3500 < gigabytes < 4096  # its root has grown into the disk
        assert await sh(client, vm.id, "findmnt -n -o TARGET,FSTYPE /srv/cold | tr -s ' '") == "/srv/cold ext4"
        # hot, made into something else by the guest, and read by another guest
        await client.instances.attach(vm.id, AttachVolume(volume="deb-hot"))
        serial = (await client.volumes.get("deb-hot")).id[:20]
        await sh(
            client, vm.id,
            f"d=/dev/disk/by-id/virtio-{serial}; udevadm settle; mkfs.ext4 -q -F $d && mount $d /mnt && "
            "echo from debian > /mnt/file && umount /mnt",
        )  # fmt: skip
        await client.instances.detach(vm.id, "deb-hot")
        other = await guests.boot()
        await client.instances.attach(other.id, AttachVolume(volume="deb-hot", path="/v"))
        assert await sh(client, other.id, "cat /v/file") == "from debian"
        # a reboot from inside: same process, volumes where they were; then the power button
        before = await sh(client, vm.id, "cat /proc/sys/kernel/random/boot_id")
        await run(client, vm.id, "systemctl", "reboot", "--no-block")
        async with asyncio.timeout(UP):
            while await boot_id(client, vm.id) in (before, ""):
                await asyncio.sleep(1)
        await client.instances.wait(vm.id, ["ready"], timeout=60)
        assert await sh(client, vm.id, "findmnt -n -o TARGET /srv/cold") == "/srv/cold"
        stopped = await client.instances.stop(vm.id, grace=60)
        assert (await client.instances.get(stopped.id)).state == "stopped"
    finally:
        await guests.discard()
        for name in ("deb-cold", "deb-hot"):
            await client.volumes.delete(name)


async def boot_id(client: Client, key: str) -> str:
    """Which boot of the guest it is; empty while nobody answers."""
    try:
        return await sh(client, key, "cat /proc/sys/kernel/random/boot_id")
    except Exception:
        return ""


async def test_uefi_with_the_owners_own_data(client: Client, guests: Guests, debian: str, key: Path) -> None:
    data = "#cloud-config\nbootcmd: [echo early > /run/early]\nruncmd: [echo late > /var/late]\n"
    init = CloudInitRequest(ssh_keys=[key.with_suffix(".pub").read_text().strip()], user="root", user_data=data)
    vm = await guests.boot(debian, name="deb-uefi", firmware="uefi", vcpus=2, cloud_init=init, timeout=UP)
    script = "cloud-init status --wait > /dev/null; cat /run/early /var/late; [ -d /sys/firmware/efi ]; nproc; hostname"
    assert await sh(client, vm.id, script) == "early\nlate\n2\ndeb-uefi"
    assert await ssh(vm, key, "root", "id -u") == "0"


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


async def test_a_copy_has_keys_and_a_name_of_its_own(base: Server, debian: str, key: Path, tmp_path: Path) -> None:
    """By the agent's own protocol, while no server holds it; the link is down meanwhile, as a copy's is."""
    data = tmp_path / "data"
    share(base.data, data)
    share(base.data, data, "images")
    server = Server(data).start()
    async with server.client() as client:
        init = CloudInitRequest(ssh_keys=[key.with_suffix(".pub").read_text().strip()], user="dev")
        vm = await Guests(client).boot(debian, name="deb-one", cloud_init=init, timeout=UP)
        await sh(client, vm.id, "cloud-init status --wait > /dev/null")
        before = await sh(client, vm.id, WHO)
        assert vm.address and await ssh(vm, key, "dev", "hostname") == "deb-one"
    server.kill()
    network = vm.address.rpartition(".")[0]
    address = Address("02:11:22:33:44:55", vm.address, 24, f"{network}.2", f"{network}.3")
    qmp = await Qmp.connect(data / "instances" / vm.id / QMP_SOCKET, 10)
    agent = await Agent.connect(data / "instances" / vm.id / AGENT_SOCKET, 30)
    await qmp.ask("set_link", name="net0", up=False)
    await agent.take_identity(Identity("deb-two", "5" * 32, address, os.urandom(32)))
    await qmp.ask("set_link", name="net0", up=True)
    await agent.close()
    await qmp.close()
    server.start()
    async with server.client() as client:
        async with asyncio.timeout(60):  # DHCP, now that its link is up
            while await sh(client, vm.id, MANAGED) != "configured":
                await asyncio.sleep(0.5)
        after = await sh(client, vm.id, WHO)
        assert not set(before.splitlines()) & set(after.splitlines())
        assert after.splitlines()[:3] == ["deb-two", "5" * 32, address.mac]
        known = tmp_path / "known"
        assert await ssh(vm, key, "dev", "hostname", known=known) == "deb-two"
        assert known.read_text().split()[-1] in after.splitlines()
    finish(server)
