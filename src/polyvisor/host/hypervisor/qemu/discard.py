"""What lets a machine give memory back that it maps privately: a few lines loaded into its QEMU, see `discard.c`."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from polyvisor.host.run import run
from polyvisor.model.faults import Internal

_SOURCE = Path(__file__).with_name("discard.c")
_FLAGS = ("-shared", "-fPIC", "-nostdlib", "-Os", "-std=gnu11", "-fvisibility=hidden", "-s", "-Wall", "-Wextra")


async def build(folder: Path) -> Path | None:
    """The library in that folder, named after what it is made of; None: there is no compiler."""
    recipe = hashlib.sha256(" ".join(_FLAGS).encode() + _SOURCE.read_bytes()).hexdigest()[:16]
    done = folder / f"discard-{recipe}.so"
    if not done.exists():
        if shutil.which("musl-gcc") is None:
            return None
        with tempfile.TemporaryDirectory(prefix="making-", dir=folder) as name:
            part = Path(name) / done.name
            await run(["musl-gcc", *_FLAGS, "-o", str(part), str(_SOURCE)], timeout=120)
            part.chmod(0o755)  # QEMU's own user loads it, by a descriptor
            part.replace(done)
    return done


def require_loaded(pid: int, library: Path | None) -> None:
    """A loader that cannot load it goes on without, and the first page given back would be a hole in an image.

    :raise Internal: the process runs without it.
    """
    name = library.name if library is not None else "/"
    if not any(line.endswith("/" + name) for line in Path(f"/proc/{pid}/maps").read_text().splitlines()):
        raise Internal("the hypervisor did not start", private=f"it has not loaded {name}")


def environment(library: int, memory: int) -> dict[str, str]:
    """Of a QEMU that has these descriptors: the library's and its memory file's."""
    return {"LD_PRELOAD": f"/proc/self/fd/{library}", "POLYVISOR_MEMORY_FD": str(memory)}
