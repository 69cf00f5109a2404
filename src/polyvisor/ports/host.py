"""One machine that runs instances: LocalHost in process today, a remote agent later, the same seam.

Every verb is safe to repeat: it brings about a state, it does not count. Undo is another verb, named with each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from polyvisor.model.compression import AS_IT_IS, Packed, Packing
from polyvisor.model.guest import JournalRecord
from polyvisor.model.health import HealthCheck
from polyvisor.model.host import Blueprint, Disk, DiskCounts, HostReport, Observation, Taken
from polyvisor.model.ids import HostId, InstanceId, SnapshotId
from polyvisor.model.instance import RunRecord
from polyvisor.model.network import HostNic
from polyvisor.model.units import Bytes
from polyvisor.ports.entrance import Entrance
from polyvisor.ports.guest import Guest
from polyvisor.ports.images import Images
from polyvisor.ports.proxy import Proxy
from polyvisor.ports.screen import Viewer
from polyvisor.ports.volumes import HostVolumes


class Host(Protocol):
    """What decisions may ask of a host."""

    id: HostId
    images: Images
    entrance: Entrance
    proxy: Proxy
    volumes: HostVolumes

    async def report(self) -> HostReport:
        """What this host has and can do now."""

    async def check(self, blueprint: Blueprint) -> None:
        """Refuse what cannot run here, or go on from the memory it is made of, before any side effect.

        :raise Unsupported, Unavailable, NoCapacity, Invalid:
        """

    async def adopt(self, records: Sequence[tuple[Blueprint, RunRecord | None]]) -> None:
        """Take over all machines found running, all at once, each within a time limit. Once, at start-up."""

    async def look(self, blueprint: Blueprint) -> Observation:
        """One instance as it is now, read from the machine. A process is never said to be gone while it is there."""

    async def make_disks(self, blueprint: Blueprint) -> None:
        """Root disk, seed and directory. Undone by `remove_disks`.

        With a `spec.origin` the instance starts with the disk of that snapshot. A larger disk gives the guest more room
        behind it. :raise NotFound: it is not on this host. :raise Invalid: it is larger, or of another image.
        :raise NoCapacity: the disk is full.
        """

    async def remove_disks(self, id: InstanceId) -> None:
        """All files of the instance; volumes stay."""

    async def plug(self, blueprint: Blueprint) -> None:
        """The instance's NIC, rules and name in the network. Undone by `unplug`."""

    async def unplug(self, blueprint: Blueprint) -> None:
        """Nothing of the instance is left in the network."""

    def require_enforceable(self, blueprint: Blueprint) -> None:
        """:raise WrongState: what the running instance reaches cannot be changed before it is started anew."""

    async def enforce(self, blueprint: Blueprint) -> None:
        """What the running instance reaches is what its `egress` says. :raise Unavailable: not at this moment."""

    async def plug_nic(self, blueprint: Blueprint, index: int) -> None:
        """The running machine has that NIC of the blueprint as well, counted as its `macs` are. Undone by `unplug_nic`.

        :raise Unsupported: no free slot. :raise Busy, Unavailable:
        """

    async def unplug_nic(self, blueprint: Blueprint, index: int) -> None:
        """The running machine has that NIC of the blueprint no more.

        :raise Unsupported: it has had it since its start. :raise TimedOut: the guest does not let go.
        """

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

    async def suspend(self, blueprint: Blueprint, packing: Packing = AS_IT_IS) -> None:
        """Memory and devices saved, no process left; network and volumes are as after a kill. Undone by `resume`.
        What was saved is compressed later as `packing` says, and given up again when somebody needs it before.

        :raise Unsupported: its memory cannot be saved. :raise NoCapacity: the disk is full. The process is paused then.
        """

    async def restore(self, blueprint: Blueprint) -> RunRecord:
        """What was suspended runs again. Undone by `kill`, which leaves what is saved if nothing has run since.

        :raise Unsupported: this host cannot go on from what is saved, and why. :raise Unavailable: it is gone.
        """

    async def available(self) -> Bytes:
        """Memory that this host has for whoever asks, without taking it from somebody."""

    async def guest_memory(self, id: InstanceId) -> Bytes:
        """What a running guest has of its memory now, without what it lends. :raise Unsupported: it cannot lend any."""

    async def balloon(self, id: InstanceId, size: Bytes) -> None:
        """Ask a running guest to get along with so much; it follows in its own time. Undone by its full size.

        :raise Unsupported: it cannot lend any.
        """

    async def configure(self, blueprint: Blueprint) -> None:
        """A running copy of a template is told its name and what it is for. Safe to repeat."""

    async def discard(self, id: InstanceId) -> None:
        """What was suspended is given up: the next start is a cold one."""

    async def reset(self, id: InstanceId) -> None:
        """Hardware reset."""

    async def attach(self, blueprint: Blueprint, disk: Disk) -> None:
        """Plug the disk into the running machine and mount it where asked. Undone by `detach`."""

    async def detach(self, id: InstanceId, disk: Disk) -> None:
        """Unmount and unplug; a machine that has ended holds no disk.

        :raise TimedOut, Busy: the guest does not let go; the disk stays attached.
        """

    def nics(self) -> tuple[HostNic, ...]:
        """Networks of the operator's that machines may be put into."""

    async def snapshot(
        self, blueprint: Blueprint, snapshot: SnapshotId, *, memory: bool, keep: bool = True, go_on: bool = True,
        packing: Packing = AS_IT_IS,
    ) -> Bytes:  # fmt: skip
        """The instance's disk as it is now is kept, with `memory` its machine's memory too, of the same moment.

        Without `keep` the memory lasts only as long as somebody uses it. `packing` is as for `suspend`. `go_on`: a
        machine that stands still for it runs afterwards, also when an earlier attempt had stopped it.

        Of a running guest the disk is what a loss of power would leave, after the guest was asked to write everything
        down. Says how many bytes that takes up here, without what it stands on. Undone by `remove_snapshot`.
        :raise NoCapacity: the disk is full, or stands on too many snapshots already. :raise Unsupported:
        :raise Unavailable: there is a process that does not answer. :raise WrongState: memory, and no machine runs.
        """

    async def packed(self, snapshot: SnapshotId) -> tuple[Packed, Bytes]:
        """What has become of its memory's compression, and how many bytes it takes up now. :raise NotFound:"""

    async def remove_snapshot(self, snapshot: SnapshotId) -> None:
        """The snapshot's files are gone, if there were any; what instances and other snapshots need of it stays."""

    async def revert(self, blueprint: Blueprint, snapshot: SnapshotId) -> None:
        """The instance has the disk of that snapshot, and its memory where it has that; what it had is gone, so this
        cannot be undone. One that is refused or cut short has changed all or nothing.

        :raise WrongState: it runs. :raise NotFound, Invalid, NoCapacity: as for `make_disks`.
        """

    async def guest(self, id: InstanceId) -> Guest:
        """The agent inside. :raise Unavailable: the machine does not run or no agent answers."""

    async def console(self, id: InstanceId) -> AsyncIterator[bytes]:
        """What the console said so far, then what it says, until the machine ends."""

    async def type(self, id: InstanceId, data: bytes) -> None:
        """Bytes to the console's input. :raise Unavailable: the machine does not run."""

    async def picture(self, id: InstanceId) -> bytes:
        """The screen now, as PNG. :raise Unavailable: the machine does not run. :raise Unsupported: it has none."""

    async def view(self, id: InstanceId) -> Viewer:
        """One more viewer of the screen. :raise Unavailable, Unsupported: as above."""

    def journal(self, id: InstanceId, follow: bool, running: Callable[[], bool]) -> AsyncIterator[JournalRecord]:
        """The workload's output so far; with `follow`, until it has exited or the machine is gone."""

    def log_file(self, id: InstanceId) -> Path:
        """The hypervisor's own log of this instance."""

    async def taken(self, id: InstanceId) -> Taken:
        """What the machine takes of this host now; its traffic as its guest counts it, where the host does not."""

    async def accounts(self) -> Mapping[InstanceId, Taken]:
        """What each machine that runs takes, all of them at once: by the host's accounts alone, so without traffic."""

    async def disk_counts(self, id: InstanceId) -> Mapping[str, DiskCounts]:
        """What a machine's disks have done, by their serials; nothing of one that does not run or answer."""

    async def probe(self, blueprint: Blueprint, check: HealthCheck) -> str | None:
        """Ask the workload once how it is, within the check's time: what is wrong, empty when nothing is. None: from
        here its port is not reached before its next start. Never raises a Fault."""

    def hints(self) -> AsyncIterator[InstanceId]:
        """Ids of instances worth another look. Only ids, never data."""

    async def sweep(self, known: frozenset[InstanceId], volumes: frozenset[str], snapshots: frozenset[str]) -> None:
        """Remove what no record knows: half-made directories, devices, rules. Unknown processes are reported."""

    async def close(self, *, idle: bool) -> None:
        """Let go of every machine; they run on. `idle`: no instance exists, so shared parts may go as well."""
