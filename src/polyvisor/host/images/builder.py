"""The built-in image that builds images: Debian 12 as a micro guest's root, with buildah and the little it needs.

Each build has a machine of it to itself (ADR 56), so what a stranger's instructions do there is done to nothing else.
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
from polyvisor.host.images.standard import GONE
from polyvisor.host.images.tools import missing
from polyvisor.model.faults import Unsupported
from polyvisor.model.image import ImageConfig
from polyvisor.ports.images import Progress

NAME = "image-builder"
CODENAME = "bookworm"
CONFIG = ImageConfig(
    env=(("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LANG", "C.UTF-8")),
    workdir="/root",
)
PACKAGES = ("buildah", "ca-certificates", "git", "netbase", "tar", "gzip")
_STORE = "/var/lib/containers/storage"
_FILES = {
    "etc/hostname": "image-builder\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
    # Its storage is a volume, since the kernel lays no overlay over another.
    "etc/containers/storage.conf": (
        f'[storage]\ndriver = "overlay"\nrunroot = "/run/containers/storage"\ngraphroot = "{_STORE}"\n'
    ),
    "etc/containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}\n',
    "etc/containers/registries.conf": 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n',
}
_CLEAN = (*GONE, "etc/containers/registries.conf.d/.wh..wh..opq", "var/lib/containers/.wh..wh..opq")


def recipe() -> str:
    """The digest of everything in this recipe; another one makes another image."""
    texts = (inspect.getsource(sys.modules[__name__]), inspect.getsource(bootstrap))
    return f"{NAME}:" + hashlib.sha256("\0".join(texts).encode()).hexdigest()


async def layers(work: Path, progress: Progress) -> Sequence[Path]:
    """The tree's layers, in `work`. :raise Unsupported: this host cannot; the text says what it lacks."""
    lacking = missing("mmdebstrap")
    if lacking:
        raise Unsupported(f"the {NAME} image needs packages that are not installed here: {', '.join(lacking)}")
    sources = bootstrap.sources_of(NAME, CODENAME)
    await bootstrap.make_tree(Release(NAME, CODENAME, PACKAGES, devices=False), sources, work, progress)
    above = work / "overlay.tar"
    with Overlay(above) as tree:
        tree.directory("dev")
        tree.directory("build", 0o700)
        for name in _CLEAN:
            tree.file(name, "")
        for name, content in _FILES.items():
            tree.file(name, content)
        tree.file("etc/apt/sources.list", "")  # nothing more is installed there
    return [work / "tree.tar", above]
