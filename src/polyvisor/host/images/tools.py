"""The tools that images are made with, and the packages a Debian user gets them from."""

from __future__ import annotations

from polyvisor.host.run import find
from polyvisor.model.faults import Unsupported

PACKAGES = {
    "grub-mkimage": "grub-common",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "sfdisk": "fdisk",
    "skopeo": "skopeo",
    "sqfs2tar": "squashfs-tools-ng",
    "sqfstar": "squashfs-tools",
    "zstd": "zstd",
}


def missing(*tools: str) -> list[str]:
    """The packages to install before those tools can be used."""
    return sorted({PACKAGES[tool] for tool in tools if not find(tool)})


def need(*tools: str) -> None:
    """:raise Unsupported: naming the packages that this host lacks."""
    lacking = missing(*tools)
    if lacking:
        raise Unsupported(f"this host lacks the packages {', '.join(lacking)}, which this image needs")
