"""What a host says of itself and of the machines found on it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.ids import HostId, InstanceId, ProjectId
from polyvisor.model.instance import Address, Ended, RunRecord
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
    `trouble` why a machine stopped that nobody stopped.
    """

    id: InstanceId
    sight: Sight
    prepared: bool = True
    ready: bool = False
    run: RunRecord | None = None
    ended: Ended | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume in a blueprint. `serial` is how the guest knows it."""

    volume: str
    serial: str
    size: Bytes
    path: str = ""
    read_only: bool = False


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
