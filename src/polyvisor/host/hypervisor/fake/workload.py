"""The workload of a fake machine: its command runs as a `FakeProcess`, and what it says is journalled as an agent does.

It lives in this process: unlike the machine, it does not outlive the manager.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from polyvisor.host.guest.frames import DELIMITER, stuff
from polyvisor.host.hypervisor.fake.guest import FakeGuest, FakeProcess
from polyvisor.model.guest import Exec, Exit, Output

_START, _EXIT = 0, 3
_TERMINATED = 15


class FakeWorkload:
    """Runs from its making; `ended` is called when it is over by itself."""

    def __init__(self, guest: FakeGuest, argv: Sequence[str], journal: Path, ended: Callable[[], None]) -> None:
        self._journal = journal
        self._ended = ended
        self._process = FakeProcess(guest, Exec(tuple(argv)))
        self._task: asyncio.Task[None] | None = asyncio.create_task(self._run(), name="fake workload")

    async def _run(self) -> None:
        self._write(_START, b"")
        while True:
            said = await self._process.read()
            if isinstance(said, Output):
                self._write(said.fd, said.data)
            else:
                self._exit(said)
                self._ended()
                return

    def _exit(self, exit: Exit) -> None:
        self._write(_EXIT, struct.pack("<ii", exit.code or 0, exit.signal or 0))

    def _write(self, kind: int, data: bytes) -> None:
        raw = struct.pack("<BxxxIq", kind, len(data), time.time_ns() // 1000) + data
        with self._journal.open("ab") as file:
            file.write(stuff(raw) + DELIMITER)

    async def terminate(self) -> None:
        """The guest is asked to shut down: the command gets a signal, and that is how it ended."""
        if await self.close():
            self._exit(Exit(signal=_TERMINATED))

    async def close(self) -> bool:
        """It is no more; whether it still ran."""
        task, self._task = self._task, None
        ran = task is not None and not task.done()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._process.close()
        return ran
