"""The built-in full image: Debian 12 with cloud-init, from this machine's own apt sources, for BIOS and UEFI.

mmdebstrap makes the packages' tree, we lay our few files over it and take out what must not be shared between
machines or told of this one, and `bootdisk` makes the disk. Without root the same runs in a user namespace.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import sys
from pathlib import Path

from polyvisor.host.images import bootdisk
from polyvisor.host.images.overlay import Overlay
from polyvisor.host.images.sources import Source, debian_sources
from polyvisor.host.images.tools import missing
from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported, Upstream
from polyvisor.model.units import GIB
from polyvisor.ports.images import Progress

NAME = "debian-12"
CODENAME = "bookworm"
SIZE = 2 * GIB
"""What the guest sees at least; its root grows into a larger disk at the first boot."""

PACKAGES = (
    "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "dbus", "libpam-systemd", "udev", "kmod", "zstd",
    "linux-image-cloud-amd64", "initramfs-tools", "cloud-init", "cloud-guest-utils", "fdisk", "e2fsprogs",
    "openssh-server", "sudo", "qemu-guest-agent", "ca-certificates", "iproute2", "iputils-ping", "procps", "less",
    "vim-tiny", "netbase",
)  # fmt: skip
TOOLS = ("mmdebstrap", "grub-mkimage", "mke2fs", "sfdisk", "mkfs.vfat", "mcopy", "qemu-img")

_GRUB_CFG = """\
# The links are kept by the kernel packages, so a new kernel needs no new file here.
serial --unit=0 --speed=115200
linux /vmlinuz root=UUID={root} ro console=tty0 console=ttyS0,115200 quiet
initrd /initrd.img
boot
"""
_FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/kernel-img.conf": "do_symlinks = yes\nlink_in_boot = no\n",
    # Two sources and no search: the seed that a VM is given, or nothing.
    "etc/cloud/cloud.cfg.d/90-datasource.cfg": "datasource_list: [NoCloud, None]\n",
    # A machine without a network must not wait two minutes for one.
    "etc/systemd/system/systemd-networkd-wait-online.service.d/10-short.conf": (
        "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=20\n"
    ),
}
_UNITS = "/lib/systemd/system"
_ENABLED = {
    "multi-user.target.wants/systemd-networkd.service": "systemd-networkd.service",
    "sockets.target.wants/systemd-networkd.socket": "systemd-networkd.socket",
    "network-online.target.wants/systemd-networkd-wait-online.service": "systemd-networkd-wait-online.service",
    "dbus-org.freedesktop.network1.service": "systemd-networkd.service",
}
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "systemd-pstore.service", "cloud-init-hotplugd.socket",
)  # fmt: skip

# Identity of a machine, keys, and what was copied from the host on the way.
_MAKE_ROOT = """\
set -e
umask 022
mkdir root
tar -x -p --numeric-owner --xattrs --xattrs-include='*' -C root -f tree.tar
rm -rf root/etc/ssh/ssh_host_* root/etc/apt/sources.list.d/* root/etc/apt/apt.conf.d/99mmdebstrap \
  root/etc/resolv.conf root/etc/machine-id root/var/lib/dbus/machine-id root/var/lib/systemd/random-seed \
  root/var/lib/systemd/credential.secret root/var/log/*.log root/var/log/apt root/var/cache/apt/*.bin \
  root/var/cache/debconf/*-old root/var/lib/dpkg/*-old root/etc/*- root/vmlinuz.old root/initrd.img.old
tar -x -p --numeric-owner -C root -f overlay.tar
mke2fs -q -F -t ext4 -m 1 -O ^metadata_csum_seed,^orphan_file -E lazy_itable_init=0,lazy_journal_init=0 \
  -L root -U "$1" -d root root.img "$2"
rm -rf root
"""
_STAGES = (
    ("running apt-get update", "reading the package lists", 0.02),
    ("downloading packages", "downloading the base system", 0.06),
    ("extracting archives", "unpacking the base system", 0.15),
    ("installing essential", "installing the base system", 0.2),
    ("installing remaining", "downloading and installing packages", 0.3),
    ("cleaning package lists", "cleaning up", 0.75),
    ("creating tarball", "packing the tree", 0.78),
)


def recipe() -> str:
    """The digest of everything in this recipe; another one makes another image."""
    texts = (inspect.getsource(sys.modules[__name__]), inspect.getsource(bootdisk))
    return "debian:" + hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _check_host() -> list[Source]:
    lacking = missing(*TOOLS)
    for target, package in (("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")):
        if not Path("/usr/lib/grub", target).is_dir():
            lacking.append(package)
    if lacking:
        raise Unsupported(f"the {NAME} image needs packages that are not installed here: {', '.join(lacking)}")
    sources = debian_sources(CODENAME)
    if not sources:
        raise Unsupported(f"the {NAME} image needs an apt source for Debian {CODENAME}; this machine has none")
    return sources


async def build(work: Path, progress: Progress) -> Path:
    """A raw disk in `work`. :raise Unsupported: this host cannot; the text says what it lacks."""
    sources = _check_host()
    await _bootstrap(sources, work, progress)
    plan = bootdisk.Plan(SIZE, NAME + recipe())
    progress("making the root file system", 0.8)
    _write_overlay(work / "overlay.tar", sources, plan)
    argv = ["sh", "-c", _MAKE_ROOT, "make-root", plan.uuid("root-fs"), f"{plan.root_size // 1024}k"]
    await run([*_as_root(), *argv], cwd=work, timeout=900)
    (work / "tree.tar").unlink()
    progress("making the boot disk", 0.9)
    return await bootdisk.assemble(plan, work / "root.img", work)


def _as_root() -> list[str]:
    """Files of many owners need root, or a user namespace with a range of them."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]


def _mounts_apart() -> list[str]:
    """It mounts the host's /dev/shm and more in its tree. Killed, it would leave them there, and who clears the tree
    away would clear those too; in a mount namespace of its own they are seen by nobody else and end with it."""
    return ["unshare", "--mount", "--propagation", "private"] if os.geteuid() == 0 else []


async def _bootstrap(sources: list[Source], work: Path, progress: Progress) -> None:
    listed = work / "sources.list"
    listed.write_text("".join(source.line() + "\n" for source in sources))
    listed.chmod(0o600)
    log = work / "mmdebstrap.log"
    argv = [
        *_mounts_apart(), "mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=apt", "--format=tar",
        "--architectures=amd64", f"--logfile={log}", f"--include={','.join(PACKAGES)}",
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        CODENAME, str(work / "tree.tar"), str(listed),
    ]  # fmt: skip
    watch = asyncio.create_task(_tell(log, progress))
    own = {"TMPDIR": str(work), "HOME": str(work)}
    try:
        done = await run(argv, timeout=1800, check=False, env=own, online=True)
    finally:
        watch.cancel()
    if done.code:
        said = log.read_text("utf-8", "replace")[-4000:] if log.exists() else done.err.decode("utf-8", "replace")
        raise _reason(said)


def _reason(said: str) -> Exception:
    errors = [line for line in said.splitlines() if line.startswith("E: ")]
    first = errors[0][3:203] if errors else "no reason given"
    if os.geteuid() != 0 and any(word in said for word in ("unshare", "newuidmap", "subuid", "namespace")):
        return Unsupported(
            f"the {NAME} image needs root, or user namespaces with a range of ids in /etc/subuid: {first}",
            private=said,
        )
    return Upstream(f"the packages of the {NAME} image could not be installed: {first}", private=said)


async def _tell(log: Path, progress: Progress) -> None:
    while True:
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        reached = [stage for stage in _STAGES if stage[0] in said]
        if reached:
            progress(reached[-1][1], reached[-1][2])
        await asyncio.sleep(0.5)


def _write_overlay(path: Path, sources: list[Source], plan: bootdisk.Plan) -> None:
    root = plan.uuid("root-fs")
    with Overlay(path) as tree:
        for name, content in _FILES.items():
            tree.file(name, content)
        tree.file("etc/fstab", f"UUID={root} / ext4 errors=remount-ro 0 1\n")
        tree.file("etc/apt/sources.list", "".join(source.line(public=True) + "\n" for source in sources))
        tree.file("boot/grub/grub.cfg", _GRUB_CFG.format(root=root))
        tree.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        for name, unit in _ENABLED.items():
            tree.link(f"etc/systemd/system/{name}", f"{_UNITS}/{unit}")
        for unit in _MASKED:
            tree.link(f"etc/systemd/system/{unit}", "/dev/null")
