"""The seven statuses (seed), and what is asked of an instance in which of them (hanzo.md §2.1)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from polyvisor.dialects.kit.tables import total
from polyvisor.model.face import Face, face
from polyvisor.model.instance import Instance

PROVISIONING, RUNNING, STOPPING, STOPPED = "provisioning", "running", "stopping", "stopped"
RESTARTING, DESTROYING, ERROR = "restarting", "destroying", "error"

WORDS: Mapping[Face, str] = total(
    {
        Face.CREATING: PROVISIONING,
        Face.STARTING: RESTARTING,  # there is no word for a start
        Face.RUNNING: RUNNING,
        Face.PAUSING: STOPPING,
        Face.PAUSED: STOPPED,  # a start lets it go on
        Face.SUSPENDING: STOPPING,
        Face.SUSPENDED: STOPPED,  # likewise
        Face.RESUMING: RESTARTING,
        Face.STOPPING: STOPPING,
        Face.STOPPED: STOPPED,
        Face.DELETING: DESTROYING,
        Face.FAILED: ERROR,
        Face.LOST: ERROR,
    },
    tuple(Face),
    "hanzo statuses",
)
PATIENCE = timedelta(minutes=5)
"""After which a machine that runs and whose guest has said nothing is told to be running: it may have no agent."""


def word(instance: Instance, now: datetime) -> str:
    """The status. `running` is one that accepts connections: until its guest says so, it is on its way there."""
    told, seen = face(instance), instance.observed
    first = seen.incarnation == 0 or (seen.incarnation == 1 and told is Face.RUNNING and not seen.ready)
    if told is Face.STARTING and first:
        return PROVISIONING
    if told is not Face.RUNNING:
        return WORDS[told]
    if not instance.settled:  # a restart that is not done
        return RESTARTING
    silent = not seen.ready and not instance.spec.blank
    if silent and now - (seen.booted or seen.since or now) < PATIENCE:
        return PROVISIONING if first else RESTARTING
    return RUNNING
