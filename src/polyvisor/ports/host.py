"""One machine that runs instances: LocalHost in process today, a remote agent later, the same seam.

Every verb is safe to repeat: it brings about a state, it does not count. Undo is another verb, named with each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol

from polyvisor.model.guest import JournalRecord
from polyvisor.model.host import Blueprint, Disk, HostReport, Observation
from polyvisor.model.ids import HostId, InstanceId
from polyvisor.model.instance import RunRecord
from polyvisor.ports.guest import Guest
from polyvisor.ports.images import Images


class Host(Protocol):
    """What decisions may ask of a host."""

    id: HostId
    images: Images

    async def report(self) -> HostReport:
        """What this host has and can do now."""

    async def check(self, blueprint: Blueprint) -> None:
        """Refuse what cannot run here, before any side effect. :raise Unsupported, NoCapacity, Invalid:"""

    async def adopt(self, records: Sequence[tuple[Blueprint, RunRecord | None]]) -> None:
        """Take over all machines found running, all at once, each within a time limit. Once, at start-up."""

    async def look(self, blueprint: Blueprint) -> Observation:
        """One instance as it is now, read from the machine. A process is never said to be gone while it is there."""

    async def make_disks(self, blueprint: Blueprint) -> None:
        """Root disk, seed and directory. Undone by `remove_disks`."""

    async def remove_disks(self, id: InstanceId) -> None:
        """All files of the instance; volumes stay."""

    async def plug(self, blueprint: Blueprint) -> None:
        """The instance's NIC, rules and name in the network. Undone by `unplug`."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """Nothing of the instance is left in the network."""

    async def launch(self, blueprint: Blueprint) -> RunRecord:
        """A running process. Undone by `kill`."""

    async def press(self, id: InstanceId) -> None:
        """Ask the guest to shut down; it may not obey."""

    async def kill(self, id: InstanceId) -> None:
        """No process is left, and no trace of its run. Hung ones too."""

    async def pause(self, id: InstanceId) -> None:
        """vCPUs stopped. Undone by `resume`."""

    async def resume(self, id: InstanceId) -> None:
        """vCPUs running. Undone by `pause`."""

    async def reset(self, id: InstanceId) -> None:
        """Hardware reset."""

    async def attach(self, blueprint: Blueprint, disk: Disk) -> None:
        """Plug the disk into the running machine and mount it where asked. Undone by `detach`."""

    async def detach(self, id: InstanceId, disk: Disk) -> None:
        """Unmount and unplug; a machine that has ended holds no disk.

        :raise TimedOut, Busy: the guest does not let go; the disk stays attached.
        """

    async def create_volume(self, disk: Disk) -> None:
        """The file of a volume. Undone by `remove_volume`. :raise NoCapacity: the disk is full."""

    async def remove_volume(self, volume: str) -> None:
        """No file of the volume is left."""

    async def resize_volume(self, disk: Disk, holder: InstanceId | None) -> None:
        """Grow the file to `disk.size`, live when `holder` runs it."""

    async def guest(self, id: InstanceId) -> Guest:
        """The agent inside. :raise Unavailable: the machine does not run or no agent answers."""

    async def console(self, id: InstanceId) -> AsyncIterator[bytes]:
        """What the console said so far, then what it says, until the machine ends."""

    async def type(self, id: InstanceId, data: bytes) -> None:
        """Bytes to the console's input. :raise Unavailable: the machine does not run."""

    def journal(self, id: InstanceId, follow: bool, running: Callable[[], bool]) -> AsyncIterator[JournalRecord]:
        """The workload's output so far; with `follow`, until it has exited or the machine is gone."""

    def log_file(self, id: InstanceId) -> Path:
        """The hypervisor's own log of this instance."""

    def hints(self) -> AsyncIterator[InstanceId]:
        """Ids of instances worth another look. Only ids, never data."""

    async def sweep(self, known: frozenset[InstanceId], volumes: frozenset[str]) -> None:
        """Remove what no record knows: half-made directories, devices, rules. Unknown processes are reported."""

    async def close(self, *, idle: bool) -> None:
        """Let go of every machine; they run on. `idle`: no instance exists, so shared parts may go as well."""
