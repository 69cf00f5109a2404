"""One running QEMU: its process, its monitor, its console and its agent, held by one owner.

State is asked of the machine each time. Every question has a time limit, so a stopped or wedged QEMU makes an answer
(`DEAF`), never a hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyvisor.host.console import follow_file
from polyvisor.host.durable import full
from polyvisor.host.guest.agent import Agent
from polyvisor.host.hypervisor.qemu import netplug, ram, screen, tpm
from polyvisor.host.hypervisor.qemu.argv import BALLOON, SCREEN, node_of, node_options, plug_of, port_of
from polyvisor.host.hypervisor.qemu.backup import backup
from polyvisor.host.hypervisor.qemu.counts import disk_counts
from polyvisor.host.hypervisor.qemu.keyboard import Keyboard
from polyvisor.host.hypervisor.qemu.overlays import Overlays, forget_node
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT, Qmp
from polyvisor.host.hypervisor.qemu.throttle import throttle
from polyvisor.host.paths import AGENT_SOCKET, CONSOLE, CONSOLE_SOCKET, QMP_SOCKET
from polyvisor.host.pids import Process
from polyvisor.model.faults import Fault, Internal, TimedOut, Unavailable, Unsupported
from polyvisor.model.host import DiskCounts, Sight
from polyvisor.model.instance import Bus, RunRecord
from polyvisor.model.spec import Shape, Spec
from polyvisor.ports.hypervisor import DiskFile, Layout, NicPlug, Saved

log = logging.getLogger("polyvisor.host")
_SIGHTS = {
    "running": Sight.RUNNING,
    "paused": Sight.PAUSED,
    "prelaunch": Sight.PAUSED,
    "io-error": Sight.PAUSED,
    "shutdown": Sight.ENDED,
    "guest-panicked": Sight.ENDED,
    "internal-error": Sight.ENDED,
    "inmigrate": Sight.ENDED,  # it was to be restored and never came to life
}
_TROUBLES = {
    "io-error": "the host's disk is full: the machine waits until there is room",
    "guest-panicked": "the guest's kernel panicked",
    "internal-error": "the hypervisor failed",
}
_REBOOTS = {"guest-reset", "host-qmp-system-reset"}
_NO_BALLOON = "the machine has no balloon: it was started, or saved, before this host made any"
_PLUG = re.compile(r"hp(\d+)(?:-(.+))?")
_HELLO_LIMIT = 5.0
_PRESS_LIMIT = 3.0
_UNPLUG_LIMIT = 30.0
_LOAD_LIMIT = 30.0
_LOAD_POLL = 0.002
_STANDS_STILL = 0.1  # who stops it for a moment is not to be asked meanwhile why it stopped
_SAVE_FDSET = 900
_FDSET_BASE = 1000  # fd sets of hot-plugged disks: slot number above this


class QemuVm:
    """A LiveVm."""

    def __init__(
        self, directory: Path, spec: Spec, record: RunRecord, process: Process, qmp: Qmp | None, *,
        adopted: bool = False,
    ) -> None:  # fmt: skip
        self.record = record
        self.trouble = ""
        self.rebooting = False
        self._directory = directory
        self._shape = spec.shape
        self._rate = spec.disk_rate
        self._has_tpm = spec.has_tpm
        self._process = process
        self.helper: Process | None = None  # its TPM, where that is a child of ours, which nobody else would wait for
        self._qmp = qmp
        self._agent: Agent | None = None
        self._keys: Keyboard | None = None
        self._overlays = Overlays(self._ask, self._give, record.uuid, adopted=adopted)
        self._greeting = asyncio.Lock()
        self._monitor = asyncio.Lock()
        self._plugging = asyncio.Lock()
        self._looking = asyncio.Lock()

    async def _ask(self, command: str, limit: float = 3.0, **arguments: Any) -> Any:
        """One command; a lost connection is made anew once, since QEMU outlives it."""
        async with self._monitor:
            if (qmp := self._qmp) is None:
                qmp = self._qmp = await Qmp.connect(self._directory / QMP_SOCKET, limit)
            try:
                return await qmp.ask(command, limit, **arguments)
            except (TimedOut, Unavailable):
                if self._qmp is qmp:  # `close` waits for nobody
                    self._qmp = None
                await qmp.close()
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
        if word == "shutdown" and self._qmp is not None and _REBOOTS.intersection(self._qmp.ends()):
            self.rebooting = True
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
        await tpm.end(self._directory)
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

    # -- memory ------------------------------------------------------------------------------------------------

    async def _monitor_now(self) -> Qmp:
        if self._qmp is None:
            await self._ask("query-status")
        if (qmp := self._qmp) is None:  # closed meanwhile
            raise Unavailable("the instance does not run")
        return qmp

    async def save(self, devices: Path) -> Layout:
        """See LiveVm."""
        names = await self._devices()
        taken, slots = _plugged(names)
        if any(serial.startswith(netplug.MARK) for serial in taken):
            raise Unsupported("a machine with a NIC that came while it ran cannot be saved until it was off")
        if self._has_tpm:
            await tpm.require_alive(self._directory)
        fd = os.open(devices, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            await (await self._monitor_now()).give(fd, _SAVE_FDSET)
            try:
                file = f"/dev/fdset/{_SAVE_FDSET}"
                await self._ask("xen-save-devices-state", COMMAND_LIMIT, filename=file, live=False)
                if not os.fstat(fd).st_size:
                    raise Internal("the hypervisor saved nothing")
            finally:
                with contextlib.suppress(Fault):
                    await self._ask("remove-fd", COMMAND_LIMIT, fdset_id=_SAVE_FDSET)
        except BaseException as error:
            devices.unlink()
            if isinstance(error, Internal | OSError) and (fault := full(error)) is not error:
                raise fault from error
            raise
        finally:
            os.close(fd)
        return Layout(len(slots), taken, BALLOON in names)

    async def dump(self, pages: int) -> None:
        """See LiveVm."""
        await asyncio.to_thread(ram.dump, self.record.pid, pages)

    async def load(self, saved: Saved) -> None:
        """Become what was saved, in a process that waits for it."""
        if saved.pages is not None:
            await asyncio.to_thread(_put, self.record.pid, saved.pages)
        fd = os.open(saved.devices, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await (await self._monitor_now()).lend(fd, "devices")
        finally:
            os.close(fd)
        await self._ask("migrate-incoming", COMMAND_LIMIT, uri="fd:devices")
        async with asyncio.timeout(_LOAD_LIMIT):
            while (told := await self._ask("query-migrate")).get("status") != "completed":
                if told.get("status") == "failed":
                    raise Internal("the saved state cannot be loaded", private=str(told))
                await asyncio.sleep(_LOAD_POLL)

    async def balloon(self, size: int) -> None:
        """See LiveVm."""
        await self._ask_balloon("balloon", value=size)

    async def memory(self) -> int:
        """See LiveVm."""
        return int((await self._ask_balloon("query-balloon"))["actual"])

    async def _ask_balloon(self, command: str, **arguments: Any) -> Any:
        try:
            return await self._ask(command, COMMAND_LIMIT, **arguments)
        except Internal as error:
            if "No balloon device" not in error.private:
                raise
            raise Unsupported(_NO_BALLOON, private=error.private) from error

    def ram(self) -> Path | None:
        """See LiveVm."""
        return ram.held_by(self.record.pid)

    async def disk_counts(self) -> Mapping[str, DiskCounts]:
        """See LiveVm."""
        return disk_counts(await self._ask("query-blockstats"))

    async def link(self, *, up: bool) -> None:
        """See LiveVm."""
        try:
            await self._ask("set_link", name="nic0", up=up)
        except Internal as error:
            if "not found" not in error.private:
                raise

    async def announce(self) -> None:
        """See LiveVm. Until passt has seen a frame of the guest it does not reach it: the first connection was lost."""
        await self._ask("announce-self", initial=20, max=100, rounds=2, step=50)

    # -- disks -------------------------------------------------------------------------------------------------

    async def _devices(self) -> set[str]:
        """The names of the devices that we gave one."""
        return {item["name"] for item in await self._ask("qom-list", path="/machine/peripheral")}

    async def _plugged(self) -> tuple[dict[str, int], set[int]]:
        """As below, read from the machine."""
        return _plugged(await self._devices())

    async def attach(self, disk: DiskFile) -> None:
        """See LiveVm."""
        if disk.bus is not Bus.VIRTIO:
            raise Unsupported("bus: USB disks come and go while the machine is off", field="bus")
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
        node = node_of(disk)
        await forget_node(self._ask, node, fdset)  # what an attempt cut short may have left
        await self._give(disk.path, os.O_RDONLY if disk.read_only else os.O_RDWR, fdset)
        try:
            await self._ask("blockdev-add", COMMAND_LIMIT, **node_options(disk, f"/dev/fdset/{fdset}"))
            await self._ask(
                "device_add", COMMAND_LIMIT, driver="virtio-blk-pci", id=plug_of(slot, disk.serial), bus=port_of(slot),
                drive=node, serial=disk.serial,
            )  # fmt: skip
            await self.throttle()
        except Fault:
            await forget_node(self._ask, node, fdset)
            raise

    async def throttle(self) -> None:
        """Its disks keep to their limit."""
        await throttle(self._ask, self._rate)

    async def _give(self, path: Path, flags: int, fdset: int) -> None:
        """One more descriptor into that set; the process may open nothing by itself."""
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            await (await self._monitor_now()).give(fd, fdset)
        finally:
            os.close(fd)

    async def detach(self, serial: str) -> None:
        """See LiveVm. The guest's consent is the device's absence, asked for rather than awaited as an event."""
        if f"usb-{serial}" in await self._devices():
            raise Unsupported("bus: USB disks come and go while the machine is off", field="bus")
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
            await forget_node(self._ask, f"disk-{serial}", _FDSET_BASE + slot)

    async def plug_nic(self, wanted: NicPlug) -> None:
        """See LiveVm."""
        async with self._plugging:
            taken, slots = await self._plugged()
            free = sorted(slots - set(taken.values()))
            if not free:
                raise Unsupported("no free slot for another NIC", field="nics")
            uid = Path(f"/proc/{self.record.pid}").stat().st_uid if os.geteuid() == 0 else None
            await netplug.plug(self._ask, (await self._monitor_now()).lend, free[0], wanted, uid)

    async def unplug_nic(self, mac: str) -> None:
        """See LiveVm."""
        name = netplug.name_of(mac)

        async def gone() -> bool:
            return name not in (await self._plugged())[0]

        async with self._plugging:
            slot = (await self._plugged())[0].get(name)
            if slot is None:
                raise Unsupported("a NIC that was there at its start stays until it is off", field="nics")
            await netplug.unplug(self._ask, gone, slot, mac)

    async def grow(self, serial: str, size: int) -> None:
        """See LiveVm."""
        await self._ask("block_resize", COMMAND_LIMIT, node_name=f"disk-{serial}", size=size)

    async def switch(self, disk: DiskFile, *, ahead: bool = False) -> None:
        """See LiveVm."""
        async with self._plugging:
            await self._overlays.switch(disk, ahead=ahead)

    async def backup(self, pairs: Sequence[tuple[DiskFile, DiskFile]]) -> None:
        """See LiveVm."""
        await backup(self._ask, self._give, pairs)

    async def written(self, serial: str) -> int:
        """The generation of the overlay that a disk there at launch is written to now."""
        number = (await self._overlays.active(serial))[0].removeprefix(f"disk-{serial}").removeprefix("-")
        return int(number or 0)

    # -- guest -------------------------------------------------------------------------------------------------

    async def guest(self) -> Agent:
        """See LiveVm. One connection, made when first asked for and again when it was lost."""
        async with self._greeting:
            if self._agent is not None and await self._agent.is_there():
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
                        async for event in qmp.events("SHUTDOWN", "GUEST_PANICKED", "STOP", "RESUME"):
                            if event["event"] in ("STOP", "RESUME"):
                                await asyncio.sleep(_STANDS_STILL)
                            break

    def console(self) -> AsyncIterator[bytes]:
        """See LiveVm."""
        return follow_file(self._directory / CONSOLE, lambda: not self._process.ended)

    async def type(self, data: bytes) -> None:
        """See LiveVm."""
        if self._keys is None:
            self._keys = Keyboard(self._directory / CONSOLE_SOCKET)
        await self._keys.press(data)

    async def picture(self) -> bytes:
        """See LiveVm."""
        async with self._looking:
            return await screen.picture(await self._with_screen(), self._ask)

    async def view(self) -> screen.SocketViewer:
        """See LiveVm."""
        return await screen.view(await self._with_screen(), self._ask)

    async def _with_screen(self) -> Qmp:
        if SCREEN not in await self._devices():
            raise Unsupported("the machine has no screen", field="displays")
        return await self._monitor_now()

    async def close(self) -> None:
        """See LiveVm."""
        await self._drop_agent()
        if self._keys is not None:
            await self._keys.close()
        self._process.let_go()
        if self.helper is not None:
            self.helper.let_go()
        qmp, self._qmp = self._qmp, None
        if qmp is not None:
            await qmp.close()


def _put(pid: int, pages: Path) -> None:
    with pages.open("rb", buffering=0) as source:
        ram.put(pid, source.fileno())


def _plugged(devices: Iterable[str]) -> tuple[dict[str, int], set[int]]:
    """Serial to slot of every disk that can be unplugged, and the slots there are."""
    found, slots = {}, set()
    for name in devices:
        if match := _PLUG.fullmatch(name):
            slots.add(int(match[1]))
            if match[2]:
                found[match[2]] = int(match[1])
    return found, slots
