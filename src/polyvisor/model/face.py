"""`Face`: what a caller may be told. A pure, total function of intent and observation.

Each dialect owns a total table `Face -> word`.
"""

from __future__ import annotations

from enum import StrEnum

from polyvisor.model.instance import Instance, Phase, Power


class Face(StrEnum):
    """The closed set of things an instance can be said to be."""

    CREATING = "creating"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    SUSPENDING = "suspending"
    SUSPENDED = "suspended"
    RESUMING = "resuming"
    STOPPING = "stopping"
    STOPPED = "stopped"
    DELETING = "deleting"
    FAILED = "failed"
    LOST = "lost"


_RESTING = {
    Phase.ABSENT: Face.CREATING,
    Phase.PREPARED: Face.STOPPED,
    Phase.RUNNING: Face.RUNNING,
    Phase.PAUSED: Face.PAUSED,
    Phase.SUSPENDED: Face.SUSPENDED,
    Phase.STOPPED: Face.STOPPED,
    Phase.FAILED: Face.FAILED,
    Phase.LOST: Face.LOST,
}

_MOVING = {
    (Phase.PREPARED, Power.ON): Face.STARTING,
    (Phase.PREPARED, Power.PAUSED): Face.STARTING,
    (Phase.STOPPED, Power.ON): Face.STARTING,
    (Phase.STOPPED, Power.PAUSED): Face.STARTING,
    (Phase.FAILED, Power.ON): Face.STARTING,
    (Phase.FAILED, Power.PAUSED): Face.STARTING,
    (Phase.FAILED, Power.OFF): Face.STOPPING,
    (Phase.RUNNING, Power.PAUSED): Face.PAUSING,
    (Phase.RUNNING, Power.SUSPENDED): Face.SUSPENDING,
    (Phase.PAUSED, Power.SUSPENDED): Face.SUSPENDING,
    (Phase.SUSPENDED, Power.OFF): Face.STOPPING,
    (Phase.SUSPENDED, Power.ON): Face.RESUMING,
    (Phase.SUSPENDED, Power.PAUSED): Face.RESUMING,
    (Phase.RUNNING, Power.OFF): Face.STOPPING,
    (Phase.PAUSED, Power.OFF): Face.STOPPING,
    (Phase.PAUSED, Power.ON): Face.RESUMING,
    (Phase.LOST, Power.OFF): Face.STOPPING,
}


def face(instance: Instance) -> Face:
    """What to say of this instance now."""
    return face_of(instance.intent.power, instance.observed.phase, instance.settled, deleted=instance.intent.deleted)


def face_of(power: Power, phase: Phase, settled: bool, *, deleted: bool = False) -> Face:
    """The table behind `face`: total over every combination."""
    if deleted:
        return Face.DELETING
    if settled:
        return _RESTING[phase]
    return _MOVING.get((phase, power), _RESTING[phase])
