"""A VM as a careful user would run it by hand: the distribution's own kernel image, a small initial RAM disk, KVM or
TCG, no tuning. Timed until its userspace speaks."""

from __future__ import annotations

import os
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_MARK = b"userspace is here"
_LIMIT = 60.0
_INIT = f"""#!/bin/sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
echo {_MARK.decode()} > /dev/ttyS0
exec /bin/busybox sh
"""


@dataclass(frozen=True)
class Naive:
    """The files of such a VM, made once."""

    kernel: Path
    initrd: Path
    accelerator: str

    @classmethod
    def make(cls, boot: Path, accelerator: str, work: Path) -> Naive:
        """From the kernel package that the server has unpacked."""
        tree = work / "naive"
        (tree / "bin").mkdir(parents=True)
        for name in ("dev", "proc"):
            (tree / name).mkdir()
        (tree / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (tree / "bin" / "sh").symlink_to("busybox")
        (tree / "init").write_text(_INIT)
        for path in (tree / "init", tree / "bin" / "busybox"):
            path.chmod(0o755)
        initrd = work / "naive.cpio.gz"
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        cpio = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), cwd=tree, capture_output=True, check=True,
            timeout=30,
        )  # fmt: skip
        packed = subprocess.run(["gzip", "-c"], input=cpio.stdout, capture_output=True, check=True, timeout=30)
        initrd.write_bytes(packed.stdout)
        (kernel,) = boot.glob("kernel/boot/vmlinuz-*")
        return cls(kernel, initrd, accelerator)

    def boot(self) -> float:
        """Seconds from starting the process to the first word of its userspace."""
        argv = [
            "qemu-system-x86_64", "-accel", self.accelerator, "-m", "256M", "-nographic", "-no-reboot",
            "-kernel", str(self.kernel), "-initrd", str(self.initrd), "-append", "console=ttyS0 panic=-1",
            "-nic", "user,model=virtio-net-pci",
        ]  # fmt: skip
        begun = time.monotonic()
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            assert process.stdout is not None
            said = b""
            while _MARK not in said:
                left = _LIMIT - (time.monotonic() - begun)
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    raise TimeoutError(f"a hand-run machine did not boot: {said[-500:]!r}")
                said += (piece := os.read(process.stdout.fileno(), 65536))
                assert piece, said[-500:]
            return time.monotonic() - begun
        finally:
            process.kill()
            process.communicate()
