"""One running QEMU: its process, its monitor, its console and its agent, held by one owner.

State is asked of the machine each time. Every question has a time limit, so a stopped or wedged QEMU makes an answer
(`DEAF`), never a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from polyvisor.host.console import follow_file
from polyvisor.host.guest.agent import Agent
from polyvisor.host.hypervisor.qemu.argv import node_options, plug_of, port_of
from polyvisor.host.hypervisor.qemu.keyboard import Keyboard
from polyvisor.host.hypervisor.qemu.process import Process
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT, Qmp
from polyvisor.host.paths import AGENT_SOCKET, CONSOLE, CONSOLE_SOCKET, QMP_SOCKET
from polyvisor.model.faults import Fault, Internal, TimedOut, Unavailable, Unsupported
from polyvisor.model.host import Sight
from polyvisor.model.instance import RunRecord
from polyvisor.model.spec import Shape
from polyvisor.ports.hypervisor import DiskFile

_SIGHTS = {
    "running": Sight.RUNNING,
    "paused": Sight.PAUSED,
    "prelaunch": Sight.PAUSED,
    "io-error": Sight.PAUSED,
    "shutdown": Sight.ENDED,
    "guest-panicked": Sight.ENDED,
    "internal-error": Sight.ENDED,
}
_TROUBLES = {
    "io-error": "the host's disk is full: the machine waits until there is room",
    "guest-panicked": "the guest's kernel panicked",
    "internal-error": "the hypervisor failed",
}
_PLUG = re.compile(r"hp(\d+)(?:-(.+))?")
_HELLO_LIMIT = 5.0
_PRESS_LIMIT = 3.0
_UNPLUG_LIMIT = 30.0
_FDSET_BASE = 1000  # fd sets of hot-plugged disks: slot number above this


class QemuVm:
    """A LiveVm."""

    def __init__(self, directory: Path, shape: Shape, record: RunRecord, process: Process, qmp: Qmp | None) -> None:
        self.record = record
        self.trouble = ""
        self._directory = directory
        self._shape = shape
        self._process = process
        self._qmp = qmp
        self._agent: Agent | None = None
        self._keys: Keyboard | None = None
        self._greeting = asyncio.Lock()
        self._monitor = asyncio.Lock()
        self._plugging = asyncio.Lock()

    async def _ask(self, command: str, limit: float = 3.0, **arguments: Any) -> Any:
        """One command; a lost connection is made anew once, since QEMU outlives it."""
        async with self._monitor:
            if self._qmp is None:
                self._qmp = await Qmp.connect(self._directory / QMP_SOCKET, limit)
            try:
                return await self._qmp.ask(command, limit, **arguments)
            except (TimedOut, Unavailable):
                lost, self._qmp = self._qmp, None
                await lost.close()
                raise

    async def status(self) -> Sight:
        """See LiveVm."""
        if self._process.ended:
            return Sight.GONE
        try:
            word = (await self._ask("query-status"))["status"]
        except Fault:
            return Sight.GONE if self._process.ended else Sight.DEAF
        self.trouble = _TROUBLES.get(word, "")
        return _SIGHTS.get(word, Sight.RUNNING)

    async def press(self) -> None:
        """See LiveVm. A micro guest has no use for a power button: its agent is asked."""
        if self._shape is Shape.MICRO:
            with contextlib.suppress(Fault, TimeoutError):
                async with asyncio.timeout(_PRESS_LIMIT):
                    await (await self.guest()).shutdown()
                return
        await self._ask("system_powerdown")

    async def kill(self) -> None:
        """See LiveVm."""
        await self._drop_agent()
        await self._process.kill()
        await self.close()

    async def pause(self) -> None:
        """See LiveVm."""
        await self._ask("stop")

    async def resume(self) -> None:
        """See LiveVm."""
        await self._ask("cont")

    async def reset(self) -> None:
        """See LiveVm."""
        await self._drop_agent()
        await self._ask("system_reset")

    async def _plugged(self) -> tuple[dict[str, int], set[int]]:
        """Serial to slot of every disk that can be unplugged, and the slots there are, read from the machine."""
        found, slots = {}, set()
        for item in await self._ask("qom-list", path="/machine/peripheral"):
            if match := _PLUG.fullmatch(item["name"]):
                slots.add(int(match[1]))
                if match[2]:
                    found[match[2]] = int(match[1])
        return found, slots

    async def attach(self, disk: DiskFile) -> None:
        """See LiveVm."""
        async with self._plugging:
            taken, slots = await self._plugged()
            if disk.serial in taken:
                return
            free = sorted(slots - set(taken.values()))
            if not free:
                raise Unsupported("no free slot to attach another disk", field="volume")
            await self._plug(disk, free[0])

    async def _plug(self, disk: DiskFile, slot: int) -> None:
        fdset = _FDSET_BASE + slot
        await self._forget_node(disk.serial, fdset)  # what an attempt cut short may have left
        fd = os.open(disk.path, (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC)
        try:
            if self._qmp is None:
                await self._ask("query-status")
            assert self._qmp
            await self._qmp.give(fd, fdset)
        finally:
            os.close(fd)
        try:
            await self._ask("blockdev-add", COMMAND_LIMIT, **node_options(disk, f"/dev/fdset/{fdset}"))
            await self._ask(
                "device_add", COMMAND_LIMIT, driver="virtio-blk-pci", id=plug_of(slot, disk.serial), bus=port_of(slot),
                drive=f"disk-{disk.serial}", serial=disk.serial,
            )  # fmt: skip
        except Fault:
            await self._forget_node(disk.serial, fdset)
            raise

    async def _forget_node(self, serial: str, fdset: int) -> None:
        for node in (f"disk-{serial}", f"disk-{serial}-file"):  # one there at launch has its file as a node
            with contextlib.suppress(Internal):
                await self._ask("blockdev-del", COMMAND_LIMIT, node_name=node)
        with contextlib.suppress(Internal):
            await self._ask("remove-fd", COMMAND_LIMIT, fdset_id=fdset)

    async def detach(self, serial: str) -> None:
        """See LiveVm. The guest's consent is the device's absence, asked for rather than awaited as an event."""
        async with self._plugging:
            slot = (await self._plugged())[0].get(serial)
            if slot is None:
                return
            clock = asyncio.get_running_loop().time
            end, again = clock() + _UNPLUG_LIMIT, 0.0
            while serial in (await self._plugged())[0]:
                if clock() > end:
                    raise TimedOut("the guest does not let go of the disk")
                if clock() >= again:  # the request is lost when the guest is still booting: ask anew, not too often
                    with contextlib.suppress(Internal):
                        await self._ask("device_del", COMMAND_LIMIT, id=plug_of(slot, serial))
                    again = clock() + 8.0
                await asyncio.sleep(0.1)
            await self._forget_node(serial, _FDSET_BASE + slot)

    async def grow(self, serial: str, size: int) -> None:
        """See LiveVm."""
        await self._ask("block_resize", COMMAND_LIMIT, node_name=f"disk-{serial}", size=size)

    async def guest(self) -> Agent:
        """See LiveVm. One connection, made when first asked for and again when it was lost."""
        async with self._greeting:
            if self._agent is not None and not self._agent.closed:
                return self._agent
            if self._process.ended:
                raise Unavailable("the instance does not run")
            try:
                self._agent = await Agent.connect(self._directory / AGENT_SOCKET, limit=_HELLO_LIMIT)
            except OSError as error:
                raise Unavailable("the agent cannot be reached", private=str(error)) from error
            return self._agent

    async def _drop_agent(self) -> None:
        agent, self._agent = self._agent, None
        if agent is not None:
            await agent.close()

    async def gone(self) -> None:
        """See LiveVm."""
        ended = asyncio.create_task(self._process.wait())
        said = asyncio.create_task(self._says_so())
        try:
            await asyncio.wait({ended, said}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, said):
                task.cancel()
            await asyncio.gather(ended, said, return_exceptions=True)

    async def _says_so(self) -> None:
        """Until the guest has shut down or is in trouble. Events are hints: the state is asked for now and then."""
        while True:
            sight = await self.status()
            if sight in (Sight.ENDED, Sight.GONE) or self.trouble:
                return
            qmp = self._qmp
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10.0 if qmp else 1.0):
                    if qmp is None:
                        await asyncio.sleep(60)
                    else:
                        async for _ in qmp.events("SHUTDOWN", "GUEST_PANICKED", "STOP", "RESUME"):
                            break

    def console(self) -> AsyncIterator[bytes]:
        """See LiveVm."""
        return follow_file(self._directory / CONSOLE, lambda: not self._process.ended)

    async def type(self, data: bytes) -> None:
        """See LiveVm."""
        if self._keys is None:
            self._keys = Keyboard(self._directory / CONSOLE_SOCKET)
        await self._keys.press(data)

    async def close(self) -> None:
        """See LiveVm."""
        await self._drop_agent()
        if self._keys is not None:
            await self._keys.close()
        self._process.let_go()
        qmp, self._qmp = self._qmp, None
        if qmp is not None:
            await qmp.close()
