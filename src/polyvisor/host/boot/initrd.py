"""The initial RAM disk: the agent as `/init` and the kernel modules it loads, in the order in which it loads them.

Uncompressed, because unpacking costs an emulated CPU more than the host's page cache costs anybody.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from pathlib import Path

from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported

# What the root stands on; what only a networked guest needs, and one with overlays; what no workload waits for.
GROUPS = {
    "boot": ("virtio_pci", "virtio_blk", "virtio_console", "qemu_fw_cfg", "squashfs", "overlay"),
    "net": ("virtio_net",),
    "overlays": ("loop",),
    "late": ("pvpanic_pci", "virtio_rng", "virtio_balloon"),
}


def recipe(agent: Path) -> str:
    """What it is made of, besides the kernel."""
    return hashlib.sha256(f"1\0{agent.name}\0{GROUPS}".encode()).hexdigest()[:16]


async def build(agent: Path, modules: Path, out: Path) -> None:
    """Write the archive to `out`."""
    with tempfile.TemporaryDirectory(prefix="initrd-", dir=out.parent) as name:
        tree = Path(name) / "tree"
        (tree / "modules").mkdir(parents=True)
        shutil.copyfile(agent, tree / "init")
        (tree / "init").chmod(0o755)
        order = await _dependencies(modules, Path(name))
        await asyncio.to_thread(_lay, tree, modules, order)
        names = ["init", "modules", *(f"modules/{file.name}" for file in sorted((tree / "modules").iterdir()))]
        done = await run(
            ["cpio", "--quiet", "--create", "--format=newc", "--reproducible", "--owner=0:0"],
            stdin="\n".join(names).encode(), cwd=tree, timeout=60, max_output=2**28,
        )  # fmt: skip
        await asyncio.to_thread(out.write_bytes, done.out)


async def _dependencies(modules: Path, work: Path) -> dict[str, list[str]]:
    """Module name to the files it needs, itself last. depmod works on a copy of the tree's shape: links."""
    base = work / "depmod"
    version = base / "lib" / "modules" / modules.name
    version.parent.mkdir(parents=True)
    await asyncio.to_thread(shutil.copytree, modules, version, copy_function=_link, ignore_dangling_symlinks=True)
    await run(["/sbin/depmod", "-b", str(base), modules.name], timeout=120)
    found = {}
    for line in (version / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        name = Path(path).name.partition(".ko")[0].replace("-", "_")
        found[name] = [*reversed(needs.split()), path]
    built_in = {Path(line).stem.replace("-", "_") for line in _lines(version / "modules.builtin")}
    for module in GROUPS["boot"] + GROUPS["net"]:
        if module not in found and module not in built_in:
            raise Unsupported(f"the kernel of {modules} has no {module}", field="host.modules")
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).absolute())


def _lay(tree: Path, modules: Path, order: dict[str, list[str]]) -> None:
    """The modules' files under their plain names, and the list that says when each is loaded."""
    lines: list[str] = []
    laid: set[str] = set()
    for group, names in GROUPS.items():
        for module in names:
            for path in order.get(module, []):  # one that is not there is built into the kernel
                if path in laid:
                    continue
                laid.add(path)
                shutil.copyfile(modules / path, tree / "modules" / Path(path).name)
                lines.append(f"{group} {Path(path).name}")
    (tree / "modules" / "order").write_text("\n".join(lines) + "\n")
