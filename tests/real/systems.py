"""Bootable media with a system that does one thing: a script and the modules it needs, started without a wait."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from real.guests import make_boot_files
from serving import Server

MENU = "set timeout=0\nmenuentry one { linux /vmlinuz quiet\ninitrd /initrd }\n"
FIRST = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /*.ko; do /bin/busybox insmod $module; done
"""


def system(base: Server, folder: Path, script: str, modules: Sequence[str]) -> bytes:
    """An ISO of it, made in `folder` from the kernel of `base`; modules are loaded in order, as paths without `.ko`."""
    make_boot_files(base)
    (kernel,) = base.data.glob("boot/kernel/boot/vmlinuz-*")
    tree, root = folder / "tree", folder / "root"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(MENU)
    shutil.copy(kernel, tree / "vmlinuz")
    for name in ("bin", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    (root / "init").write_text(FIRST + script)
    (root / "init").chmod(0o755)
    for number, module in enumerate(modules):
        (found,) = base.data.glob(f"boot/kernel/lib/modules/*/kernel/{module}.ko")
        shutil.copy(found, root / f"{number:02}.ko")
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    with (tree / "initrd").open("wb") as out:
        packed = ["cpio", "--quiet", "--create", "--format=newc"]
        subprocess.run(packed, input=names.encode(), stdout=out, cwd=root, check=True, timeout=60)
    made = ["grub-mkrescue", "-o", str(folder / "boot.iso"), str(tree)]
    subprocess.run(made, check=True, capture_output=True, timeout=120)
    return (folder / "boot.iso").read_bytes()
