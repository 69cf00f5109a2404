"""A tree of layers, or one made here, into a squashfs: written once, read by every instance of the image.

Uncompressed on purpose: under emulation a guest unpacks slower than the host reads, and the host's page cache then
holds one plain copy for all guests (numbers in docs/adr/0002).
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.flatten import Tree
from polyvisor.host.images.layers import members, write_tar
from polyvisor.host.images.room import full, says_full
from polyvisor.host.images.threads import THREADS
from polyvisor.host.images.tools import need
from polyvisor.host.run import Limits, pour
from polyvisor.model.faults import Internal, Invalid
from polyvisor.model.units import GIB

_PLAIN = ["-noI", "-noId", "-noD", "-noF", "-noX"]


def flatten(layers: Sequence[Path], bounds: Bounds) -> Tree:
    """The layers as one tree. Blocking: minutes for the largest images. :raise Invalid: naming a hostile member."""
    tree = Tree(bounds)
    for number, path in enumerate(layers):
        tree.apply(members(path, number))
    return tree


async def squash(tree: Tree, layers: Sequence[Path], out: Path, bounds: Bounds) -> None:
    """`tree` as a squashfs at `out`; the same tree makes the same bytes."""
    root = tree.root.meta
    argv = ["sqfstar", *_PLAIN, "-quiet", "-no-progress", "-exit-on-error", "-mkfs-time", "0", "-mem", "512M"]
    argv += ["-processors", "1"]  # with more, the order of blocks is a matter of luck; there is nothing to compress
    argv += ["-root-mode", f"{root.mode:o}", "-root-uid", str(root.uid), "-root-gid", str(root.gid)]
    argv += ["-root-time", str(root.mtime), str(out)]
    limits = Limits(file_size=bounds.content + GIB, no_network=True)
    need("sqfstar")
    done = await pour(argv, partial(write_tar, tree, layers), threads=THREADS, timeout=3600, limits=limits)
    if done.code:
        said = (done.out + done.err).decode("utf-8", "replace")[-2000:]
        if says_full(said):
            raise full(said)
        if done.code == -signal.SIGXFSZ or "File too large" in said:
            raise Invalid("image: its root file system is larger than is allowed here", field="image", private=said)
        raise Internal("image: the root file system could not be written", private=f"exit {done.code}: {said}")
