"""The driver port: what a host needs of a hypervisor. Narrow on purpose; abilities are extra Protocols.

A driver keeps no truth: every answer is asked of the machine, and every call ends within a time limit of the
driver's own, with `TimedOut` or `Unavailable` when the machine does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from polyvisor.model.host import Blueprint, Sight
from polyvisor.model.instance import RunRecord
from polyvisor.ports.guest import Guest


class Gone(Exception):
    """The process of a run record does not exist any more."""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk on this host. The format is what we recorded when we made the file: it is never probed.

    `removable`: it can be unplugged from a running machine, even when it was there at the launch.
    """

    path: Path
    format: str
    serial: str
    read_only: bool = False
    backing: DiskFile | None = None
    boot: bool = False
    removable: bool = False


@dataclass(frozen=True, slots=True)
class UserNic:
    """User-mode NAT with the host ports that lead into it: (protocol, host port, guest port)."""

    forwards: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class TapNic:
    """A TAP device that the network made; opened by the driver and passed as a descriptor."""

    device: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A Blueprint with this host's paths: all a driver needs to launch."""

    blueprint: Blueprint
    directory: Path
    disks: tuple[DiskFile, ...]
    nic: UserNic | TapNic | None
    kernel: Path | None = None
    initrd: Path | None = None
    config: bytes = b""
    seed: Path | None = None


class LiveVm(Protocol):
    """One running machine. One owner: whoever holds this holds its only control connection."""

    record: RunRecord
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

    async def attach(self, disk: DiskFile) -> None:
        """Plug a disk in. Safe to repeat. :raise Unsupported: no free slot or no hot-plug."""

    async def detach(self, serial: str) -> None:
        """Unplug and wait until the guest let go. Safe to repeat. :raise TimedOut: it did not."""

    async def grow(self, serial: str, size: int) -> None:
        """Tell the guest that a plugged disk has become larger."""

    async def guest(self) -> Guest:
        """The agent inside. :raise Unavailable: none answers yet."""

    async def gone(self) -> None:
        """Returns when the machine has something to say: it ended, or stopped when nobody stopped it."""

    def console(self) -> AsyncIterator[bytes]:
        """Console bytes from now on; what came earlier is in the console file."""

    async def type(self, data: bytes) -> None:
        """Bytes to the console's input."""

    async def close(self) -> None:
        """Let go of the control connection; the machine goes on."""


class Hypervisor(Protocol):
    """A kind of machine runner on this host."""

    name: str
    version: str
    accelerator: str
    abilities: frozenset[str]

    def check(self, blueprint: Blueprint) -> None:
        """Refuse what cannot run here, before any side effect. :raise Unsupported: naming the field."""

    async def launch(self, machine: Machine) -> LiveVm:
        """Start the process, its vCPUs running. All or nothing: on a fault no process is left.

        :raise Internal: with the hypervisor's own words in `private`.
        """

    async def adopt(self, machine: Machine, record: RunRecord) -> LiveVm:
        """Take over the process of `record`; one that does not answer now is `DEAF` until it does. :raise Gone:"""

    def proof(self, machine: Machine, pid: int) -> RunRecord:
        """The record of a process found by its uuid, when a crash came between its start and our writing it down."""

    def find(self) -> list[tuple[int, str]]:
        """(pid, uuid) of every process of this kind on the host, ours or not."""
