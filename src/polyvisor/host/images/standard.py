"""The built-in image to run code in: Debian 12 as a micro guest's root, with Python, Node and what one builds with.

mmdebstrap makes the packages' tree from this machine's own apt sources; it is one layer, our few files another above
it, which takes out what must not be shared between machines or told of this one.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.images import bootstrap
from polyvisor.host.images.bootstrap import Release
from polyvisor.host.images.overlay import Overlay
from polyvisor.host.images.sources import Source
from polyvisor.host.images.tools import missing
from polyvisor.model.faults import Unsupported
from polyvisor.model.image import ImageConfig
from polyvisor.ports.images import Progress

NAME = "standard"
CODENAME = "bookworm"
CONFIG = ImageConfig(
    env=(
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LANG", "C.UTF-8"),
    ),
    workdir="/app",
)
PACKAGES = (
    "python3", "python-is-python3", "python3-pip", "python3-venv", "python3-ipython", "nodejs", "npm", "git", "curl",
    "wget", "ca-certificates", "build-essential", "bash", "coreutils", "sudo", "procps", "iproute2", "iputils-ping",
    "openssh-client", "rsync", "netbase", "unzip", "xz-utils", "file", "less",
)  # fmt: skip
HOOKS = ('chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash appuser',)

_FILES = {
    "etc/hostname": "standard\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
    "etc/default/locale": "LANG=C.UTF-8\n",
    # The machine is the environment: a package that somebody installs here is meant for all of it.
    "etc/pip.conf": (
        "[global]\nbreak-system-packages = true\nroot-user-action = ignore\ndisable-pip-version-check = true\n"
    ),
    "etc/apt/apt.conf.d/90polyvisor": 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n',
}
GONE = (
    "etc/apt/apt.conf.d/.wh.99mmdebstrap", "etc/apt/sources.list.d/.wh..wh..opq", "var/log/.wh.apt",
    "var/log/.wh.dpkg.log", "var/log/.wh.alternatives.log", "var/log/.wh.bootstrap.log", "var/cache/apt/.wh..wh..opq",
    "var/lib/apt/lists/.wh..wh..opq", "etc/.wh.passwd-", "etc/.wh.group-", "etc/.wh.shadow-", "etc/.wh.gshadow-",
    "var/lib/dbus/.wh.machine-id",
)  # fmt: skip
"""What of a tree that was made here would tell of this machine, or must not be shared between machines."""


def recipe() -> str:
    """The digest of everything in this recipe; another one makes another image."""
    texts = (inspect.getsource(sys.modules[__name__]), inspect.getsource(bootstrap))
    return "standard:" + hashlib.sha256("\0".join(texts).encode()).hexdigest()


async def layers(work: Path, progress: Progress) -> Sequence[Path]:
    """The tree's layers, in `work`. :raise Unsupported: this host cannot; the text says what it lacks."""
    lacking = missing("mmdebstrap")
    if lacking:
        raise Unsupported(f"the {NAME} image needs packages that are not installed here: {', '.join(lacking)}")
    sources = bootstrap.sources_of(NAME, CODENAME)
    await bootstrap.make_tree(Release(NAME, CODENAME, PACKAGES, HOOKS, devices=False), sources, work, progress)
    above = work / "overlay.tar"
    _write_overlay(above, sources)
    return [work / "tree.tar", above]


def _write_overlay(path: Path, sources: Sequence[Source]) -> None:
    with Overlay(path) as tree:
        tree.directory("dev")
        tree.directory("app", 0o777)  # code runs as root, who comes by SSH may be somebody else
        for name in GONE:
            tree.file(name, "")
        for name, content in _FILES.items():
            tree.file(name, content)
        tree.file("etc/sudoers.d/appuser", "appuser ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        tree.file("etc/apt/sources.list", "".join(source.line(public=True) + "\n" for source in sources))
