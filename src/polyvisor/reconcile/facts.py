"""The facts that follow from a look at a machine: pure functions from what was observed to what is observed now."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from polyvisor.model.egress import mark_of
from polyvisor.model.faults import Fault
from polyvisor.model.host import Observation, Sight
from polyvisor.model.instance import HOST_RESTART, Ended, Instance, Observed, Phase, Power, RunRecord, same_process
from polyvisor.model.spec import RestartMode, RestartPolicy, Spec

LONGEST_BACKOFF = 300.0
SHORTEST_BACKOFF = 0.1
_CRASHED = "the machine's process ended unexpectedly"


def is_known(was: Observed, run: RunRecord) -> bool:
    """Whether this run is the one on record, or the last one that was, whose remains are not cleared away yet."""
    return same_process(was.run, run) or (was.run is None and was.booted == _started(run))


def _started(run: RunRecord) -> datetime | None:
    return datetime.fromtimestamp(run.started, UTC) if run.started else None


def of_run(was: Observed, seen: Observation, now: datetime) -> Observed:
    """`was`, with the process that is seen. One that was not known is a new incarnation."""
    if seen.run is None:
        return was
    if is_known(was, seen.run):
        return replace(was, run=seen.run)
    started = _started(seen.run)
    booted = started if started is not None and started <= now else now
    return replace(was, run=seen.run, incarnation=was.incarnation + 1, booted=booted, ready=False, ended=None)


def running(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """It runs or is paused, and that is what was asked, or nothing is asked."""
    return replace(up(instance, seen, now), generation=instance.intent.generation, restart_at=None)


def up(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """It runs or is paused, on the way to something else."""
    was = of_run(instance.observed, seen, now)
    phase = Phase.PAUSED if seen.sight is Sight.PAUSED else Phase.RUNNING
    same = instance.observed.phase is phase and was.incarnation == instance.observed.incarnation
    return replace(
        was, phase=phase, since=was.since if same else now, ready=seen.ready or (was.ready and phase is Phase.PAUSED),
        ended=None, fault=seen.trouble, fault_kind="NoCapacity" if seen.trouble else "",
        egress=was.egress if seen.astray else _in_force(instance.spec),
    )  # fmt: skip


def _in_force(spec: Spec) -> str:
    return mark_of(spec.egress, opened=bool(spec.vaults))


def ending(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """What is worth keeping of a machine that is about to be cleared away: which run it was, how it ended."""
    was = of_run(instance.observed, seen, now)
    return was if seen.ended is None else replace(was, ended=seen.ended)


def still(instance: Instance, now: datetime) -> Observed:
    """No process, as asked."""
    was = instance.observed
    never = was.incarnation == 0 and was.phase in (Phase.ABSENT, Phase.PREPARED, Phase.FAILED)
    phase = Phase.PREPARED if never else Phase.STOPPED
    return replace(
        was, phase=phase, generation=instance.intent.generation, since=was.since if was.phase is phase else now,
        ready=False, run=None, ended=None if never else was.ended or Ended(reason="stopped"), fault="", fault_kind="",
        restarts=0, restart_at=None,
    )  # fmt: skip


def suspended(instance: Instance, now: datetime) -> Observed:
    """No process, and it can go on where it was."""
    was = instance.observed
    return replace(
        was, phase=Phase.SUSPENDED, generation=instance.intent.generation, ready=False, run=None, ended=None, fault="",
        since=was.since if was.phase is Phase.SUSPENDED else now, fault_kind="", restarts=0, restart_at=None,
    )  # fmt: skip


def forgotten(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """What it was to go on from is not there any more: it was not on disk yet when the host went down."""
    return ended(instance, replace(seen, ended=Ended(reason=HOST_RESTART)), now)


def lost(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """There is a process that does not answer. Which wish was met stays open."""
    was = of_run(instance.observed, seen, now)
    return replace(
        was, phase=Phase.LOST, since=was.since if was.phase is Phase.LOST else now, ready=False,
        fault="the machine does not answer", fault_kind="Unavailable",
    )  # fmt: skip


def ended(instance: Instance, seen: Observation, now: datetime) -> Observed:
    """It ended by itself. The process may still have to be reaped: that is the next look's business."""
    was = of_run(instance.observed, seen, now)
    how = seen.ended or was.ended or Ended(reason="crashed")
    fresh = was.booted is not None and now - was.booted > timedelta(seconds=instance.spec.restart.stable)
    restarts = 0 if fresh else was.restarts
    after = _again_after(instance, how, restarts)
    counts = after is not None and how.reason != HOST_RESTART
    return replace(
        was,
        phase=Phase.STOPPED,
        generation=instance.intent.generation,
        since=now,
        ready=False,
        run=None,
        ended=how,
        incarnation=max(was.incarnation, 1),
        fault=_CRASHED if how.reason == "crashed" else "",
        fault_kind="",
        restarts=restarts + 1 if counts else restarts,
        restart_at=None if after is None else now + timedelta(seconds=after),
    )


