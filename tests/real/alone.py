"""A machine whose server is gone, so that a test can be the one client of its agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyvisor.host.guest.agent import Agent
from polyvisor.host.hypervisor.qemu.qmp import Qmp
from polyvisor.host.paths import AGENT_SOCKET, QMP_SOCKET
from polyvisor.model.guest import Exec, Exit


@dataclass(frozen=True, slots=True)
class Alone:
    """A running machine that no server knows of."""

    directory: Path

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Agent]:
        """A conversation with the guest."""
        agent = await Agent.connect(self.directory / AGENT_SOCKET, 30)
        try:
            yield agent
        finally:
            await agent.close()

    @asynccontextmanager
    async def _qmp(self) -> AsyncIterator[Qmp]:
        qmp = await Qmp.connect(self.directory / QMP_SOCKET, 10)
        try:
            yield qmp
        finally:
            await qmp.close()

    async def hmp(self, line: str) -> None:
        """A command of the human monitor, which says nothing when it is well."""
        async with self._qmp() as qmp:
            assert await qmp.ask("human-monitor-command", 60, **{"command-line": line}) == ""

    async def grow(self, serial: str, size: int) -> None:
        """Another size for a disk."""
        async with self._qmp() as qmp:
            await qmp.ask("block_resize", 10, **{"node-name": f"disk-{serial}", "size": size})


async def say(agent: Agent, script: str, **more: Any) -> str:
    """What a shell script says in the guest, stripped; it must end well."""
    process = await agent.execute(Exec(("sh", "-c", script), **more))
    said = b""
    while not isinstance(output := await process.read(), Exit):
        said += output.data
    await process.close()
    assert output == Exit(0), (script, said)
    return said.decode().strip()
