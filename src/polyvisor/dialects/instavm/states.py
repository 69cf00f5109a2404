"""Our face, this dialect's word. `active` is the word of what lives (ruling)."""

from __future__ import annotations

from polyvisor.dialects.kit.tables import total
from polyvisor.model.face import Face, face
from polyvisor.model.instance import Instance

ACTIVE, CREATING, KILLED, TERMINATED = "active", "creating", "killed", "terminated"
WORDS = total(
    {
        Face.CREATING: CREATING,
        Face.STARTING: CREATING,
        Face.RUNNING: ACTIVE,
        Face.PAUSING: "pausing",
        Face.PAUSED: "paused",
        Face.SUSPENDING: "suspending",
        Face.SUSPENDED: "suspended",
        Face.RESUMING: "resuming",
        Face.STOPPING: "stopping",
        Face.STOPPED: "stopped",
        Face.DELETING: TERMINATED,
        Face.FAILED: "failed",
        Face.LOST: "error",
    },
    list(Face),
    "instavm states",
)
RUNNING = frozenset({ACTIVE, CREATING, "resuming"})
"""What `GET /v1/vms` lists."""


def word(instance: Instance) -> str:
    """What is said of it: one whose guest is coming up is still being made, as far as a client can tell."""
    found = WORDS[face(instance)]
    return CREATING if found == ACTIVE and not instance.observed.ready and not instance.spec.blank else found
