"""Running dnsmasq so that it outlives us: one process per pid file, told apart by its command line."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import signal
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.spawn import spawn
from polyvisor.model.faults import Unsupported

_ACCOUNTS = ("dnsmasq", "nobody")
_PAUSE = 0.02
_TRIES = 250


def account() -> tuple[str, str, int]:
    """(user, group, gid) that dnsmasq gives its rights up for."""
    for name in _ACCOUNTS:
        with contextlib.suppress(KeyError):
            gid = pwd.getpwnam(name).pw_gid
            return name, grp.getgrgid(gid).gr_name, gid
    return "root", "root", 0


def pid_in(file: Path) -> int | None:
    """The pid of the dnsmasq of that pid file, proven by its command line."""
    try:
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    return pid if f"--pid-file={file}" in command_of(pid) else None


def command_of(pid: int) -> list[str]:
    """Its command line; empty: there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


async def begin(argv: Sequence[str], pid_file: Path, log: Path) -> None:
    """Start it, and wait until it says so. :raise Unsupported: it does not start."""
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        pid = await asyncio.to_thread(spawn, argv, fds=(), output=words)
    except OSError as error:
        raise Unsupported("bridge mode needs dnsmasq", field="network", private=str(error)) from error
    finally:
        os.close(words)
    for _ in range(_TRIES):
        if pid_in(pid_file) == pid:
            return
        if not _runs(pid):
            break
        await asyncio.sleep(_PAUSE)
    raise Unsupported("dnsmasq does not start", field="network", private=log.read_text()[-2000:])


def _runs(pid: int) -> bool:
    """Whether the process goes on; a child of ours that has ended is taken note of."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    return Path(f"/proc/{pid}").exists()


async def end(pid: int) -> None:
    """It is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(_TRIES):
            if not _runs(pid):
                return
            await asyncio.sleep(_PAUSE)
        os.kill(pid, signal.SIGKILL)
