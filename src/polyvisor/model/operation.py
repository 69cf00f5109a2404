"""`Operation`: one asked change, durable. Opened by the engine, closed by the reconciler."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.face import Face
from polyvisor.model.faults import Busy, Fault, WrongState
from polyvisor.model.ids import InstanceId, OperationId, ProjectId


class Verb(StrEnum):
    """What can be asked of an instance."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    RESET = "reset"
    PAUSE = "pause"
    RESUME = "resume"
    SUSPEND = "suspend"
    DELETE = "delete"
    ATTACH = "attach"
    DETACH = "detach"
    SNAPSHOT = "snapshot"
    REVERT = "revert"


class Outcome(StrEnum):
    """Where an operation stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # a later wish took its place before it was met


@dataclass(frozen=True, slots=True)
class Operation:
    """`subject` is the volume of an attach or detach, the snapshot of a snapshot or revert, and the one
    that a create is made from. `journal` names the steps done, in order."""

    id: OperationId
    instance: InstanceId
    project: ProjectId
    verb: Verb
    generation: int
    outcome: Outcome
    created: datetime
    subject: str = ""
    progress: str = ""
    journal: tuple[str, ...] = ()
    fault: str = ""
    fault_kind: str = ""
    finished: datetime | None = None


class Answer(StrEnum):
    """What admission says to a verb in a given face."""

    GO = "go"
    NOTHING_TO_DO = "nothing to do"


_GO: dict[Verb, frozenset[Face]] = {
    Verb.CREATE: frozenset(),
    Verb.START: frozenset({Face.STOPPED, Face.FAILED, Face.SUSPENDED}),
    Verb.STOP: frozenset({Face.RUNNING, Face.PAUSED, Face.PAUSING, Face.RESUMING, Face.STARTING, Face.STOPPING})
    | {Face.SUSPENDED, Face.SUSPENDING, Face.FAILED, Face.LOST},
    Verb.RESTART: frozenset({Face.RUNNING, Face.PAUSED}),
    Verb.RESET: frozenset({Face.RUNNING}),
    Verb.PAUSE: frozenset({Face.RUNNING}),
    Verb.RESUME: frozenset({Face.PAUSED, Face.SUSPENDED}),
    Verb.SUSPEND: frozenset({Face.RUNNING, Face.PAUSED}),
    Verb.DELETE: frozenset(Face),
    Verb.ATTACH: frozenset({Face.RUNNING, Face.STOPPED}),
    Verb.DETACH: frozenset({Face.RUNNING, Face.STOPPED, Face.FAILED}),
    Verb.SNAPSHOT: frozenset({Face.RUNNING, Face.PAUSED, Face.SUSPENDED, Face.STOPPED}),
    Verb.REVERT: frozenset({Face.STOPPED}),
}
_ALREADY: dict[Verb, frozenset[Face]] = {
    Verb.START: frozenset({Face.RUNNING, Face.STARTING}),
    Verb.STOP: frozenset({Face.STOPPED}),
    Verb.PAUSE: frozenset({Face.PAUSED, Face.PAUSING}),
    Verb.RESUME: frozenset({Face.RUNNING, Face.RESUMING}),
    Verb.SUSPEND: frozenset({Face.SUSPENDED, Face.SUSPENDING}),
}
_MOVING = frozenset({Face.CREATING, Face.STARTING, Face.PAUSING, Face.SUSPENDING, Face.RESUMING, Face.STOPPING}) | {
    Face.DELETING
}
_HAS_MEMORY = frozenset({Face.RUNNING, Face.PAUSED, Face.SUSPENDED})
_ENDING = frozenset({Verb.STOP, Verb.DELETE})  # what must always be possible: they end whatever is under way


def answer(verb: Verb, face: Face, under_way: Verb | None = None) -> Answer | Fault:
    """Whether `verb` may begin in `face` while an operation of the verb `under_way` is open.

    A fault is returned, not raised, so that tests can walk the table.
    """
    if verb is not Verb.DELETE and face is Face.DELETING:
        return WrongState("the instance is being deleted")
    verdict = _of_face(verb, face)
    if verdict is Answer.GO and under_way is not None and verb not in _ENDING:
        return Busy(f"cannot {verb} now: another operation ({under_way}) is under way", retry_after=1.0)
    return verdict


def _of_face(verb: Verb, face: Face) -> Answer | Fault:
    if face in _GO[verb]:
        return Answer.GO
    if face in _ALREADY.get(verb, frozenset()):
        return Answer.NOTHING_TO_DO
    if face in _MOVING:
        return Busy(f"cannot {verb} now: the instance is {face}", retry_after=1.0)
    return WrongState(f"cannot {verb} an instance that is {face}")


def admit(verb: Verb, face: Face, under_way: Verb | None = None) -> Answer:
    """As `answer`, raising the fault.

    :raise WrongState: the face does not allow the verb.
    :raise Busy: it may later, when the present change is over.
    """
    verdict = answer(verb, face, under_way)
    if isinstance(verdict, Fault):
        raise verdict
    return verdict


def admit_memory(face: Face) -> None:
    """What a snapshot with memory needs beside what every snapshot does.

    :raise WrongState: there is no memory.
    """
    if face not in _HAS_MEMORY:
        raise WrongState(f"kind: an instance that is {face} has no memory to keep", field="kind")
