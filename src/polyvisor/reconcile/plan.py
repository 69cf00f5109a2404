"""What to do next for one instance: a pure function of its record, its open operation, one look and the time.

The answer is one step, a time to wait until, or the facts to write down. Nothing here remembers anything: a manager
that was killed in the middle asks again and gets the step that follows from what the machine says now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from polyvisor.model.faults import Fault, Unavailable, WrongState
from polyvisor.model.host import Observation, Sight
from polyvisor.model.instance import UNHEALTHY, Ended, Instance, Observed, Phase, Power, RunRecord
from polyvisor.model.operation import Operation, Verb
from polyvisor.reconcile import facts
from polyvisor.reconcile.journal import began, done, given_up
from polyvisor.reconcile.steps import StepName

ASK_AGAIN = timedelta(seconds=2)  # a machine that does not answer is asked this often
LIVE = {
    Verb.ATTACH: StepName.ATTACH,
    Verb.DETACH: StepName.DETACH,
    Verb.RESET: StepName.RESET,
    Verb.SNAPSHOT: StepName.SNAPSHOT,
    Verb.REVERT: StepName.REVERT,
}
"""The verbs that ask for no other power: one step, and the instance is as it was but for that."""
_AT_REST_TOO = {Verb.SNAPSHOT, Verb.REVERT}  # there is something to do without a machine as well


@dataclass(frozen=True, slots=True)
class Act:
    """Run this step, then look again; `observed` is to be written first when it differs. `then`: steps that follow
    without a look, since whatever it shows they are next; there is nothing to take back of them."""

    step: StepName
    observed: Observed | None = None
    then: tuple[StepName, ...] = ()


@dataclass(frozen=True, slots=True)
class Undo:
    """A step was refused with this fault: take back what was done, then close the operation with it."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then, or until woken; `observed` is to be written first when it differs."""

    until: datetime
    observed: Observed


@dataclass(frozen=True, slots=True)
class Settled:
    """Nothing more is to be done for the wish: write these facts and close the operation.

    `fault`: the wish can no longer be met. `forget`: the record goes too.
    """

    observed: Observed
    fault: Fault | None = None
    forget: bool = False


Next = Act | Undo | Wait | Settled


