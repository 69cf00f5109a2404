"""The built-in full image: Debian 12 with cloud-init, from this machine's own apt sources, for BIOS and UEFI.

mmdebstrap makes the packages' tree, we lay our few files over it and take out what must not be shared between
machines or told of this one, and `bootdisk` makes the disk. Without root the same runs in a user namespace.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from pathlib import Path

from polyvisor.host.images import bootdisk, bootstrap
from polyvisor.host.images.bootstrap import Release
from polyvisor.host.images.overlay import Overlay
from polyvisor.host.images.sources import Source
from polyvisor.host.images.tools import missing
from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported
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


def recipe() -> str:
    """The digest of everything in this recipe; another one makes another image."""
    texts = (inspect.getsource(sys.modules[__name__]), inspect.getsource(bootdisk), inspect.getsource(bootstrap))
    return "debian:" + hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _check_host() -> list[Source]:
    lacking = missing(*TOOLS)
    for target, package in (("i386-pc", "grub-pc-bin"), ("x86_64-efi", "grub-efi-amd64-bin")):
        if not Path("/usr/lib/grub", target).is_dir():
            lacking.append(package)
    if lacking:
        raise Unsupported(f"the {NAME} image needs packages that are not installed here: {', '.join(lacking)}")
    return bootstrap.sources_of(NAME, CODENAME)


async def build(work: Path, progress: Progress) -> Path:
    """A raw disk in `work`. :raise Unsupported: this host cannot; the text says what it lacks."""
    sources = _check_host()
    await bootstrap.make_tree(Release(NAME, CODENAME, PACKAGES), sources, work, progress)
    plan = bootdisk.Plan(SIZE, NAME + recipe())
    progress("making the root file system", 0.8)
    _write_overlay(work / "overlay.tar", sources, plan)
    argv = ["sh", "-c", _MAKE_ROOT, "make-root", plan.uuid("root-fs"), f"{plan.root_size // 1024}k"]
    await run([*bootstrap.as_root(), *argv], cwd=work, timeout=900)
    (work / "tree.tar").unlink()
    progress("making the boot disk", 0.9)
    return await bootdisk.assemble(plan, work / "root.img", work)


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
