"""Processes that outlive a server: told apart by when they started, awaited by pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from polyvisor.model.faults import TimedOut

_KILL_LIMIT = 30.0
_UIDS = range(200_000, 1_200_000)


def uid_of(number: int) -> int:
    """The uid (and gid) that an instance's process runs under where we are root."""
    return _UIDS[number % len(_UIDS)]


def is_ours(pid: int) -> bool:
    """Whether it runs under a uid that only we give, or under our own: a command line can be anybody's."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    uid = int(status.partition("\nUid:")[2].split()[0])
    return uid == os.geteuid() or (os.geteuid() == 0 and uid in _UIDS)


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Process:
    """A process that outlives a server, ours or an earlier one's, watched by pidfd: it need not be our child."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._fd, self._on_exit)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # a child would stay as a zombie
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether the process is known to be gone."""
        return self._ended.is_set()

    async def wait(self) -> None:
        """Until the process is gone."""
        await self._ended.wait()

    async def kill(self) -> None:
        """SIGKILL, then wait; works on a stopped process too. One that was let go is no longer ours to end.

        :raise TimedOut: the kernel does not let it die.
        """
        if self._fd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)
        try:
            async with asyncio.timeout(_KILL_LIMIT):
                await self.wait()
        except TimeoutError as error:
            raise TimedOut("the process does not end", private=f"pid {self.pid}") from error

    def let_go(self) -> None:
        """Stop watching; the process goes on."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
