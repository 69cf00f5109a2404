"""`Instance`: the durable record of a VM, with two records in it that have one writer each.

    intent    what its owner wants now        written by the engine only
    observed  what was last seen of it        written by the reconciler only

`Intent.generation` counts the owner's wishes; `Observed.generation` is the last one that was met. While they
differ the reconciler works towards the intent; once equal, a machine that ends by itself has simply ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.ids import HostId, InstanceId, OperationId, ProjectId, VolumeId
from polyvisor.model.spec import Spec


class Power(StrEnum):
    """What the owner wants of the machine."""

    ON = "on"
    OFF = "off"
    PAUSED = "paused"


class Phase(StrEnum):
    """One observed lifecycle word.

    absent -> prepared | running <-> paused, running | paused -> stopped -> running, any -> failed | lost
    """

    ABSENT = "absent"  # nothing of it on the host yet
    PREPARED = "prepared"  # disks and addresses are there, no process has run
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  # no process; the disks are there
    FAILED = "failed"  # an operation failed; `fault` says why
    LOST = "lost"  # its host or its process cannot be asked


_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.ABSENT: frozenset(Phase),
    Phase.PREPARED: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.RUNNING: frozenset({Phase.PAUSED, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.PAUSED: frozenset({Phase.RUNNING, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.STOPPED: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.FAILED, Phase.LOST}),
    Phase.FAILED: frozenset({Phase.PREPARED, Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.LOST}),
    Phase.LOST: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.FAILED}),
}


def advance(now: Phase, to: Phase) -> Phase:
    """`to`, when the law allows it after `now`; the reconciler's only way to change a phase.

    :raise ValueError: when the law does not.
    """
    if to is not now and to not in _NEXT[now]:
        raise ValueError(f"no way from {now} to {to}")
    return to


@dataclass(frozen=True, slots=True)
class Intent:
    """The owner's wish. `force` and `grace` say how a stop is to be done, `expires` when it stops by itself."""

    power: Power = Power.ON
    deleted: bool = False
    generation: int = 1
    force: bool = False
    grace: float = 30.0
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A NIC's address, given at admission and kept for the life of the instance."""

    mac: str
    ip: str
    prefix: int
    gateway: str
    dns: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The proof of a running process: enough for a later manager to find it and know that it is ours."""

    schema: int
    boot_id: str
    pid: int
    start_ticks: int
    uuid: str
    binary: str
    version: str
    accelerator: str
    started: float
    forwards: tuple[tuple[str, int, int], ...] = ()  # (protocol, host port, guest port)
    journal: int = 0  # where this run's records begin in the journal, bytes


def same_process(one: RunRecord | None, other: RunRecord | None) -> bool:
    """Whether two records prove the very same process; a pid alone proves nothing, it is used again."""
    if one is None or other is None:
        return one is other
    return (one.boot_id, one.pid, one.start_ticks) == (other.boot_id, other.pid, other.start_ticks)


HOST_RESTART = "host-restart"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the workload's exit, or the reason when there is none.

    `reason`: exited (the workload did), shutdown (the guest did), stopped (it was ended on request), crashed (the
    process is gone), host-restart (it is gone with the host it ran on).
    """

    code: int | None = None
    signal: int | None = None
    reason: str = ""

    @property
    def clean(self) -> bool:
        """Whether it counts as success for a restart policy."""
        return self.code == 0 if self.code is not None else self.reason == "shutdown"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was last seen. `incarnation` counts launches; `generation` is the last intent that was met."""

    phase: Phase = Phase.ABSENT
    generation: int = 0
    incarnation: int = 0
    since: datetime | None = None
    ready: bool = False
    run: RunRecord | None = None
    ended: Ended | None = None
    fault: str = ""
    fault_kind: str = ""
    restarts: int = 0
    restart_at: datetime | None = None
    booted: datetime | None = None


class MountState(StrEnum):
    """Where an attachment stands; a row's existence is the claim on the volume."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(frozen=True, slots=True)
class Mount:
    """One volume on one instance. `path` empty: a bare block device."""

    volume: VolumeId
    name: str
    path: str = ""
    read_only: bool = False
    state: MountState = MountState.ATTACHED


@dataclass(frozen=True, slots=True)
class Instance:
    """The durable record of a VM. `number` is a serial that is never reused: uids and subnets derive from it."""

    id: InstanceId
    number: int
    project: ProjectId
    name: str
    spec: Spec
    intent: Intent
    observed: Observed
    host: HostId
    created: datetime
    address: Address | None = None
    mounts: tuple[Mount, ...] = ()
    operation: OperationId | None = None  # the open one, if any

    @property
    def settled(self) -> bool:
        """Whether the current wish has been met (or has failed) already."""
        return self.observed.generation >= self.intent.generation
