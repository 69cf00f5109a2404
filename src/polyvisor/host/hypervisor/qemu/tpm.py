"""A machine's TPM 2.0: one `swtpm` per machine, joined to its hypervisor by a pair of sockets.

What it remembers is in a directory of the machine's own. It is started there, since it may open no path that leads to
it. It ends with the hypervisor once the two have spoken; before that it would wait for ever, so it is started second,
and one that is left over is looked for by where it works.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from polyvisor.host.hypervisor.qemu.process import as_user
from polyvisor.host.paths import TPM
from polyvisor.host.pids import Process
from polyvisor.host.run import find
from polyvisor.host.spawn import spawn
from polyvisor.model.faults import Unsupported
from polyvisor.model.spec import Spec

_PROGRAM = "swtpm"
_GRACE = 3.0  # to end by itself, with what it was about to write
_LIMITS = ("prlimit", "--core=0", "--nofile=64", "--fsize=4194304")


def is_installed() -> bool:
    """Whether this host has what makes one."""
    return find(_PROGRAM) is not None


def require(spec: Spec, *, able: bool) -> None:
    """:raise Unsupported: it is to have one, and none can be made here."""
    if spec.tpm.id and not able:
        raise Unsupported("tpm: swtpm is not installed here (Debian: swtpm)", field="tpm")


def argv(fd: int) -> list[str]:
    """The command line, of what is joined at `fd`."""
    control = f"type=unixio,clientfd={fd}"
    return [_PROGRAM, "socket", "--tpm2", "--tpmstate", "dir=.,mode=0600", "--ctrl", control, "--terminate"]


async def begin(directory: Path, spec: Spec, fd: int, *, log: int, uid: int | None) -> Process:
    """Start that of the machine in `directory`, with what it remembers. What another one did is forgotten."""
    await end(directory)
    place = directory / TPM / spec.tpm.id
    await asyncio.to_thread(_make, place, uid)
    line = [*_LIMITS, *(as_user(uid) if uid is not None else ()), *argv(fd)]
    return Process(await asyncio.to_thread(spawn, line, fds=[fd], output=log, cwd=str(place)))


def _make(place: Path, uid: int | None) -> None:
    place.parent.mkdir(mode=0o700, exist_ok=True)
    _forget(place.parent, place.name)
    place.mkdir(mode=0o700, exist_ok=True)
    if uid is not None:
        os.chown(place, uid, uid)


def _forget(folder: Path, but: str) -> None:
    for other in folder.iterdir():
        if other.name != but:
            shutil.rmtree(other, ignore_errors=True)


async def end(directory: Path) -> None:
    """That of the machine in `directory`, whose hypervisor has ended, ends as well. Safe to repeat."""
    if (directory / TPM).exists():
        await _end(await _of(directory))


async def require_alive(directory: Path) -> None:
    """:raise Unsupported: that of the machine in `directory` has ended, and with it what is to be saved of it."""
    if not await _of(directory):
        raise Unsupported("tpm: it has failed, so the machine cannot be saved until it was off", field="tpm")


async def _of(directory: Path) -> list[int]:
    here = directory.resolve()
    return [pid for pid, of in await asyncio.to_thread(_running) if of == here]


async def sweep(instances: Path, running: Collection[str]) -> None:
    """Those of machines below `instances` that are not `running` end."""
    here = instances.resolve()
    found = await asyncio.to_thread(_running)
    await _end([pid for pid, of in found if of.parent == here and of.name not in running])


def _running() -> list[tuple[int, Path]]:
    """Each that is there, and the directory of its machine. One that was removed meanwhile still has its name."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                place = Path(str((entry / "cwd").readlink()).removesuffix(" (deleted)"))
                if place.parent.name == TPM and _PROGRAM.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append((int(entry.name), place.parent.parent))
    return found


async def _end(pids: list[int]) -> None:
    await asyncio.gather(*map(_end_one, pids))


async def _end_one(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = Process(pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await process.wait()
        await process.kill()
