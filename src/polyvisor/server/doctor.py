"""`polyvisor doctor`: what this host can do, found by doing it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.hypervisor.qemu.driver import open_qemu
from polyvisor.host.network import enclosed, passt, rules
from polyvisor.host.network.egress import Facts
from polyvisor.host.pids import uid_of
from polyvisor.host.run import run
from polyvisor.model.egress import OPEN
from polyvisor.model.faults import Fault
from polyvisor.model.instance import Address
from polyvisor.model.network import NetworkMode
from polyvisor.model.units import GIB, show_size
from polyvisor.ports.hypervisor import UserNic
from polyvisor.server.config import Config

_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "sqfstar": "squashfs-tools",
    "skopeo": "skopeo",
    "xorrisofs": "xorriso",
    "busybox": "busybox-static",
    "musl-gcc": "musl-tools",
    "setpriv": "util-linux",
}
_DEBIAN_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.vfat": "dosfstools",
    "mcopy": "mtools",
    "grub-mkimage": "grub-common",
}
_INGRESS_TOOLS = {"caddy": "caddy"}
_TPM_TOOLS = {"swtpm": "swtpm"}
_BRIDGE_TOOLS = {"ip": "iproute2", "nft": "nftables", "dnsmasq": "dnsmasq-base", "conntrack": "conntrack"}
_ANY_NIC = Address("02:00:00:00:00:01", "10.128.0.15", 24, "10.128.0.2", "10.128.0.3")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `needed`: these settings cannot do without it."""

    name: str
    ok: bool
    needed: bool
    text: str


async def examine(config: Config) -> list[Finding]:
    """Everything, each found by trying."""
    bridge = config.network.mode == NetworkMode.BRIDGE
    findings = [await _accelerator(), _kvm_device(), _disk(config)]
    findings += [_tool(name, package, True) for name, package in _TOOLS.items()]
    findings += [_tool(name, package, False) for name, package in (_DEBIAN_TOOLS | _INGRESS_TOOLS | _TPM_TOOLS).items()]
    findings += [_tool(name, package, bridge) for name, package in _BRIDGE_TOOLS.items()]
    findings += [
        await _try("tap", _tap, bridge),
        await _try("nftables", lambda: _nftables(config), bridge),
        _forwarding(bridge),
    ]
    findings += [await _try("passt", _passt, not bridge), await _try("egress policies", _enclosure, False)]
    findings += [_cgroups(), _uefi()]
    findings.append(Finding("uid per VM", os.geteuid() == 0, False, "machines run under uids of their own" if
                            os.geteuid() == 0 else "not root: machines run under this user's uid"))  # fmt: skip
    return findings


async def _accelerator() -> Finding:
    try:
        driver = await open_qemu()
    except Fault as fault:
        return Finding("accelerator", False, True, f"{fault.public} {fault.private}")
    why = f" ({driver.refused})" if driver.refused else ""
    return Finding("accelerator", True, True, f"{driver.accelerator}: ran guest code in QEMU {driver.version}{why}")


def _kvm_device() -> Finding:
    ok = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return Finding("/dev/kvm", ok, False, "opens (that alone proves nothing)" if ok else "not accessible")


def _disk(config: Config) -> Finding:
    place = config.data
    while not place.exists():
        place = place.parent
    usage = os.statvfs(place)
    free = usage.f_bavail * usage.f_frsize
    return Finding("disk", free > GIB, True, f"{show_size(free)} free for {config.data}")


def _tool(name: str, package: str, needed: bool) -> Finding:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return Finding(name, found is not None, needed, found or f"not installed (Debian: {package})")


async def _try(name: str, attempt: Callable[[], Awaitable[str]], needed: bool) -> Finding:
    try:
        return Finding(name, True, needed, await attempt())
    except (Fault, OSError) as error:
        return Finding(name, False, needed, getattr(error, "private", "") or str(error))


async def _in_a_namespace(script: str) -> None:
    """Try it where nothing of the host can be touched."""
    await run(["unshare", "--net", "sh", "-ec", script], timeout=10)


async def _tap() -> str:
    await _in_a_namespace(
        "ip tuntap add pvdoctor mode tap; ip link add pvbr type bridge; ip link set pvdoctor master pvbr"
    )
    return "made a bridge and a TAP in a network namespace"


async def _passt() -> str:
    """Joined to nothing it ends at once, so that it can be tried without a trace."""
    sock, joined = passt.join(UserNic(()), _ANY_NIC, None)
    with sock:
        await joined
    return f"runs; guests leave by {passt.outbound() or 'nothing: there is no default route'}"


async def _enclosure() -> str:
    """What user mode needs for them; as `_passt`, and under a uid as a machine is."""
    nic = UserNic((), enclosure=enclosed.enclosure("doctor", OPEN, Facts(), _ANY_NIC.dns))
    sock, joined = passt.join(nic, _ANY_NIC, uid_of(0) if os.geteuid() == 0 else None)
    with sock:
        await joined
    return "made a network in a user namespace, with rules and a resolver of its own"


def _forwarding(bridge: bool) -> Finding:
    """Written by the server when it starts; a read-only one is what a container without rights has."""
    ok = os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK)
    return Finding("ip_forward", ok, bridge, "may be set" if ok else "may not be set: bridge mode needs root")


async def _nftables(config: Config) -> str:
    words = rules.table(config.default_network(), config.network.bridge, [])
    await run(["unshare", "--net", "nft", "-f", "-"], stdin=words.encode(), timeout=10)
    return "loaded our rules in a network namespace"


def _cgroups() -> Finding:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return Finding("cgroups", True, False, "version 2")
    ok = Path("/sys/fs/cgroup/memory").exists()
    return Finding("cgroups", ok, False, "version 1" if ok else "none")


def _uefi() -> Finding:
    found = [p for p in ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd") if Path(p).exists()]
    return Finding("UEFI", bool(found), False, found[0] if found else "not installed (Debian: ovmf)")
