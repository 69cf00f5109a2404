"""Compiling the guest agent: one small static C program, no libraries, no build system."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported

_FLAGS = ("-static", "-Os", "-std=gnu11", "-D_GNU_SOURCE", "-s", "-Wall", "-Wextra", "-Wshadow", "-Wconversion")
_BESIDE_THE_PACKAGE = Path(__file__).parents[4] / "guest"  # a checkout
_INSTALLED = Path(sys.prefix) / "share" / "polyvisor" / "guest"  # a wheel


def sources() -> list[Path]:
    """The C files and headers, in a fixed order. :raise Unsupported: they are not installed."""
    for folder in (_BESIDE_THE_PACKAGE, _INSTALLED):
        if found := sorted(folder.glob("*.[ch]")):
            return found
    raise Unsupported("the guest agent's sources are not installed")


def recipe() -> str:
    """What the agent is made of."""
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


async def build(out: Path) -> None:
    """Compile into `out`. :raise Unsupported: no compiler."""
    if shutil.which("musl-gcc") is None:
        raise Unsupported("musl-gcc is not installed (Debian: musl-tools)")
    units = [str(path) for path in sources() if path.suffix == ".c"]
    await run(["musl-gcc", *_FLAGS, "-o", str(out), *units], timeout=120)
    out.chmod(0o755)
