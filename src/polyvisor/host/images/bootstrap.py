"""mmdebstrap: the tree of a Debian release and some of its packages, from this machine's own apt sources.

Without root it runs in a user namespace.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.images.sources import Source, debian_sources
from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported, Upstream
from polyvisor.ports.images import Progress

_STAGES = (
    ("running apt-get update", "reading the package lists", 0.02),
    ("downloading packages", "downloading the base system", 0.06),
    ("extracting archives", "unpacking the base system", 0.15),
    ("installing essential", "installing the base system", 0.2),
    ("installing remaining", "downloading and installing packages", 0.3),
    ("cleaning package lists", "cleaning up", 0.75),
    ("creating tarball", "packing the tree", 0.78),
)


@dataclass(frozen=True, slots=True)
class Release:
    """What image it is for, of what release, with which packages; `hooks` are run with the tree's path as `$1`.
    `devices`: whether /dev has nodes."""

    name: str
    codename: str
    packages: Sequence[str]
    hooks: Sequence[str] = ()
    devices: bool = True


def sources_of(name: str, codename: str) -> list[Source]:
    """:raise Unsupported: this machine's apt has none for that release."""
    sources = debian_sources(codename)
    if not sources:
        raise Unsupported(f"the {name} image needs an apt source for Debian {codename}; this machine has none")
    return sources


def as_root() -> list[str]:
    """Files of many owners need root, or a user namespace with a range of them."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]


def _mounts_apart() -> list[str]:
    """It mounts the host's /dev/shm and more in its tree. Killed, it would leave them there, and who clears the tree
    away would clear those too; in a mount namespace of its own they are seen by nobody else and end with it."""
    return ["unshare", "--mount", "--propagation", "private"] if os.geteuid() == 0 else []


async def make_tree(release: Release, sources: Sequence[Source], work: Path, progress: Progress) -> None:
    """`tree.tar` in `work`. :raise Upstream: the packages do not install. :raise Unsupported: not as this user."""
    listed = work / "sources.list"
    listed.write_text("".join(source.line() + "\n" for source in sources))
    listed.chmod(0o600)
    log = work / "mmdebstrap.log"
    argv = [
        *_mounts_apart(), "mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--variant=apt", "--format=tar",
        "--architectures=amd64", f"--logfile={log}", f"--include={','.join(release.packages)}",
        '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--customize-hook={command}" for command in release.hooks),
        *([] if release.devices else ["--skip=output/dev"]),
        release.codename, str(work / "tree.tar"), str(listed),
    ]  # fmt: skip
    watch = asyncio.create_task(_tell(log, progress))
    own = {"TMPDIR": str(work), "HOME": str(work)}
    try:
        done = await run(argv, timeout=1800, check=False, env=own, online=True)
    finally:
        watch.cancel()
    if done.code:
        said = log.read_text("utf-8", "replace")[-4000:] if log.exists() else done.err.decode("utf-8", "replace")
        raise _reason(release.name, said)


def _reason(name: str, said: str) -> Exception:
    errors = [line for line in said.splitlines() if line.startswith("E: ")]
    first = errors[0][3:203] if errors else "no reason given"
    if os.geteuid() != 0 and any(word in said for word in ("unshare", "newuidmap", "subuid", "namespace")):
        return Unsupported(
            f"the {name} image needs root, or user namespaces with a range of ids in /etc/subuid: {first}",
            private=said,
        )
    return Upstream(f"the packages of the {name} image could not be installed: {first}", private=said)


async def _tell(log: Path, progress: Progress) -> None:
    while True:
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        reached = [stage for stage in _STAGES if stage[0] in said]
        if reached:
            progress(reached[-1][1], reached[-1][2])
        await asyncio.sleep(0.5)
