"""Saving and going on by hand: all of the RAM through `migrate` into a file, as any QEMU does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.raw import DISK, LIMIT, Twin
from polyvisor.host.guest.agent import Agent
from polyvisor.host.hypervisor.qemu.qmp import Qmp
from polyvisor.host.paths import AGENT_SOCKET, QMP_SOCKET
from polyvisor.model.faults import Fault
from polyvisor.model.guest import Exec, Exit

_POLL = 0.001
_FAST = 1 << 40  # bytes a second: as fast as it can


@dataclass
class Hand:
    """A hand-run machine that can be saved."""

    twin: Twin
    folder: Path
    process: subprocess.Popen[bytes]
    qmp: Qmp
    agent: Agent | None = None
    running: float = 0.0
    answered: float = 0.0

    @classmethod
    async def boot(cls, twin: Twin) -> Hand:
        """A fresh one whose agent has answered."""
        folder = await twin.folder()
        hand = await cls._begun(twin, folder, None)
        hand.agent = await Agent.connect(folder / AGENT_SOCKET, LIMIT)
        return hand

    @classmethod
    async def wake(cls, twin: Twin, state: Path, folder: Path) -> Hand:
        """Go on from a file on the disk in that folder. Timed from before the process: until it runs, until a command
        was answered."""
        begun = time.monotonic()
        fd = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
        try:
            hand = await cls._begun(twin, folder, fd)
        finally:
            os.close(fd)
        try:
            while (await hand.qmp.ask("query-status"))["status"] == "inmigrate":
                await asyncio.sleep(_POLL)
            await hand.qmp.ask("cont")
            hand.running = (time.monotonic() - begun) * 1000
            hand.agent = await Agent.connect(folder / AGENT_SOCKET, LIMIT)
            await hand.run("true")
            hand.answered = (time.monotonic() - begun) * 1000
        except BaseException:
            await hand.end()
            raise
        return hand

    @classmethod
    async def start_alone(cls, twin: Twin) -> float:
        """A process that waits for a state, until it speaks: no restore is sooner. Milliseconds."""
        folder = await twin.folder()
        begun = time.monotonic()
        process = twin.launch(folder, None, "-S", "-incoming", "defer")
        try:
            qmp = await Qmp.connect(folder / QMP_SOCKET, LIMIT)
            took = (time.monotonic() - begun) * 1000
            await qmp.close()
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            shutil.rmtree(folder, ignore_errors=True)
        return took

    @classmethod
    async def _begun(cls, twin: Twin, folder: Path, incoming: int | None) -> Hand:
        process = twin.launch(folder, incoming)
        try:
            return cls(twin, folder, process, await Qmp.connect(folder / QMP_SOCKET, LIMIT))
        except BaseException:
            process.kill()
            process.wait()
            raise

    async def run(self, *argv: str) -> None:
        """A command in the guest, to its end, which must be a good one."""
        assert self.agent is not None
        process = await self.agent.execute(Exec(argv))
        try:
            while not isinstance(said := await process.read(), Exit):
                pass
            assert said.code == 0, said
        finally:
            await process.close()

    async def save(self, state: Path) -> float:
        """All of it into a file; it stands still from here on. Milliseconds."""
        fd = os.open(state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            await self.qmp.ask("migrate-set-parameters", max_bandwidth=_FAST)
            begun = time.monotonic()
            await self.qmp.ask("stop")
            await self.qmp.lend(fd, "state")
            await self.qmp.ask("migrate", uri="fd:state")
            while (told := await self.qmp.ask("query-migrate"))["status"] != "completed":
                assert told["status"] != "failed", told
                await asyncio.sleep(_POLL)
            return (time.monotonic() - begun) * 1000
        finally:
            os.close(fd)

    async def go_on(self) -> None:
        """After a save."""
        await self.qmp.ask("cont")

    async def quit(self) -> float:
        """Until the process is gone; its files stay. Milliseconds."""
        begun = time.monotonic()
        with contextlib.suppress(Fault):  # it ends before it answers
            await self.qmp.ask("quit")
        await asyncio.to_thread(self.process.wait, 10)
        took = (time.monotonic() - begun) * 1000
        await self._let_go()
        return took

    async def end(self) -> None:
        """Killed, and its files are removed."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        await self._let_go()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _let_go(self) -> None:
        if self.agent is not None:
            await self.agent.close()
            self.agent = None
        await self.qmp.close()

    async def copy(self, state: Path) -> Hand:
        """Another one like it, of what was saved and of its disk; it has the same identity, which nobody may see."""
        return await Hand.wake(self.twin, state, await self.twin.folder(self.folder / DISK))
