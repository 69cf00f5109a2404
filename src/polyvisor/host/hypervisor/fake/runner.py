"""What the runner of a guest says (`inguest/runner.py`), said by a fake guest."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from typing import Any

from polyvisor.host.hypervisor.fake.tongue import Tongue
from polyvisor.model.code import TIMED_OUT
from polyvisor.model.guest import Exit, Output

_LENGTH = struct.Struct("!I")
_CHUNK = 32 * 1024


class SpokenTo:
    """A Process: a connection to the runner of a Python session."""

    def __init__(self, tongue: Tongue) -> None:
        self._tongue = tongue
        self._came = bytearray()
        self._said: asyncio.Queue[Output | Exit] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._say(b"h", b"")

    def _say(self, kind: bytes, data: bytes) -> None:
        for at in range(0, len(data) or 1, _CHUNK):
            piece = data[at : at + _CHUNK]
            self._said.put_nowait(Output(1, kind + _LENGTH.pack(len(piece)) + piece))

    async def write(self, data: bytes) -> None:
        """See Process."""
        self._came += data
        if len(self._came) >= _LENGTH.size and self._task is None:
            (size,) = _LENGTH.unpack_from(self._came)
            if len(self._came) >= _LENGTH.size + size:
                self._task = asyncio.create_task(self._run(json.loads(self._came[_LENGTH.size :])))

    async def _run(self, asked: dict[str, Any]) -> None:
        began, tongue = time.monotonic(), self._tongue
        tongue.said.clear()
        try:
            async with asyncio.timeout(max(0.0, asked["interrupt"])):
                who = (asked["who"], asked["run"])
                code = await tongue.run(asked["code"], asked["env"], asked["extra"], who)
        except TimeoutError:
            code = TIMED_OUT
            tongue.say(2, f"the time limit of {asked['limit']:g} s was reached; the code was interrupted\n")
        for fd, text in tongue.said:
            self._say(b"o" if fd == 1 else b"e", text.encode())
        took = time.monotonic() - began
        self._say(b"r", json.dumps({"exit_code": code, "cpu_time": 0.0, "execution_time": took}).encode())
        self._said.put_nowait(Exit())

    async def read(self) -> Output | Exit:
        """See Process."""
        return await self._said.get()

    async def eof(self) -> None:
        """See Process."""

    async def signal(self, number: int) -> None:
        """See Process."""

    async def resize(self, cols: int, rows: int) -> None:
        """See Process."""

    async def close(self) -> None:
        """See Process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
