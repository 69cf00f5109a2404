"""What to do next for one instance: a pure function of its record, its open operation, one look and the time.

The answer is one step, a time to wait until, or the facts to write down. Nothing here remembers anything: a manager
that was killed in the middle asks again and gets the step that follows from what the machine says now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from polyvisor.model.host import Observation, Sight
from polyvisor.model.instance import Ended, Instance, Observed, Phase, Power
from polyvisor.model.operation import Operation, Verb
from polyvisor.model.spec import RestartMode, RestartPolicy
from polyvisor.reconcile.steps import StepName, began

RESET_AFTER = timedelta(seconds=60)  # a run that long forgets earlier restarts
LONGEST_BACKOFF = 300.0


@dataclass(frozen=True, slots=True)
class Act:
    """Run this step, then look again."""

    step: StepName


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until then, or until woken; `observed` is to be written first when it differs."""

    until: datetime | None
    observed: Observed


@dataclass(frozen=True, slots=True)
class Settled:
    """The wish is met: write these facts and close the operation. `forget`: the record goes too."""

    observed: Observed
    forget: bool = False
    wake: datetime | None = None


Next = Act | Wait | Settled


def plan(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    """The next step for this instance."""
    if instance.intent.deleted:
        return _delete(instance, operation, seen)
    if operation is not None and operation.verb in (Verb.ATTACH, Verb.DETACH, Verb.RESET):
        return _live_change(instance, operation, seen, now)
    if instance.settled:
        return _maintain(instance, seen, now)
    if operation is not None and operation.verb is Verb.RESTART and not began(operation, StepName.LAUNCH):
        return _restart(instance, operation, seen, now)
    match instance.intent.power:
        case Power.ON:
            return _up(instance, operation, seen, now)
        case Power.OFF:
            return _down(instance, operation, seen, now)
        case Power.PAUSED:
            return _pause(instance, seen, now)


# -- towards an intent ---------------------------------------------------------------------------------------------


def _up(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight is Sight.RUNNING:
        return Settled(_running(instance, seen, now))
    if seen.sight is Sight.PAUSED:
        return Act(StepName.RESUME)
    if seen.sight is Sight.DEAF:
        return Wait(now + timedelta(seconds=2), _lost(instance.observed, now))
    if seen.run is not None:
        if operation is not None and began(operation, StepName.LAUNCH):
            return Settled(_ended(instance, seen, now))  # it ran and was over before we looked again
        return Act(StepName.KILL)
    return _launch(operation, seen)


def _launch(operation: Operation | None, seen: Observation) -> Next:
    if not seen.prepared:
        return Act(StepName.MAKE_DISKS)
    if operation is not None and not began(operation, StepName.PLUG):
        return Act(StepName.PLUG)
    return Act(StepName.LAUNCH)


def _down(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    if seen.sight is not Sight.GONE:
        return _end(instance, operation, seen, now)
    if seen.run is not None:
        return Act(StepName.KILL)
    if operation is not None and operation.verb is Verb.CREATE and not seen.prepared:
        return Act(StepName.MAKE_DISKS)
    if operation is not None and not began(operation, StepName.UNPLUG) and operation.verb is not Verb.CREATE:
        return Act(StepName.UNPLUG)
    phase = Phase.PREPARED if instance.observed.incarnation == 0 else Phase.STOPPED
    return Settled(_still(instance, phase, now, seen.ended or _told_to(instance)))


def _end(instance: Instance, operation: Operation | None, seen: Observation, now: datetime) -> Next:
    """End a process: ask first, then, at the limit, do not."""
    if seen.sight is Sight.ENDED or instance.intent.force or operation is None:
        return Act(StepName.KILL)
    if seen.sight is Sight.PAUSED and not began(operation, StepName.PRESS):
        return Act(StepName.RESUME)  # a paused guest cannot obey
    asked = began(operation, StepName.PRESS)
    if asked is None and seen.sight is not Sight.DEAF:
        return Act(StepName.PRESS)
    limit = (asked or operation.created) + timedelta(seconds=instance.intent.grace)
    if now >= limit:
        return Act(StepName.KILL)
    return Wait(limit, instance.observed)


def _restart(instance: Instance, operation: Operation, seen: Observation, now: datetime) -> Next:
    if seen.sight is not Sight.GONE:
        return _end(instance, operation, seen, now)
    return Act(StepName.KILL) if seen.run is not None else _launch(operation, seen)


def _pause(instance: Instance, seen: Observation, now: datetime) -> Next:
    if seen.sight is Sight.RUNNING:
        return Act(StepName.PAUSE)
    if seen.sight is Sight.PAUSED:
        return Settled(_running(instance, seen, now))
    if seen.sight is Sight.DEAF:
        return Wait(now + timedelta(seconds=2), _lost(instance.observed, now))
    return Settled(_ended(instance, seen, now))


def _delete(instance: Instance, operation: Operation | None, seen: Observation) -> Next:
    if seen.sight is not Sight.GONE or seen.run is not None:
        return Act(StepName.KILL)
    for step in (StepName.UNPLUG, StepName.REMOVE_DISKS):
        if operation is None or not began(operation, step):
            return Act(step)
    return Settled(instance.observed, forget=True)


def _live_change(instance: Instance, operation: Operation, seen: Observation, now: datetime) -> Next:
    step = {Verb.ATTACH: StepName.ATTACH, Verb.DETACH: StepName.DETACH, Verb.RESET: StepName.RESET}[
        operation.verb
    ]
    if seen.sight is Sight.RUNNING and f"{step}.done" not in operation.journal:
        return Act(step)
    steady = _maintain(instance, seen, now)
    return Settled(steady.observed if isinstance(steady, Wait | Settled) else instance.observed)


# -- with nothing asked --------------------------------------------------------------------------------------------


def _maintain(instance: Instance, seen: Observation, now: datetime) -> Next:
    was = instance.observed
    match seen.sight:
        case Sight.RUNNING | Sight.PAUSED:
            return Settled(_running(instance, seen, now))
        case Sight.DEAF:
            return Wait(now + timedelta(seconds=2), _lost(was, now))
        case _:
            pass
    if was.phase in (Phase.RUNNING, Phase.PAUSED, Phase.LOST) or seen.run is not None:
        if was.phase is Phase.STOPPED or was.phase is Phase.FAILED:
            return Act(StepName.REAP)
        return Settled(_ended(instance, seen, now))
    if was.restart_at is not None and was.phase is Phase.STOPPED:
        return Act(StepName.RELAUNCH) if now >= was.restart_at else Wait(was.restart_at, was)
    return Settled(was)


# -- facts ---------------------------------------------------------------------------------------------------------


def _running(instance: Instance, seen: Observation, now: datetime) -> Observed:
    was = instance.observed
    phase = Phase.PAUSED if seen.sight is Sight.PAUSED else Phase.RUNNING
    restarted = was.run is None or seen.run is None or was.run.pid != seen.run.pid
    return replace(
        was,
        phase=phase,
        generation=instance.intent.generation,
        since=now if was.phase is not phase or restarted else was.since,
        booted=now if restarted else was.booted,
        incarnation=was.incarnation + 1 if restarted else was.incarnation,
        ready=seen.ready or (was.ready and phase is Phase.PAUSED),
        run=seen.run,
        ended=None,
        fault="",
        fault_kind="",
        restart_at=None,
    )


def _still(instance: Instance, phase: Phase, now: datetime, ended: Ended | None) -> Observed:
    was = instance.observed
    return replace(
        was, phase=phase, generation=instance.intent.generation, since=now if was.phase is not phase else was.since,
        ready=False, run=None, ended=ended if phase is Phase.STOPPED else None, fault="", fault_kind="", restarts=0,
        restart_at=None,
    )  # fmt: skip


def _told_to(instance: Instance) -> Ended:
    return instance.observed.ended or Ended(reason="stopped")


def _lost(was: Observed, now: datetime) -> Observed:
    if was.phase is Phase.LOST:
        return was
    return replace(was, phase=Phase.LOST, since=now, ready=False, fault="the machine does not answer")


def _ended(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """It ended by itself. The process may still have to be reaped: that is the next look's business."""
    was = instance.observed
    ended = seen.ended or Ended(reason="crashed")
    fresh = was.booted is not None and now - was.booted > RESET_AFTER
    restarts = 0 if fresh else was.restarts
    after = restart_after(instance.spec.restart, ended, restarts)
    return replace(
        was,
        phase=Phase.STOPPED,
        generation=instance.intent.generation,
        since=now,
        ready=False,
        run=None,
        ended=ended,
        incarnation=max(was.incarnation, 1),
        fault="" if ended.reason != "crashed" else "the machine's process ended unexpectedly",
        restarts=restarts if after is None else restarts + 1,
        restart_at=None if after is None else now + timedelta(seconds=after),
    )


def restart_after(policy: RestartPolicy, ended: Ended, restarts: int) -> float | None:
    """Seconds until the policy starts an instance again that ended so; None: it does not."""
    if policy.mode is RestartMode.NEVER or (policy.mode is RestartMode.ON_FAILURE and ended.clean):
        return None
    if policy.attempts and restarts >= policy.attempts:
        return None
    return float(min(policy.backoff * 2**restarts, LONGEST_BACKOFF))
