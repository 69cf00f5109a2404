"""What is written into an operation about its steps, and what can be read from it after a crash.

    launch@1700000000.000        the step began
    launch.done                  it is over
    failed NoCapacity the disk is full    a step was refused: what was done is being taken back

A step that began and is not known to be over is run again: every step is safe to repeat.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from polyvisor.model.faults import Fault, revive
from polyvisor.model.operation import Operation
from polyvisor.reconcile.steps import STEPS, Step, StepName

_FAILED = "failed "


def entry_of(name: StepName, at: datetime) -> str:
    """How the beginning of a step is written."""
    return f"{name}@{at.timestamp():.3f}"


def begin(operation: Operation, name: StepName, at: datetime, *then: StepName) -> Operation:
    """The step begins, and `then` those. One that began before does so anew: a journal does not grow by repeating."""
    names = (name, *then)
    again = {*names, *(f"{one}.done" for one in names)}
    kept = tuple(line for line in operation.journal if line.partition("@")[0] not in again)
    return replace(operation, journal=(*kept, *(entry_of(one, at) for one in names)), progress=str(name))


def finish(operation: Operation, name: StepName) -> Operation:
    """The step is over."""
    return replace(operation, journal=(*operation.journal, f"{name}.done"))


def give_up(operation: Operation, fault: Fault) -> Operation:
    """A step was refused with `fault`: from now on the operation is taken back, whoever reads it."""
    return replace(operation, journal=(*operation.journal, f"{_FAILED}{fault.kind} {fault.public}"), progress="undo")


def given_up(operation: Operation) -> Fault | None:
    """The fault for which the operation is being taken back; None: it is not."""
    for line in operation.journal:
        if line.startswith(_FAILED):
            kind, _, public = line.removeprefix(_FAILED).partition(" ")
            return revive(kind, public)
    return None


def began(operation: Operation, name: StepName) -> datetime | None:
    """When that step of the operation last began; None: it did not."""
    for line in operation.journal:
        step, at, time = line.partition("@")
        if at and step == name:
            return datetime.fromtimestamp(float(time), UTC)
    return None


def done(operation: Operation, name: StepName) -> bool:
    """Whether that step is known to be over."""
    return f"{name}.done" in operation.journal


def to_undo(operation: Operation) -> list[Step]:
    """The journaled steps that have an undo, latest first."""
    names = [line.partition("@")[0] for line in operation.journal if "@" in line and not line.startswith(_FAILED)]
    return [STEPS[StepName(name)] for name in reversed(names) if STEPS[StepName(name)].undo]
