"""Facts from looks, and the journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.faults import FAULTS, NoCapacity
from polyvisor.model.host import Observation, Sight
from polyvisor.model.instance import HOST_RESTART, Ended, Instance, Intent, Observed, Phase, Power
from polyvisor.model.operation import Verb
from polyvisor.model.spec import RestartMode, RestartPolicy
from polyvisor.model.units import Seconds
from polyvisor.reconcile import facts, journal
from polyvisor.reconcile.steps import STEPS, StepName
from unit.reconcile.simulated import ID, NOW, a_run, an_instance, an_observed, an_operation

CLEAN = [Ended(code=0, reason="exited"), Ended(reason="shutdown")]
BAD = [Ended(code=3, reason="exited"), Ended(signal=9, reason="exited"), Ended(reason="crashed")]


def running(policy: RestartPolicy | None = None, *, power: Power = Power.ON, autostart: bool = False) -> Instance:
    """One that runs as process 400."""
    return an_instance(Intent(power, generation=1), an_observed(Phase.RUNNING, 1, 400), policy, autostart=autostart)


def seen(sight: Sight, pid: int = 400, ended: Ended | None = None, *, ready: bool = False) -> Observation:
    """A look."""
    return Observation(ID, sight, True, ready, a_run(pid) if pid else None, ended)


@pytest.mark.parametrize("how", CLEAN + BAD)
@pytest.mark.parametrize("mode", RestartMode)
def test_a_policy_says_when_to_start_again(mode: RestartMode, how: Ended) -> None:
    wanted = mode is RestartMode.ALWAYS or (mode is RestartMode.ON_FAILURE and how in BAD)
    assert (facts.restart_after(RestartPolicy(mode), how, 0) is not None) == wanted


@given(st.integers(0, 100_000), st.floats(0, 3600))
def test_waiting_grows_to_a_limit_and_never_overflows(restarts: int, backoff: float) -> None:
    policy = RestartPolicy(RestartMode.ALWAYS, backoff=Seconds(backoff))
    wait = facts.restart_after(policy, BAD[0], restarts)
    assert wait is not None
    assert facts.SHORTEST_BACKOFF <= wait <= max(backoff, facts.LONGEST_BACKOFF)


def test_attempts_are_counted() -> None:
    policy = RestartPolicy(RestartMode.ALWAYS, attempts=2)
    assert [facts.restart_after(policy, BAD[0], n) is not None for n in range(4)] == [True, True, False, False]


def test_a_long_run_forgets_earlier_restarts() -> None:
    one = running(RestartPolicy(RestartMode.ALWAYS, attempts=3))
    one = replace(one, observed=replace(one.observed, restarts=3))
    soon = facts.ended(one, seen(Sight.GONE, ended=BAD[2]), NOW + timedelta(seconds=60))
    late = facts.ended(one, seen(Sight.GONE, ended=BAD[2]), NOW + timedelta(seconds=61))
    assert (soon.restart_at, soon.restarts) == (None, 3)
    assert (late.restart_at, late.restarts) == (NOW + timedelta(seconds=62), 1)


def test_what_its_owner_wants_off_is_not_started_again() -> None:
    off = running(RestartPolicy(RestartMode.ALWAYS), power=Power.OFF, autostart=True)
    for how in (*BAD, Ended(reason=HOST_RESTART)):
        assert facts.ended(off, seen(Sight.GONE, ended=how), NOW).restart_at is None


@pytest.mark.parametrize(
    ("mode", "autostart", "again"),
    [
        (RestartMode.NEVER, False, False),
        (RestartMode.NEVER, True, True),
        (RestartMode.ON_FAILURE, False, True),
        (RestartMode.ALWAYS, False, True),
    ],
)
def test_a_restart_of_the_host_is_no_failure_of_the_instance(mode: RestartMode, autostart: bool, again: bool) -> None:
    one = running(RestartPolicy(mode, attempts=1), autostart=autostart)
    told = facts.ended(one, seen(Sight.GONE, ended=Ended(reason=HOST_RESTART)), NOW)
    assert (told.restart_at == NOW, told.restarts, told.fault) == (again, 0, "")


def test_a_new_process_is_a_new_incarnation_and_the_same_one_is_not() -> None:
    one = running()
    same = facts.running(one, seen(Sight.RUNNING, ready=True), NOW + timedelta(seconds=5))
    assert (same.incarnation, same.since, same.booted, same.ready) == (1, NOW, NOW, True)
    other = facts.running(one, seen(Sight.RUNNING, 900), NOW + timedelta(seconds=5))
    assert (other.incarnation, other.since) == (2, NOW + timedelta(seconds=5))
    assert other.booted == NOW - timedelta(seconds=0.5)
    assert not other.ready


def test_a_run_that_was_over_before_anybody_looked_counts() -> None:
    stopped = an_instance(Intent(generation=2), replace(an_observed(Phase.STOPPED, 1), ended=BAD[0], incarnation=4))
    told = facts.ended(stopped, seen(Sight.GONE, 900, CLEAN[0]), NOW)
    assert (told.incarnation, told.ended, told.run) == (5, CLEAN[0], None)


def test_a_paused_guest_stays_ready_and_a_restarted_one_does_not() -> None:
    one = running()
    one = replace(one, observed=replace(one.observed, ready=True))
    assert facts.running(one, seen(Sight.PAUSED), NOW).ready
    assert not facts.running(one, seen(Sight.PAUSED, 900), NOW).ready
    assert not facts.running(one, seen(Sight.RUNNING), NOW).ready


def test_a_stop_keeps_how_the_workload_ended() -> None:
    one = running()
    noted = facts.ending(one, seen(Sight.ENDED, ended=BAD[0]), NOW)
    told = facts.still(replace(one, observed=noted), NOW)
    assert (told.phase, told.ended, told.run, told.restarts) == (Phase.STOPPED, BAD[0], None, 0)
    assert facts.still(one, NOW).ended == Ended(reason="stopped")


def test_what_never_ran_is_prepared_and_what_ran_is_stopped() -> None:
    for phase in (Phase.ABSENT, Phase.PREPARED, Phase.FAILED):
        assert facts.still(an_instance(Intent(), Observed(phase)), NOW).phase is Phase.PREPARED
        assert facts.still(an_instance(Intent(), Observed(phase, incarnation=1)), NOW).phase is Phase.STOPPED


def test_a_refused_wish_leaves_what_is_to_be_seen() -> None:
    one, fault = running(), NoCapacity("full")
    kept = facts.refused(one, seen(Sight.RUNNING), fault, NOW, live=False)
    assert (kept.phase, kept.fault) == (Phase.RUNNING, "")
    failed = facts.refused(one, seen(Sight.GONE, 0), fault, NOW, live=False)
    assert (failed.phase, failed.fault, failed.fault_kind, failed.run) == (Phase.FAILED, "full", "NoCapacity", None)
    assert facts.refused(one, seen(Sight.DEAF), fault, NOW, live=False).phase is Phase.LOST
    assert facts.refused(one, seen(Sight.RUNNING), fault, NOW, live=True) == one.observed


def test_a_refused_restart_is_an_attempt() -> None:
    one = running(RestartPolicy(RestartMode.ALWAYS, attempts=2))
    one = replace(one, observed=replace(one.observed, phase=Phase.STOPPED, restarts=1, ended=CLEAN[1]))
    again = facts.not_restarted(one, NoCapacity("full"), NOW)
    assert (again.phase, again.restarts, again.restart_at) == (Phase.STOPPED, 2, NOW + timedelta(seconds=2))
    last = facts.not_restarted(replace(one, observed=again), NoCapacity("full"), NOW)
    assert (last.phase, last.restart_at, last.fault) == (Phase.FAILED, None, "full")


# -- the journal -----------------------------------------------------------------------------------------------------


def test_a_journal_says_what_began_what_is_over_and_what_is_to_be_undone() -> None:
    operation = an_operation(Verb.CREATE)
    for name in (StepName.MAKE_DISKS, StepName.PLUG):
        operation = journal.finish(journal.begin(operation, name, NOW), name)
    operation = journal.begin(operation, StepName.LAUNCH, NOW + timedelta(seconds=1))
    assert journal.began(operation, StepName.LAUNCH) == NOW + timedelta(seconds=1)
    assert journal.began(operation, StepName.KILL) is None
    assert [journal.done(operation, n) for n in (StepName.PLUG, StepName.LAUNCH)] == [True, False]
    assert [s.name for s in journal.to_undo(operation)] == [StepName.LAUNCH, StepName.PLUG, StepName.MAKE_DISKS]


def test_a_step_that_begins_anew_is_no_longer_over_and_the_journal_does_not_grow() -> None:
    operation = an_operation(Verb.DELETE)
    for _ in range(50):
        operation = journal.finish(journal.begin(operation, StepName.KILL, NOW), StepName.KILL)
    operation = journal.begin(operation, StepName.KILL, NOW)
    assert len(operation.journal) == 1
    assert not journal.done(operation, StepName.KILL)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_refusal_is_remembered_with_its_words(kind: type[NoCapacity]) -> None:
    fault = kind("no room: 5@7 bytes")
    operation = journal.give_up(journal.begin(an_operation(Verb.START), StepName.PLUG, NOW), fault)
    again = journal.given_up(operation)
    assert (type(again), again and again.public) == (kind, fault.public)
    assert [s.name for s in journal.to_undo(operation)] == [StepName.PLUG]
    assert journal.given_up(an_operation(Verb.START)) is None


def test_every_step_with_an_undo_is_found_in_a_journal() -> None:
    operation = an_operation(Verb.CREATE)
    for name in StepName:
        operation = journal.begin(operation, name, NOW)
    assert {s.name for s in journal.to_undo(operation)} == {n for n, s in STEPS.items() if s.undo}


def test_a_steady_policy_waits_as_long_each_time_and_forgets_when_it_says() -> None:
    policy = RestartPolicy(RestartMode.ALWAYS, backoff=Seconds(5.0), steady=True, stable=Seconds(600.0))
    assert [facts.restart_after(policy, BAD[0], n) for n in range(9)] == [5.0] * 9
    one = running(replace(policy, attempts=3))
    one = replace(one, observed=replace(one.observed, restarts=3))
    soon = facts.ended(one, seen(Sight.GONE, ended=BAD[2]), NOW + timedelta(seconds=599))
    late = facts.ended(one, seen(Sight.GONE, ended=BAD[2]), NOW + timedelta(seconds=601))
    assert (soon.restart_at, late.restarts) == (None, 1)
