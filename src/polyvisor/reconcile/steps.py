"""The steps: the smallest changes there are, each safe to repeat, each with its undo beside it.

A step's name is journaled in its operation before it runs, so that after a crash or a failure its undo is known to be
due. Where there is no undo, the reason stands in its place. See `journal` for what is written.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.compression import Packing
from polyvisor.model.faults import Fault
from polyvisor.model.host import Blueprint, Disk, Sight
from polyvisor.model.ids import SnapshotId
from polyvisor.ports.host import Host

log = logging.getLogger("polyvisor.reconcile")


class StepName(StrEnum):
    """As journaled."""

    MAKE_DISKS = "make-disks"
    PLUG = "plug"
    LAUNCH = "launch"
    RELAUNCH = "relaunch"
    PRESS = "press"
    KILL = "kill"
    REAP = "reap"
    UNPLUG = "unplug"
    REMOVE_DISKS = "remove-disks"
    PAUSE = "pause"
    RESUME = "resume"
    SUSPEND = "suspend"
    RESTORE = "restore"
    DISCARD = "discard"
    CONFIGURE = "configure"
    ENFORCE = "enforce"
    RESET = "reset"
    ATTACH = "attach"
    DETACH = "detach"
    SNAPSHOT = "snapshot"
    REVERT = "revert"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a snapshot keeps: `memory` too, and `keep`: for as long as its record is there. How that is compressed."""

    memory: bool
    keep: bool
    packing: Packing = Packing()


@dataclass(frozen=True, slots=True)
class Work:
    """What a step acts on: the instance's blueprint, and the volume or snapshot that the operation is about.

    `kind`: what that snapshot keeps. `was_paused`: whether the instance was, before the operation. `on`: whether its
    owner wants it to run. `packing`: what becomes of its memory if it is suspended.
    """

    host: Host
    blueprint: Blueprint
    disk: Disk | None = None
    snapshot: SnapshotId | None = None
    kind: Keeping | None = None
    was_paused: bool = False
    on: bool = True
    packing: Packing = Packing()


Doing = Callable[[Work], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Step:
    """`undo` None: there is nothing to take back, see the comment at the step.

    `live`: the undo acts on a running machine, so once that has ended there is nothing to take back.
    """

    name: StepName
    do: Doing
    undo: Doing | None = None
    live: bool = False


async def _relaunch(work: Work) -> None:
    await work.host.kill(work.blueprint.id)
    await work.host.plug(work.blueprint)
    await work.host.launch(work.blueprint)


async def _kill_and_unplug(work: Work) -> None:
    await work.host.kill(work.blueprint.id)
    await work.host.unplug(work.blueprint)


async def _unsuspend(work: Work) -> None:
    if not work.was_paused:
        await work.host.resume(work.blueprint.id)


async def _restore(work: Work) -> object:
    await work.host.plug(work.blueprint)
    return await work.host.restore(work.blueprint)


async def _configure(work: Work) -> None:
    """One that cannot be told is no use: the instance is booted."""
    try:
        await work.host.configure(work.blueprint)
    except Fault as fault:
        log.warning("%s: a spare machine does not obey, it boots: %s", work.blueprint.id, fault.public)
        await work.host.kill(work.blueprint.id)


async def _take(work: Work) -> object:
    kind = work.kind or Keeping(memory=False, keep=True)
    return await work.host.snapshot(
        work.blueprint, _snapshot(work), memory=kind.memory, keep=kind.keep, go_on=work.on, packing=kind.packing
    )


async def _untake(work: Work) -> None:
    """A machine that stood still for it goes on, if it is there."""
    await work.host.remove_snapshot(_snapshot(work))
    if work.kind is not None and work.kind.memory and work.on:
        seen = await work.host.look(work.blueprint)
        if seen.sight is Sight.PAUSED:
            await work.host.resume(work.blueprint.id)


def _disk(work: Work) -> Disk:
    assert work.disk is not None
    return work.disk


def _snapshot(work: Work) -> SnapshotId:
    assert work.snapshot is not None
    return work.snapshot


_ALL = (
    Step(
        StepName.MAKE_DISKS,
        lambda w: w.host.make_disks(w.blueprint),
        lambda w: w.host.remove_disks(w.blueprint.id),
    ),
    Step(StepName.PLUG, lambda w: w.host.plug(w.blueprint), lambda w: w.host.unplug(w.blueprint)),
    Step(StepName.LAUNCH, lambda w: w.host.launch(w.blueprint), lambda w: w.host.kill(w.blueprint.id)),
    Step(StepName.RELAUNCH, _relaunch, _kill_and_unplug),
    Step(StepName.PRESS, lambda w: w.host.press(w.blueprint.id)),  # a pressed button cannot be unpressed
    Step(StepName.KILL, lambda w: w.host.kill(w.blueprint.id)),  # what is dead stays dead; a start is a new wish
    Step(StepName.REAP, _kill_and_unplug),  # what ended by itself is cleared away
    Step(StepName.UNPLUG, lambda w: w.host.unplug(w.blueprint)),  # plugged anew by the next start
    Step(StepName.REMOVE_DISKS, lambda w: w.host.remove_disks(w.blueprint.id)),  # a delete only goes forward
    Step(StepName.PAUSE, lambda w: w.host.pause(w.blueprint.id), lambda w: w.host.resume(w.blueprint.id), live=True),
    Step(StepName.RESUME, lambda w: w.host.resume(w.blueprint.id)),  # its failure leaves the machine paused
    Step(StepName.SUSPEND, lambda w: w.host.suspend(w.blueprint, w.packing), _unsuspend, live=True),
    Step(StepName.RESTORE, _restore, _kill_and_unplug),
    Step(StepName.DISCARD, lambda w: w.host.discard(w.blueprint.id)),  # a stop only goes forward
    Step(StepName.CONFIGURE, _configure),  # a guest cannot forget what it was told
    Step(StepName.ENFORCE, lambda w: w.host.enforce(w.blueprint)),  # what it reached before is nobody's wish
    Step(StepName.RESET, lambda w: w.host.reset(w.blueprint.id)),  # the guest's past cannot be brought back
    Step(
        StepName.ATTACH,
        lambda w: w.host.attach(w.blueprint, _disk(w)),
        lambda w: w.host.detach(w.blueprint.id, _disk(w)),
        live=True,
    ),
    Step(StepName.DETACH, lambda w: w.host.detach(w.blueprint.id, _disk(w))),  # its failure leaves the disk attached
    Step(
        StepName.SNAPSHOT,
        _take,
        _untake,
    ),
    Step(StepName.REVERT, lambda w: w.host.revert(w.blueprint, _snapshot(w))),  # what the disk held before is gone
)

STEPS: dict[StepName, Step] = {step.name: step for step in _ALL}
