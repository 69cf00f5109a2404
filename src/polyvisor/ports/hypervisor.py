"""The driver port: what a host needs of a hypervisor. Narrow on purpose; abilities are extra Protocols.

A driver keeps no truth: every answer is asked of the machine, and every call ends within a time limit of the
driver's own, with `TimedOut` or `Unavailable` when the machine does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from polyvisor.model.host import Blueprint, DiskCounts, Sight
from polyvisor.model.instance import Address, Bus, RunRecord
from polyvisor.model.spec import Spec
from polyvisor.ports.guest import Guest
from polyvisor.ports.screen import Viewer


class Gone(Exception):
    """The process of a run record does not exist any more."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk on this host. The format is what we recorded when we made the file: it is never probed.

    `backing` is the whole chain below it, down to what lies on nothing. `removable`: it can be unplugged from a running
    machine, even when it was there at the launch. `generation`: which of an instance's overlays, one after another,
    this is; a running machine says by it what it writes to.
    """

    path: Path
    format: str
    serial: str
    read_only: bool = False
    backing: DiskFile | None = None
    boot: bool = False
    removable: bool = False
    generation: int = 0
    bus: Bus = Bus.VIRTIO


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A network of its own that user-mode NAT runs in, so that what leaves it can be told apart: by packet `rules`, and
    by the lines of its `resolver`. Its processes are found again by `name`."""

    name: str
    rules: str
    resolver: str


@dataclass(frozen=True, slots=True)
class UserNic:
    """User-mode NAT with the host ports that lead into it: (protocol, host port, guest port).

    `inner`: where the NAT itself listens instead, since somebody else does at `forwards` and passes on.
    """

    forwards: tuple[tuple[str, int, int], ...]
    inner: tuple[tuple[str, int, int], ...] = ()
    enclosure: Enclosure | None = None


@dataclass(frozen=True, slots=True)
class TapNic:
    """A TAP device that the network made, passed as a descriptor: a copy of `fd`, or one that the driver opens."""

    device: str
    fd: int | None = None


@dataclass(frozen=True, slots=True)
class BridgedNic:
    """A NIC on a bridge of the host. Its TAP device is made by the driver, and is gone with the process."""

    bridge: str
    mac: str


