"""`Instance`: the durable record of a VM, with two records in it that have one writer each.

    intent    what its owner wants now        written by the engine only
    observed  what was last seen of it        written by the reconciler only

`Intent.generation` counts the owner's wishes; `Observed.generation` is the last one that was met. While they
differ the reconciler works towards the intent; once equal, a machine that ends by itself has simply ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from polyvisor.model.compression import Packing
from polyvisor.model.ids import HostId, InstanceId, OperationId, ProjectId, VolumeId
from polyvisor.model.spec import Spec
from polyvisor.model.units import Bytes


class Power(StrEnum):
    """What the owner wants of the machine."""

    ON = "on"
    OFF = "off"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # memory saved, no process


class Phase(StrEnum):
    """One observed lifecycle word.

    absent -> prepared | running <-> paused, running | paused <-> suspended, running | paused | suspended -> stopped ->
    running, any -> failed | lost
    """

    ABSENT = "absent"  # nothing of it on the host yet
    PREPARED = "prepared"  # disks and addresses are there, no process has run
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"  # no process; its memory and the disks are there
    STOPPED = "stopped"  # no process; the disks are there
    FAILED = "failed"  # an operation failed; `fault` says why
    LOST = "lost"  # its host or its process cannot be asked


_NEXT: dict[Phase, frozenset[Phase]] = {
    Phase.ABSENT: frozenset(Phase),
    Phase.PREPARED: frozenset(Phase) - {Phase.ABSENT},
    Phase.RUNNING: frozenset({Phase.PAUSED, Phase.SUSPENDED, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.PAUSED: frozenset({Phase.RUNNING, Phase.SUSPENDED, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.SUSPENDED: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.FAILED, Phase.LOST}),
    Phase.STOPPED: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.SUSPENDED, Phase.FAILED, Phase.LOST}),
    Phase.FAILED: frozenset(Phase) - {Phase.ABSENT},
    Phase.LOST: frozenset({Phase.RUNNING, Phase.PAUSED, Phase.SUSPENDED, Phase.STOPPED, Phase.FAILED}),
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
    """The owner's wish. `force` and `grace` say how a stop is to be done, `expires` when it stops by itself, `packing`
    what becomes of the memory of one that is suspended. `condemned` is the run that is to end as if by itself,
    since its health check failed."""

    power: Power = Power.ON
    deleted: bool = False
    generation: int = 1
    force: bool = False
    grace: float = 30.0
    expires: datetime | None = None
    packing: Packing = Packing()
    condemned: int = 0


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
UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: the workload's exit, or the reason when there is none.

    `reason`: exited (the workload did), shutdown (the guest did), stopped (it was ended on request), crashed (the
    process is gone), host-restart (it is gone with the host it ran on), unhealthy (its health check failed).
    """

    code: int | None = None
    signal: int | None = None
    reason: str = ""

    @property
    def clean(self) -> bool:
        """Whether it counts as success for a restart policy."""
        return self.code == 0 if self.code is not None else self.reason == "shutdown"


class Stage(StrEnum):
    """Where an instance spends its time, for whoever wants to know how much."""

    CREATED = "created"
    INITIALIZING = "initializing"  # it runs, and its guest is coming up
    RUNNING = "running"
    STANDBY = "standby"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Observed:
    """What was last seen. `incarnation` counts launches; `generation` is the last intent that was met.

    `booted` is when the present process began, or the last one; `begun` when its guest did: one that goes on from
    memory has begun earlier. `spent` is milliseconds by stage, up to `staged`, when it came into the present one.
    `egress` is `mark_of` the policy in force of what it reaches.
    """

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
    begun: datetime | None = None
    staged: datetime | None = None
    spent: tuple[tuple[Stage, int], ...] = ()
    egress: str = ""


_STAGES = {
    Phase.ABSENT: Stage.CREATED,
    Phase.PREPARED: Stage.CREATED,
    Phase.RUNNING: Stage.RUNNING,
    Phase.PAUSED: Stage.RUNNING,
    Phase.SUSPENDED: Stage.STANDBY,
    Phase.STOPPED: Stage.STOPPED,
    Phase.FAILED: Stage.STOPPED,
    Phase.LOST: Stage.RUNNING,
}


def stage_of(observed: Observed) -> Stage:
    """The stage it is in."""
    found = _STAGES[observed.phase]
    return Stage.INITIALIZING if found is Stage.RUNNING and not observed.ready else found


def timed(was: Observed, seen: Observed, now: datetime) -> Observed:
    """`seen`, which follows `was`, with the times that it says nothing of itself."""
    if seen.incarnation != was.incarnation:
        goes_on = was.phase is Phase.SUSPENDED and was.begun is not None
        seen = replace(seen, begun=was.begun if goes_on else seen.booted)
    if stage_of(seen) is stage_of(was):
        return seen
    spent = dict(time_spent(was, now))
    return replace(seen, staged=now, spent=tuple(sorted(spent.items())))


def time_spent(observed: Observed, now: datetime) -> dict[Stage, int]:
    """Milliseconds by stage, the present one until now included."""
    spent = dict(observed.spent)
    begun = observed.staged or observed.since
    if begun is not None:
        here = stage_of(observed)
        spent[here] = spent.get(here, 0) + max(0, round((now - begun).total_seconds() * 1000))
    return spent


class Bus(StrEnum):
    """How a guest sees a disk: a virtio one, or USB mass storage."""

    VIRTIO = "virtio"
    USB = "usb"


MAX_ON_BUS = {Bus.VIRTIO: 12, Bus.USB: 8}
"""Volumes that a machine may have on each: with all of them, and all NICs, a place on its PCI bus is left for each."""


class MountState(StrEnum):
    """Where an attachment stands; a row's existence is the claim on the volume."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(frozen=True, slots=True)
class Mount:
    """One volume on one instance. `path` empty: a bare block device. `overlay`: bytes that the instance may write above
    it, 0: none; the volume itself is only read then. `pool` is the volume's."""

    volume: VolumeId
    name: str
    path: str = ""
    read_only: bool = False
    state: MountState = MountState.ATTACHED
    overlay: Bytes = Bytes(0)
    bus: Bus = Bus.VIRTIO
    pool: str = ""


def with_overlay(mount: Mount, spec: Spec) -> Mount:
    """The mount as it is on an instance of that spec: read, its volume has the overlay that is on the disk for it."""
    sizes = {one.volume: one.size for one in spec.overlays} if mount.read_only and mount.path else {}
    return replace(mount, overlay=sizes.get(mount.volume, Bytes(0)))


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
    def spare(self) -> bool:
        """Whether it is a copy of a template that nobody has asked for yet."""
        return self.spec.bare and bool(self.spec.origin)

    @property
    def settled(self) -> bool:
        """Whether the current wish has been met (or has failed) already."""
        return self.observed.generation >= self.intent.generation
