"""Faces as this dialect's eight words, and which calls are legal in which word (hypeman.md §1.3)."""

from __future__ import annotations

from polyvisor.dialects.hypeman.asks import State
from polyvisor.dialects.kit.tables import total
from polyvisor.model.face import Face, face
from polyvisor.model.instance import Instance

WORDS = total(
    {
        Face.CREATING: "Created",
        Face.STARTING: "Initializing",
        Face.RUNNING: "Running",  # once its guest is up; until then see `word`
        Face.PAUSING: "Paused",
        Face.PAUSED: "Paused",
        Face.SUSPENDING: "Paused",
        Face.SUSPENDED: "Standby",
        Face.RESUMING: "Initializing",
        Face.STOPPING: "Shutdown",
        Face.STOPPED: "Stopped",
        Face.DELETING: "Shutdown",
        Face.FAILED: "Stopped",  # no machine, no saved memory; why is its exit message
        Face.LOST: "Unknown",
    },
    tuple(Face),
    "hypeman states",
)
# Where an instance stays until somebody asks for something: a wait for another state ends here.
RESTING = frozenset({Face.STOPPED, Face.SUSPENDED, Face.PAUSED, Face.FAILED, Face.LOST})

_UP = frozenset({"Running", "Initializing"})
LEGAL: dict[str, frozenset[str]] = {
    "standby": frozenset({"Running"}),
    "restore": frozenset({"Standby"}),
    "stop": _UP,
    "start": frozenset({"Stopped"}),
}
ALREADY: dict[str, frozenset[str]] = {
    "standby": frozenset({"Standby"}),
    "restore": _UP,
    "stop": frozenset({"Stopped"}),
    "start": _UP,
}
_MUST = {"stop": ", must be Running or Initializing", "start": ", must be Stopped"}


def word(instance: Instance) -> State:
    """What to say of it now."""
    now = face(instance)
    if now is Face.RUNNING and not instance.observed.ready and not instance.spec.blank:
        return "Initializing"
    found: State = WORDS[now]  # type: ignore[assignment]  # the table's values are those words
    return found


def no_way(verb: str, state: str) -> str:
    """Upstream's text for a call that the state does not allow."""
    return f"invalid state transition: cannot {verb} from state {state}{_MUST.get(verb, '')}"
