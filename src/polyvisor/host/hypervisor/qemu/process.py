"""Finding a QEMU process and proving that it is the one we started.

A pid alone proves nothing after a reboot or a wrap: the boot id, the start time in ticks and the uuid on the command
line must match the run record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from polyvisor.host.pids import Process, is_ours, start_ticks
from polyvisor.host.runs import boot_id
from polyvisor.host.spawn import spawn
from polyvisor.model.instance import RunRecord

_KVM = Path("/dev/kvm")
# A start is six thousand page faults, half of them of the heap, and where the host is a guest itself each takes ten
# microseconds. With huge pages, in one heap for all threads and for what is up to 4 MiB, it is two and a half thousand.
_TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4194304:glibc.malloc.arena_max=1"


def as_user(uid: int) -> list[str]:
    """The wrapper that makes a process nobody: `uid` without a capability, and of all groups only KVM's."""
    kvm = _KVM.stat() if _KVM.exists() else None
    groups = f"--groups={kvm.st_gid}" if kvm is not None and kvm.st_gid and kvm.st_mode & 0o060 else "--clear-groups"
    return [
        "setpriv", f"--reuid={uid}", f"--regid={uid}", groups, "--no-new-privs", "--inh-caps=-all",
        "--bounding-set=-all",
    ]  # fmt: skip


def uuid_of(pid: int) -> str | None:
    """The value of `-uuid` on the command line of a QEMU process of ours."""
    if not is_ours(pid):
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if not words or b"qemu-system" not in words[0] or b"-uuid" not in words:
        return None
    at = words.index(b"-uuid") + 1
    return words[at].decode(errors="replace") if at < len(words) else None


def is_alive(record: RunRecord) -> bool:
    """Whether the very process of this record still runs."""
    return (
        record.boot_id == boot_id()
        and start_ticks(record.pid) == record.start_ticks
        and uuid_of(record.pid) == record.uuid
    )


def find_all() -> list[tuple[int, str]]:
    """(pid, uuid) of every QEMU process on the host that has a uuid."""
    pids = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [(pid, found) for pid in pids if (found := uuid_of(pid)) and start_ticks(pid) is not None]


async def start(
    argv: Sequence[str], *, fds: Sequence[int], log: int, uid: int | None, env: Mapping[str, str] | None = None
) -> Process:
    """Start QEMU in a session of its own, as `uid` without any capability when one is given."""
    prefix = ["prlimit", "--core=0", "--nofile=4096"]
    if uid is not None:
        prefix += as_user(uid)
    environment = {"GLIBC_TUNABLES": _TUNABLES, **(env or {})}
    pid = await asyncio.to_thread(spawn, [*prefix, *argv], fds=fds, output=log, env=environment)
    return Process(pid)


def record_of(pid: int, uuid: str, *, binary: str, version: str, accelerator: str) -> RunRecord:
    """The proof of a process that was just started."""
    return RunRecord(1, boot_id(), pid, start_ticks(pid) or 0, uuid, binary, version, accelerator, time.time())
