"""State words, and what a request for a state asks of an instance in which state (velocity.md §2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from polyvisor.dialects.kit.tables import total
from polyvisor.model.face import Face

WORDS: Mapping[Face, str] = total(
    {
        Face.CREATING: "STOPPED",
        Face.STARTING: "STARTING",
        Face.RUNNING: "RUNNING",
        Face.PAUSING: "PAUSING",
        Face.PAUSED: "PAUSED",
        Face.SUSPENDING: "SAVING",
        Face.SUSPENDED: "PAUSED",
        Face.RESUMING: "RESUMING",
        Face.STOPPING: "STOPPING",
        Face.STOPPED: "STOPPED",
        Face.DELETING: "STOPPING",
        Face.FAILED: "ERROR",
        Face.LOST: "UNKNOWN",
    },
    tuple(Face),
    "velocity states",
)


class Ask(StrEnum):
    """What has to be asked of the engine."""

    NOTHING = "nothing"
    START = "start"
    RESUME = "resume"
    PAUSE = "pause"
    PRESS = "press"
    KILL = "kill"
    FAIL = "fail"  # a machine that stands still hears no button
    REFUSE = "refuse"


_RUNNING = {"STOPPED": Ask.START, "ERROR": Ask.START, "RUNNING": Ask.NOTHING, "PAUSED": Ask.RESUME}
_PAUSED = {"RUNNING": Ask.PAUSE, "PAUSED": Ask.NOTHING}
_STOPPED = {"STOPPED": Ask.NOTHING, "ERROR": Ask.NOTHING, "RUNNING": Ask.PRESS, "PAUSED": Ask.FAIL}


def ask_of(word: str, wanted: str, *, force: bool) -> Ask:
    """What a request for a state means while the word for the present one is that. `force` ends whatever there is."""
    if wanted == "RUNNING":
        return _RUNNING.get(word, Ask.REFUSE)
    if wanted == "PAUSED":
        return _PAUSED.get(word, Ask.REFUSE)
    if force:
        return Ask.NOTHING if word in ("STOPPED", "ERROR") else Ask.KILL
    return _STOPPED.get(word, Ask.REFUSE)
