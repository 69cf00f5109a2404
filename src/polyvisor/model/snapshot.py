"""`Snapshot`: what an instance was at a moment, kept. `Schedule`: when the next one is taken, and which are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from polyvisor.model.compression import Compression, Packed
from polyvisor.model.faults import Invalid
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import HostId, InstanceId, OperationId, ProjectId, SnapshotId
from polyvisor.model.instance import Mount
from polyvisor.model.spec import Spec
from polyvisor.model.units import Bytes, Seconds

MIN_INTERVAL = Seconds(60.0)
MAX_INTERVAL = Seconds(366 * 86400.0)
MAX_AGE = Seconds(10 * 366 * 86400.0)
MAX_COUNT = 10_000


class SnapshotKind(StrEnum):
    """What is kept. What is in volumes is never a part of it."""

    DISK = "disk"  # the disk, as after a power cut
    FULL = "full"  # the disk and the memory: the machine goes on where it was


class SnapshotState(StrEnum):
    """`creating` belongs to an open operation; `deleting` ones are finished off by whoever finds them."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class TemplateFor(StrEnum):
    """Whose creates a template is for."""

    NOBODY = ""  # it is no template
    PROJECT = "project"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`source` need not exist any more. `spec` is what an instance that is made from it starts with.

    `size` is what it holds on its host. `scheduled`: a schedule made it and may remove it. `transient`: it was made for
    one new instance only, is listed nowhere, and goes when that is there. `template`: of a machine with nothing of its
    own to do, listed apart. `mounts`: the volumes that its memory knows of, none of which can be written. `compression`
    is what was wanted for its memory, `packed` what became of that.
    """

    id: SnapshotId
    project: ProjectId
    name: str
    kind: SnapshotKind
    state: SnapshotState
    source: InstanceId
    source_name: str
    spec: Spec
    size: Bytes
    host: HostId
    created: datetime
    scheduled: bool = False
    transient: bool = False
    template: TemplateFor = TemplateFor.NOBODY
    mounts: tuple[Mount, ...] = ()
    compression: Compression = Compression()
    packed: Packed = Packed()


@dataclass(frozen=True, slots=True)
class Schedule:
    """One for an instance. Of the snapshots it made, `max_count` are kept, and none that is older than `max_age`.

    `kind` None: with memory whenever the instance has any. `prefix` begins the snapshots' names, in place of the
    instance's; `foreign` is what a dialect keeps with each of them. `created` and `updated` are by its owner.

    `operation` is the last run's while that is not known to be over; `last_error` says why that made no snapshot.
    """

    instance: InstanceId
    interval: Seconds
    kind: SnapshotKind | None
    next_run: datetime
    max_age: Seconds | None = None
    max_count: int | None = None
    last_run: datetime | None = None
    last_error: str = ""
    last_snapshot: SnapshotId | None = None
    operation: OperationId | None = None
    prefix: str = ""
    foreign: Foreign | None = None
    created: datetime | None = None
    updated: datetime | None = None


def check_schedule(interval: Seconds, max_age: Seconds | None, max_count: int | None) -> None:
    """:raise Invalid: naming the first field that is wrong."""
    if not MIN_INTERVAL <= interval <= MAX_INTERVAL:
        raise Invalid("interval: must be between a minute and 366 days", field="interval")
    if max_age is not None and not MIN_INTERVAL <= max_age <= MAX_AGE:
        raise Invalid("max_age: must be between a minute and ten years", field="max_age")
    if max_count is not None and not 1 <= max_count <= MAX_COUNT:
        raise Invalid(f"max_count: must be between 1 and {MAX_COUNT}", field="max_count")


def after(schedule: Schedule, now: datetime) -> datetime:
    """The first run later than `now`, whole intervals from the last one due: what was missed is not made up for."""
    interval = timedelta(seconds=schedule.interval)
    missed = max(0, (now - schedule.next_run) // interval)
    return schedule.next_run + (missed + 1) * interval


def outdated(schedule: Schedule, snapshots: list[Snapshot], now: datetime) -> list[Snapshot]:
    """Which of an instance's snapshots the schedule does not keep: only ready ones that it made itself."""
    own = [s for s in snapshots if s.scheduled and s.state is SnapshotState.READY and s.source == schedule.instance]
    own.sort(key=lambda s: (s.created, s.id), reverse=True)
    kept = own if schedule.max_count is None else own[: schedule.max_count]
    if schedule.max_age is not None:
        oldest = now - timedelta(seconds=schedule.max_age)
        kept = [s for s in kept if s.created >= oldest]
    return [s for s in own if s not in kept]
