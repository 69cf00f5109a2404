"""The built-in tiny image: this machine's static busybox and nothing else. No download, a fraction of a second.

It names no command: a VM made from it without one has no workload and idles.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from polyvisor.host.images.overlay import Overlay
from polyvisor.host.run import find, run
from polyvisor.model.faults import Unsupported
from polyvisor.model.image import ImageConfig

NAME = "busybox"
CONFIG = ImageConfig(
    env=(("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),),
    workdir="/",
)
_VERSION = b"2"  # of the tree below: a change makes another image
_PT_INTERP = 3

_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "proc": 0o555, "root": 0o700,
    "run": 0o755, "sbin": 0o755, "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755,
    "usr/sbin": 0o755, "var": 0o755, "var/log": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    ),
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/resolv.conf": "",
}


def binary() -> Path:
    """This machine's busybox. :raise Unsupported: there is none, or it needs libraries."""
    found = find("busybox")
    if not found:
        raise Unsupported("the busybox image needs busybox (Debian: busybox-static), which is not installed here")
    path = Path(found).resolve()
    if not is_static(path.read_bytes()):
        raise Unsupported("the busybox image needs a static busybox (Debian: busybox-static); this one is not")
    return path


def is_static(elf: bytes) -> bool:
    """Whether a 64-bit little-endian ELF asks for no interpreter."""
    if elf[:6] != b"\x7fELF\x02\x01" or len(elf) < 64:
        return False
    (offset,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    starts = [offset + size * n for n in range(count) if offset + size * (n + 1) <= len(elf)]
    return all(struct.unpack_from("<I", elf, start)[0] != _PT_INTERP for start in starts)


def recipe(path: Path) -> str:
    """What this host's busybox image is made of."""
    return "busybox:" + hashlib.sha256(_VERSION + path.read_bytes()).hexdigest()


async def layer(path: Path, out: Path) -> None:
    """The tree as one layer: the binary, and a link for each of its applets."""
    applets = (await run([str(path), "--list-full"], timeout=10)).out.decode().split()
    with Overlay(out) as tree:
        for name, mode in _DIRECTORIES.items():
            tree.directory(name, mode)
        for name, content in _FILES.items():
            tree.file(name, content)
        tree.file("bin/busybox", path.read_bytes(), 0o755)
        for applet in sorted({*applets, "bin/sh"} - {"bin/busybox", "linuxrc"}):
            tree.link(applet, "/bin/busybox")
