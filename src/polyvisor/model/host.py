"""What a host says of itself and of the machines found on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.ids import HostId, InstanceId, ProjectId
from polyvisor.model.instance import Address, Bus, Ended, RunRecord
from polyvisor.model.spec import Spec
from polyvisor.model.units import Bytes


class Sight(StrEnum):
    """What a look at one instance's process found."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"  # the guest powered off; the process may still be there to say so
    GONE = "gone"  # no process
    DEAF = "deaf"  # the process is there but does not answer


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at one instance; `prepared` says whether its disks are on the host, all of them.

    `run` is the process seen, or the last one when it is gone and was not cleared away yet; `ended` says how it ended,
    `trouble` why a machine stopped that nobody stopped. `saved`: its memory is there and it can go on from it.
    `rebooting`: it has ended because its guest boots anew, in a process that has to be started for it. `bare`: it runs,
    or is saved, and knows who it is, and was never told what for. `astray`: it runs, and what it reaches is not what
    its spec says.
    """

    id: InstanceId
    sight: Sight
    prepared: bool = True
    ready: bool = False
    run: RunRecord | None = None
    ended: Ended | None = None
    trouble: str = ""
    saved: bool = False
    rebooting: bool = False
    bare: bool = False
    astray: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume in a blueprint. `serial` is how the guest knows it; `overlay`: which one on the machine's own disk lies
    above it."""

    volume: str
    serial: str
    size: Bytes
    path: str = ""
    read_only: bool = False
    overlay: int | None = None
    bus: Bus = Bus.VIRTIO
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A Spec resolved for one host: names and numbers, still without a path (those the host knows)."""

    id: InstanceId
    number: int
    project: ProjectId
    name: str
    spec: Spec
    address: Address | None
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """What a machine takes of its host: seconds of CPU, bytes of memory its process has and could have, bytes that its
    guest received and sent. All is nothing while it does not run."""

    cpu: float = 0.0
    resident: Bytes = Bytes(0)
    virtual: Bytes = Bytes(0)
    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class DiskCounts:
    """What a disk of a machine has done since that began: requests, and bytes."""

    reads: int = 0
    writes: int = 0
    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host has and can do."""

    id: HostId
    cpus: int
    memory: Bytes
    disk_free: Bytes
    hypervisor: str
    version: str
    accelerator: str
    network: str
    abilities: frozenset[str]
    ok: bool = True
    trouble: str = ""