def plan(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    """The next step for this instance."""
    if instance.intent.deleted:
        return _delete(operation, seen)
    if operation is not None:
        fault = given_up(operation)
        if fault is not None:
            return Undo(fault)
        if operation.verb in LIVE:
            return _live_change(instance, operation, seen, now)
    if instance.settled:
        return _maintain(instance, seen, now)
    if operation is not None and operation.verb is Verb.RESTART and not began(operation, StepName.LAUNCH):
        return _restart(instance, operation, seen, now)
    towards = {Power.ON: _up, Power.OFF: _down, Power.PAUSED: _pause, Power.SUSPENDED: _suspend}
    return towards[instance.intent.power](instance, operation, seen, now)


def proven(instance: Instance, step: StepName, seen: Observation, result: object) -> Observation | None:
    """What is to be seen after a step that was done, where it needs no look: what was `seen` before, but for what the
    step itself is proof of. What happens to the machine beside it is told by a hint, as at any other time.
    """
    if step is StepName.RESTORE and isinstance(result, RunRecord):
        return replace(
            seen, sight=Sight.RUNNING, run=result, ready=False, ended=None, saved=False, rebooting=False,
            astray=False,
        )  # fmt: skip
    if step is StepName.SUSPEND:
        return replace(seen, sight=Sight.GONE, run=None, ready=False, ended=None, trouble="", saved=True)
    goes_on = seen.sight is Sight.RUNNING and instance.intent.power is Power.ON
    return seen if step is StepName.SNAPSHOT and goes_on else None


def needs_more(instance: Instance, settled: Settled, seen: Observation, now: datetime) -> bool:
    """Whether what was written down brings about the next thing by itself, such as a restart."""
    after = plan(replace(instance, observed=settled.observed, operation=None), None, seen, now)
    return not isinstance(after, Settled) or after.observed != settled.observed


def _ran(seen: Observation) -> bool:
    """Whether there was a process that is still to be cleared away."""
    return seen.sight is not Sight.GONE or seen.run is not None


# -- towards an intent ---------------------------------------------------------------------------------------------


def _up(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight is Sight.RUNNING:
        if seen.astray:  # before it is told what it is for
            return Act(StepName.ENFORCE)
        if seen.bare and not instance.spec.bare:
            return Act(StepName.CONFIGURE)
        return Settled(facts.running(instance, seen, now))
    if seen.sight is Sight.PAUSED:
        return Act(StepName.RESUME)
    return _not_up(instance, operation, seen, now)


def _not_up(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight is Sight.DEAF:
        return Wait(now + ASK_AGAIN, facts.lost(instance, seen, now))
    if seen.saved:  # a process that is there never came to life
        return Act(StepName.KILL if _ran(seen) else StepName.RESTORE)
    if operation is not None and operation.verb in (Verb.RESUME, Verb.PAUSE, Verb.SUSPEND):  # a start was not asked for
        fault = WrongState(f"the machine ended before the {operation.verb}")
        return Settled(facts.ended(instance, seen, now), fault)
    if _ran(seen):
        if operation is not None and began(operation, StepName.LAUNCH):
            return Settled(facts.ended(instance, seen, now))  # it ran and was over before we looked again
        return Act(StepName.KILL)
    return _launch(instance, operation, seen, now)


def _launch(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if instance.observed.incarnation and not seen.prepared:
        return _without_disk(instance, seen, now)
    if _unmade(operation, seen):
        return Act(StepName.MAKE_DISKS)
    if operation is None:
        return Act(StepName.RELAUNCH)
    if not done(operation, StepName.PLUG):
        return Act(StepName.PLUG)
    return Act(StepName.LAUNCH)


def _without_disk(instance: Instance, seen: Observation, now: datetime) -> Settled:
    """It ran and its disk is gone: an empty one in its place would be a lie."""
    fault = Unavailable("the instance's disk is not on this host any more")
    return Settled(facts.refused(instance, seen, fault, now, live=False), fault)


def _unmade(operation: Operation | None, seen: Observation) -> bool:
    """Disks are missing, or were being made when a manager died."""
    if operation is None or not began(operation, StepName.MAKE_DISKS):
        return not seen.prepared
    return not seen.prepared or not done(operation, StepName.MAKE_DISKS)


def _down(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if _ran(seen):
        return _end(instance, operation, seen, now)
    if operation is not None and operation.verb is Verb.CREATE:
        if _unmade(operation, seen):
            return Act(StepName.MAKE_DISKS)
    elif seen.saved:
        return Act(StepName.DISCARD)
    elif operation is not None and not done(operation, StepName.UNPLUG):
        return Act(StepName.UNPLUG)
    return Settled(facts.still(instance, now))


def _suspend(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight in (Sight.RUNNING, Sight.PAUSED):
        return Act(StepName.SUSPEND, then=() if operation is None else (StepName.UNPLUG,))
    if not seen.saved or seen.sight is Sight.DEAF:
        return _not_up(instance, operation, seen, now)
    if _ran(seen):
        return Act(StepName.KILL)
    if operation is not None and not done(operation, StepName.UNPLUG):
        return Act(StepName.UNPLUG)
    return Settled(facts.suspended(instance, now))


def _end(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    """End a process: ask first, then, at the limit, do not."""
    noted = facts.ending(instance, seen, now)
    if seen.sight in (Sight.ENDED, Sight.GONE) or instance.intent.force or operation is None:
        return Act(StepName.KILL, noted)
    if seen.sight is Sight.PAUSED and not done(operation, StepName.RESUME):
        return Act(StepName.RESUME, noted)  # a paused guest cannot obey
    if seen.sight is not Sight.DEAF and not done(operation, StepName.PRESS):
        return Act(StepName.PRESS, noted)
    limit = (began(operation, StepName.PRESS) or operation.created) + timedelta(seconds=instance.intent.grace)
    if now >= limit:
        return Act(StepName.KILL, noted)
    if seen.sight is Sight.DEAF:
        return Wait(min(limit, now + ASK_AGAIN), facts.lost(instance, seen, now))
    return Wait(limit, facts.up(instance, seen, now))


def _restart(instance: Instance, operation: Operation, seen: Observation, now: datetime) -> Next:
    return _end(instance, operation, seen, now) if _ran(seen) else _launch(instance, operation, seen, now)


def _pause(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight is Sight.RUNNING:
        return Act(StepName.PAUSE)
    if seen.sight is Sight.PAUSED:
        return Act(StepName.ENFORCE) if seen.astray else Settled(facts.running(instance, seen, now))
    return _not_up(instance, operation, seen, now)


def _delete(operation: Operation | None, seen: Observation) -> Next:
    clearing = () if operation is None else (StepName.UNPLUG, StepName.REMOVE_DISKS)
    if _ran(seen):
        return Act(StepName.KILL, then=() if seen.saved else clearing)
    if seen.saved:
        return Act(StepName.DISCARD, then=clearing)  # or it would keep its place in the network, to be woken
    if operation is not None and not done(operation, StepName.UNPLUG):
        return Act(StepName.UNPLUG, then=(StepName.REMOVE_DISKS,))
    if seen.prepared or (operation is not None and not done(operation, StepName.REMOVE_DISKS)):
        return Act(StepName.REMOVE_DISKS)
    return Settled(Observed(), forget=True)


def _live_change(instance: Instance, operation: Operation, seen: Observation, now: datetime) -> Next:
    """A change in a running machine; one that does not run has it at its next start, or in its files at once."""
    step = LIVE[operation.verb]
    steady = _maintain(instance, seen, now)
    if not done(operation, step):
        if seen.sight in (Sight.RUNNING, Sight.PAUSED):
            if operation.verb is Verb.REVERT:
                return Settled(facts.running(instance, seen, now), WrongState("the machine runs"))
            return Act(step)
        if isinstance(steady, Wait) and seen.sight is Sight.DEAF:
            return steady
        if _ran(seen):  # what has ended is cleared away first: until then the disk is not let go of
            return steady if isinstance(steady, Act) else Wait(now, steady.observed)
        if operation.verb is Verb.RESET:
            return Settled(instance.observed, WrongState("the machine ended before the reset"))
        if operation.verb in _AT_REST_TOO:
            return Act(step)
    return Settled(steady.observed if isinstance(steady, Wait | Settled) else instance.observed)


# -- with nothing asked --------------------------------------------------------------------------------------------


def _condemned(instance: Instance, seen: Observation) -> bool:
    """Whether this very process is to end as if by itself, and not one that came after it and is not on record yet."""
    was = instance.observed
    this = seen.run is not None and facts.is_known(was, seen.run)
    return this and bool(was.incarnation) and instance.intent.condemned == was.incarnation


def _maintain(instance: Instance, seen: Observation, now: datetime) -> Act | Wait | Settled:
    was = instance.observed
    if seen.sight is Sight.RUNNING and _condemned(instance, seen):
        return Act(StepName.REAP, replace(was, ended=Ended(reason=UNHEALTHY)))
    if seen.sight in (Sight.RUNNING, Sight.PAUSED):
        return Act(StepName.ENFORCE) if seen.astray else Settled(facts.running(instance, seen, now))
    if seen.sight is Sight.DEAF:
        return Wait(now + ASK_AGAIN, facts.lost(instance, seen, now))
    if seen.rebooting and was.phase is Phase.RUNNING and instance.intent.power is Power.ON:
        return Act(StepName.RELAUNCH)
    if was.phase in (Phase.RUNNING, Phase.PAUSED, Phase.LOST):
        return Settled(facts.ended(instance, seen, now))
    if was.phase is Phase.SUSPENDED and not seen.saved:
        return Settled(facts.forgotten(instance, seen, now))
    if _ran(seen):
        told = was.phase in (Phase.STOPPED, Phase.FAILED) and (seen.run is None or facts.is_known(was, seen.run))
        return Act(StepName.REAP) if told else Settled(facts.ended(instance, seen, now))
    if was.restart_at is not None and was.phase is Phase.STOPPED:
        if now < was.restart_at:
            return Wait(was.restart_at, was)
        return Act(StepName.RELAUNCH) if seen.prepared else _without_disk(instance, seen, now)
    return Settled(was)