def _again_after(instance: Instance, how: Ended, restarts: int) -> float | None:
    """Seconds until it is started again unasked. What its owner wants off stays off."""
    if instance.intent.power in (Power.OFF, Power.SUSPENDED):
        return None
    if how.reason == HOST_RESTART:  # the machine did not fail, its host did
        wanted = instance.spec.autostart or instance.spec.restart.mode is not RestartMode.NEVER
        return 0.0 if wanted else None
    return restart_after(instance.spec.restart, how, restarts)


def restart_after(policy: RestartPolicy, how: Ended, restarts: int) -> float | None:
    """Seconds until the policy starts an instance again that ended so; None: it does not."""
    if policy.mode is RestartMode.NEVER or (policy.mode is RestartMode.ON_FAILURE and how.clean):
        return None
    if policy.attempts and restarts >= policy.attempts:
        return None
    doubled = policy.backoff * (1.0 if policy.steady else 2.0 ** min(restarts, 32))
    return max(SHORTEST_BACKOFF, min(doubled, max(LONGEST_BACKOFF, policy.backoff)))


def not_restarted(instance: Instance, fault: Fault, now: datetime) -> Observed:
    """The policy's own start was refused: that was an attempt, and it tries again while it may."""
    was = instance.observed
    tried = max(was.restarts, 1)
    after = restart_after(instance.spec.restart, Ended(reason="crashed"), tried)
    said = replace(was, ready=False, run=None, fault=fault.public, fault_kind=fault.kind)
    if after is None:
        return replace(said, phase=Phase.FAILED, since=now, restart_at=None)
    return replace(said, restarts=tried + 1, restart_at=now + timedelta(seconds=after))


def refused(instance: Instance, seen: Observation, fault: Fault, now: datetime, *, live: bool) -> Observed:
    """The wish was refused and taken back. `live`: it was about something in the machine, which goes on as it was."""
    was = of_run(instance.observed, seen, now)
    up_now = {Sight.RUNNING: Phase.RUNNING, Sight.PAUSED: Phase.PAUSED, Sight.DEAF: Phase.LOST}.get(seen.sight)
    if live or up_now is not None:
        phase = was.phase if live else up_now or was.phase
        kept = "" if phase is not Phase.LOST else "the machine does not answer"
        run = was.run if phase in (Phase.RUNNING, Phase.PAUSED, Phase.LOST) else None
        said = replace(was, run=run, fault=was.fault if live else kept, fault_kind=was.fault_kind if live else "")
    elif seen.saved:
        phase = Phase.SUSPENDED
        said = replace(was, run=None, fault="", fault_kind="")
    else:
        phase = Phase.FAILED
        said = replace(was, fault=fault.public, fault_kind=fault.kind, run=None)
    return replace(
        said, phase=phase, generation=instance.intent.generation, restart_at=was.restart_at if live else None,
        ready=seen.ready if seen.sight is Sight.RUNNING else was.ready and phase is Phase.PAUSED,
        since=was.since if phase is instance.observed.phase else now,
    )  # fmt: skip