@dataclass(frozen=True, slots=True)
class NicPlug:
    """A NIC for a running machine. `address` is what the guest is to have in the network that we make."""

    mac: str
    nic: UserNic | TapNic | BridgedNic
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """The file that is a machine's RAM, by its path or an open descriptor.

    `own`: mapped shared, it changes with the machine and is the machine's alone. Otherwise it is mapped privately:
    pages that the machine writes are copies of its own, and the file never changes.
    """

    file: Path | int
    own: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a machine has its removable disks: how many slots there are for them, and by serial which one is taken.

    It follows from what was plugged in and out since the launch, and what is restored must have it the same. `balloon`:
    it has a device by which its guest gives memory back.
    """

    slots: int
    taken: Mapping[str, int]
    balloon: bool = False


@dataclass(frozen=True, slots=True)
class Cpu:
    """What guests see of a processor. One that was saved goes on only where `model` is the same, no bit is missing in
    any of the `features`, and the counter that it keeps the time by runs at the same rate; 0: it does not depend on it.
    """

    model: str
    features: Mapping[str, int] = field(default_factory=dict)
    tsc_khz: int = 0


@dataclass(frozen=True, slots=True)
class Saved:
    """What a machine was at one moment, beside its memory file and its disks.

    `pages` is sparse: what it holds takes the place of the same page of the memory file. None: no page differs.
    """

    devices: Path
    layout: Layout
    pages: Path | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """A Blueprint with this host's paths: all a driver needs to launch.

    `memory` None: RAM that no file backs, which cannot be saved. `layout` None: the usual one.
    """

    blueprint: Blueprint
    directory: Path
    disks: tuple[DiskFile, ...]
    nic: UserNic | TapNic | None
    kernel: Path | None = None
    initrd: Path | None = None
    config: bytes = b""
    seed: Path | None = None
    memory: Memory | None = None
    layout: Layout | None = None
    bridged: tuple[BridgedNic, ...] = ()


class LiveVm(Protocol):
    """One running machine. One owner: whoever holds this holds its only control connection."""

    record: RunRecord
    rebooting: bool
    """Whether it has ended, as the last `status` told, because the guest wants to boot anew and this process cannot."""
    trouble: str
    """Why it stopped when nobody stopped it, as the last `status` told: a full disk, a panic. Empty: all is well."""

    async def status(self) -> Sight:
        """RUNNING, PAUSED, ENDED, GONE or DEAF, asked now. Never raises."""

    async def press(self) -> None:
        """Ask the guest to shut down (its power button). Returns at once; the guest may not obey."""

    async def kill(self) -> None:
        """End the process. Returns when it is gone; safe to repeat."""

    async def pause(self) -> None:
        """Stop the vCPUs."""

    async def resume(self) -> None:
        """Let the vCPUs go on."""

    async def reset(self) -> None:
        """Hardware reset."""

    async def save(self, devices: Path) -> Layout:
        """Write what its devices are into a new file, and say where they are. Its vCPUs are stopped, and its disks may
        be used by others then.

        :raise NoCapacity: the disk is full; nothing is left of the file.
        """

    async def dump(self, pages: int) -> None:
        """Write every page that its memory file does not have into that sparse file, each at its place."""

    async def balloon(self, size: int) -> None:
        """Ask the guest to get along with `size` bytes, its memory's own size at most; what it gives up is the host's.
        It follows in its own time, and takes back what it cannot do without. :raise Unsupported: it has no balloon.
        """

    async def memory(self) -> int:
        """The bytes that the guest has now, without those it gave up. :raise Unsupported: it has no balloon."""

    def ram(self) -> Path | None:
        """Where the memory that it has open by a descriptor can be opened while it runs; None: it has none."""

    async def disk_counts(self) -> Mapping[str, DiskCounts]:
        """What its disks have done since the process began, by their serials."""

    async def link(self, *, up: bool) -> None:
        """Plug the network cable in or out, as the guest sees it. One without a network has none."""

    async def announce(self) -> None:
        """Let the network know where the guest's hardware address is, before the guest has said anything itself."""

    async def attach(self, disk: DiskFile) -> None:
        """Plug a disk in. Safe to repeat. :raise Unsupported: no free slot or no hot-plug."""

    async def detach(self, serial: str) -> None:
        """Unplug and wait until the guest let go. Safe to repeat. :raise TimedOut: it did not."""

    async def plug_nic(self, wanted: NicPlug) -> None:
        """Give it one NIC more. :raise Unsupported: no free slot. :raise Busy, Unavailable:"""

    async def unplug_nic(self, mac: str) -> None:
        """Take one away that came while it ran, and wait until the guest let go.

        :raise Unsupported: it has had that one since its start. :raise TimedOut: the guest did not.
        """

    async def grow(self, serial: str, size: int) -> None:
        """Tell the guest that a plugged disk has become larger."""

    async def switch(self, disk: DiskFile, *, ahead: bool = False) -> None:
        """From now on the machine writes that disk to this empty overlay; what it wrote so far lies below, and is
        open to other readers. Running or paused; safe to repeat, the machine is asked what it writes to. With `ahead`
        only what takes time is done, so that the switch itself, the next call, takes none.

        :raise NoCapacity: it has been switched too often since it was started.
        """

    async def backup(self, pairs: Sequence[tuple[DiskFile, DiskFile]]) -> None:
        """What the first disk of each pair, which is plugged in, holds now is written into the second, a file of zeros
        of that size; all of the same moment. Returns when it is there; the guest runs on.

        :raise Internal: it could not be; what is in the files then is of no use.
        """

    async def guest(self) -> Guest:
        """The agent inside. :raise Unavailable: none answers yet."""

    async def gone(self) -> None:
        """Returns when the machine has something to say: it ended, or stopped when nobody stopped it."""

    def console(self) -> AsyncIterator[bytes]:
        """Console bytes from now on; what came earlier is in the console file."""

    async def type(self, data: bytes) -> None:
        """Bytes to the console's input."""

    async def picture(self) -> bytes:
        """Its screen now, as PNG. :raise Unsupported: it has none."""

    async def view(self) -> Viewer:
        """One more viewer of its screen. :raise Unsupported: it has none."""

    async def close(self) -> None:
        """Let go of the control connection; the machine goes on."""


class Hypervisor(Protocol):
    """A kind of machine runner on this host."""

    name: str
    version: str
    accelerator: str
    abilities: frozenset[str]
    cpu: Cpu

    def machine(self, spec: Spec) -> str:
        """Which machine a guest is given: what was saved under one name is of no use under another."""

    def check(self, blueprint: Blueprint) -> None:
        """Refuse what cannot run here, before any side effect. :raise Unsupported: naming the field."""

    async def launch(self, machine: Machine) -> LiveVm:
        """Start the process, its vCPUs running. All or nothing: on a fault no process is left.

        :raise Internal: with the hypervisor's own words in `private`.
        """

    async def restore(self, machine: Machine, saved: Saved) -> LiveVm:
        """Start a process that is what was saved, vCPUs stopped. All or nothing. `machine.memory` is never `own` unless
        nothing else may become of that file. One that the guest reboots ends as `rebooting`.

        :raise Internal: with the hypervisor's own words in `private`.
        """

    async def adopt(self, machine: Machine, record: RunRecord) -> LiveVm:
        """Take over the process of `record`; one that does not answer now is `DEAF` until it does. :raise Gone:"""

    def proof(self, machine: Machine, pid: int) -> RunRecord:
        """The record of a process found by its uuid, when a crash came between its start and our writing it down."""

    def find(self) -> list[tuple[int, str]]:
        """(pid, uuid) of every process of this kind on the host, ours or not."""

    async def sweep(self, instances: Path, running: Collection[str]) -> None:
        """End what was left by machines of the directories below `instances` that are not `running` by their names."""
