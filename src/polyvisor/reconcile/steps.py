"""The steps: the smallest changes there are, each safe to repeat, each with its undo beside it.

A step's name is journaled in its operation before it runs, so that after a crash or a failure its undo is known to be
due. Where there is no undo, the reason stands in its place. See `journal` for what is written.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.host import Blueprint, Disk
from polyvisor.ports.host import Host


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
    RESET = "reset"
    ATTACH = "attach"
    DETACH = "detach"


@dataclass(frozen=True, slots=True)
class Work:
    """What a step acts on: the instance's blueprint, and the volume of an attach or detach."""

    host: Host
    blueprint: Blueprint
    disk: Disk | None = None


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


def _disk(work: Work) -> Disk:
    assert work.disk is not None
    return work.disk


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
    Step(StepName.RESET, lambda w: w.host.reset(w.blueprint.id)),  # the guest's past cannot be brought back
    Step(
        StepName.ATTACH,
        lambda w: w.host.attach(w.blueprint, _disk(w)),
        lambda w: w.host.detach(w.blueprint.id, _disk(w)),
        live=True,
    ),
    Step(StepName.DETACH, lambda w: w.host.detach(w.blueprint.id, _disk(w))),  # its failure leaves the disk attached
)

STEPS: dict[StepName, Step] = {step.name: step for step in _ALL}
