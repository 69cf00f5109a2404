"""Tasks: what is done to an instance when its time has come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import InstanceId, OperationId, ProjectId, TaskId, UserId
from polyvisor.model.principal import Action
from polyvisor.model.timetable import Timetable, check_timetable, first_of

GRACE = timedelta(hours=1)
"""A run that is late by more, because no server was there to do it, is not made up for."""
MAX_TIMETABLES = 100
_LONGEST = 128


class Deed(StrEnum):
    """What is done."""

    START = "start"
    STOP = "stop"  # the power button: the guest may not obey
    FORCE_STOP = "force-stop"
    RESET = "reset"
    RESTART = "restart"
    SUSPEND = "suspend"
    SNAPSHOT = "snapshot"


class Outcome(StrEnum):
    """What became of a run."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    MISSED = "missed"  # no server was there at its time, nor soon after
    INTERRUPTED = "interrupted"  # the server ended between the claim of the run and what was to be done


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `due` is when it was to be, `operation` what it asked for, `detail` says why it was not done.
    `by_hand`: somebody asked for it."""

    due: datetime
    began: datetime
    outcome: Outcome
    operation: OperationId | None = None
    detail: str = ""
    ended: datetime | None = None
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class Owner:
    """In whose name a task acts: a user, or else an API key of a project by its name. `actions` is what the
    credential let through that it was made with; None: everything."""

    name: str
    project: ProjectId
    user: UserId | None = None
    operator: bool = False
    actions: frozenset[Action] | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A deed that is done to an instance at the times of its timetables, in its owner's name.

    `next_run` None: never any more, or not while it is not `enabled`. `once`: it goes when it has run by the clock and
    was done. `hand`: the dialect that does it, whose instances take more than the engine's verb; "": the engine.
    `settings` is JSON that only that dialect reads.
    """

    id: TaskId
    project: ProjectId
    name: str
    instance: InstanceId
    deed: Deed
    owner: Owner
    created: datetime
    timetables: tuple[Timetable, ...] = ()
    enabled: bool = True
    once: bool = False
    description: str = ""
    next_run: datetime | None = None
    last: Run | None = None
    hand: str = ""
    settings: str = "{}"


def check_task(task: Task) -> Task:
    """`task`, if it can be kept. :raise Invalid: naming the first field that is wrong."""
    if not 1 <= len(task.name) <= _LONGEST or not task.name.isprintable():
        raise Invalid(f"name: must be 1 to {_LONGEST} printable characters", field="name")
    if len(task.timetables) > MAX_TIMETABLES:
        raise Invalid(f"timetables: there can be {MAX_TIMETABLES} at most", field="timetables")
    for one in task.timetables:
        check_timetable(one)
    return task


def planned(task: Task, now: datetime) -> Task:
    """The same with its next run: the first one later than `now`."""
    return replace(task, next_run=first_of(task.timetables, now) if task.enabled else None)
