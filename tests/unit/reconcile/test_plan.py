"""The plan as a pure function: from wherever, towards whatever, it ends, lawfully, with the wish met or refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polyvisor.model.egress import EgressPolicy, mark_of
from polyvisor.model.host import Sight
from polyvisor.model.instance import Intent, Phase, Power
from polyvisor.model.operation import Verb
from polyvisor.model.spec import RestartMode, RestartPolicy
from polyvisor.model.units import Seconds
from polyvisor.reconcile.journal import entry_of
from polyvisor.reconcile.loop import restless
from polyvisor.reconcile.plan import LIVE, Act, Settled, Wait, plan
from polyvisor.reconcile.steps import STEPS, StepName
from unit.reconcile.simulated import NOW, UP, Machine, a_run, an_instance, an_intent, an_observed, an_operation, settle

S = StepName


def a_machine(sight: Sight, *, prepared: bool = True, stubborn: bool = False, same: bool = True) -> Machine:
    """`same`: the process is the one on record; else another, of a launch that was never written down."""
    run = a_run(400 if same else 401) if sight is not Sight.GONE else None
    return Machine(sight, run, prepared, stubborn)


def journals() -> st.SearchStrategy[tuple[str, ...]]:
    """Any steps, over or only begun, some time ago, and perhaps given up."""
    step = st.tuples(st.sampled_from(list(S)), st.booleans(), st.integers(0, 100))

    def lines(steps: list[tuple[StepName, bool, int]], failed: bool) -> tuple[str, ...]:
        found: list[str] = []
        for name, over, ago in {s[0]: s for s in steps}.values():
            found.append(entry_of(name, NOW - timedelta(seconds=ago)))
            found += [f"{name}.done"] if over else []
        return (*found, *(["failed NoCapacity full"] if failed else []))

    return st.builds(lines, st.lists(step, max_size=5), st.booleans())


POLICIES = st.builds(
    RestartPolicy, st.sampled_from(RestartMode), st.integers(0, 3), st.sampled_from([Seconds(0.0), Seconds(5.0)])
)


@settings(max_examples=1500, deadline=None)
@given(
    phase=st.sampled_from(Phase), sight=st.sampled_from(Sight), verb=st.sampled_from(Verb), lines=journals(),
    power=st.sampled_from(Power), open_=st.booleans(), met=st.booleans(), prepared=st.booleans(),
    stubborn=st.booleans(), same=st.booleans(), force=st.booleans(), policy=POLICIES, autostart=st.booleans(),
    saved=st.booleans(),
)  # fmt: skip
def test_from_anywhere_it_settles_lawfully(
    phase: Phase, sight: Sight, verb: Verb, lines: tuple[str, ...], power: Power, open_: bool, met: bool,
    prepared: bool, stubborn: bool, same: bool, force: bool, policy: RestartPolicy, autostart: bool, saved: bool,
) -> None:  # fmt: skip
    operation = an_operation(verb, lines) if open_ else None
    intent = an_intent(verb, force=force) if open_ else Intent(power, False, 2, force)
    live = open_ and verb in LIVE  # those are admitted only when nothing else is under way
    assume(not (phase is Phase.ABSENT and (live or (met and not open_))))
    met = live or (met and not open_)
    observed = an_observed(phase, intent.generation if met else 0, 400)
    machine = a_machine(sight, prepared=prepared or sight is not Sight.GONE, stubborn=stubborn, same=same)
    machine.saved = saved and machine.prepared and sight is not Sight.RUNNING
    story = settle(an_instance(intent, observed, policy, autostart=autostart), operation, machine)
    assert story.operation is None or story.forgotten
    if story.forgotten:
        assert intent.deleted
        assert (machine.sight, machine.run, machine.prepared) == (Sight.GONE, None, False)
        return
    now = story.instance
    assert now.settled
    assert (machine.sight in UP) == (now.observed.phase in (Phase.RUNNING, Phase.PAUSED, Phase.LOST))
    assert (now.observed.run is None) == (machine.run is None)
    assert now.observed.incarnation >= observed.incarnation
    assert prepared or machine.run is None or not observed.incarnation or sight is not Sight.GONE
    if machine.run is None and not story.fault and now.observed.phase is not Phase.FAILED:
        assert not restless(now)


MET = {
    Verb.CREATE: (Phase.RUNNING,),
    Verb.START: (Phase.RUNNING,),
    Verb.STOP: (Phase.STOPPED, Phase.PREPARED),
    Verb.RESTART: (Phase.RUNNING,),
    Verb.PAUSE: (Phase.PAUSED,),
    Verb.RESUME: (Phase.RUNNING,),
}


@pytest.mark.parametrize(("verb", "sight", "phase"), list(product(MET, Sight, Phase)))
def test_a_wish_is_met_or_refused_with_the_reason(verb: Verb, sight: Sight, phase: Phase) -> None:
    instance = an_instance(an_intent(verb), an_observed(phase, 1, 400))
    story = settle(instance, an_operation(verb), a_machine(sight))
    if story.fault:
        assert verb in (Verb.PAUSE, Verb.RESUME)
        assert story.fault == "WrongState"
        assert sight in (Sight.ENDED, Sight.GONE)
        assert story.instance.observed.phase is Phase.STOPPED
    else:
        assert story.instance.observed.phase in MET[verb]


@pytest.mark.parametrize(
    ("verb", "sight", "steps"),
    [
        (Verb.START, Sight.GONE, [S.PLUG, S.LAUNCH]),
        (Verb.START, Sight.ENDED, [S.KILL, S.PLUG, S.LAUNCH]),
        (Verb.START, Sight.RUNNING, []),
        (Verb.STOP, Sight.RUNNING, [S.PRESS, S.KILL, S.UNPLUG]),
        (Verb.STOP, Sight.PAUSED, [S.RESUME, S.PRESS, S.KILL, S.UNPLUG]),
        (Verb.STOP, Sight.ENDED, [S.KILL, S.UNPLUG]),
        (Verb.STOP, Sight.GONE, [S.UNPLUG]),
        (Verb.RESTART, Sight.RUNNING, [S.PRESS, S.KILL, S.PLUG, S.LAUNCH]),
        (Verb.RESTART, Sight.GONE, [S.PLUG, S.LAUNCH]),
        (Verb.PAUSE, Sight.RUNNING, [S.PAUSE]),
        (Verb.PAUSE, Sight.PAUSED, []),
        (Verb.RESUME, Sight.PAUSED, [S.RESUME]),
        (Verb.DELETE, Sight.RUNNING, [S.KILL, S.UNPLUG, S.REMOVE_DISKS]),
        (Verb.DELETE, Sight.DEAF, [S.KILL, S.UNPLUG, S.REMOVE_DISKS]),
        (Verb.DELETE, Sight.GONE, [S.UNPLUG, S.REMOVE_DISKS]),
        (Verb.RESET, Sight.RUNNING, [S.RESET]),
        (Verb.ATTACH, Sight.RUNNING, [S.ATTACH]),
        (Verb.ATTACH, Sight.GONE, []),
        (Verb.DETACH, Sight.RUNNING, [S.DETACH]),
    ],
)
def test_a_wish_takes_these_steps(verb: Verb, sight: Sight, steps: list[StepName]) -> None:
    phase = {Sight.RUNNING: Phase.RUNNING, Sight.PAUSED: Phase.PAUSED, Sight.DEAF: Phase.LOST}.get(sight, Phase.STOPPED)
    instance = an_instance(an_intent(verb), an_observed(phase, 1, 400))
    assert settle(instance, an_operation(verb), a_machine(sight)).steps == steps


@pytest.mark.parametrize(
    ("verb", "steps"), [(Verb.DELETE, [S.DISCARD, S.UNPLUG, S.REMOVE_DISKS]), (Verb.STOP, [S.DISCARD, S.UNPLUG])]
)
def test_one_in_standby_gives_its_memory_up_before_its_place_in_the_network(verb: Verb, steps: list[StepName]) -> None:
    """With it, it would keep that to be woken."""
    instance = an_instance(an_intent(verb), an_observed(Phase.SUSPENDED, 1, 400))
    machine = a_machine(Sight.GONE)
    machine.saved = True
    assert settle(instance, an_operation(verb), machine).steps == steps


def test_a_stubborn_guest_is_given_its_time_and_no_more() -> None:
    instance = an_instance(an_intent(Verb.STOP), an_observed(Phase.RUNNING, 1, 400))
    story = settle(instance, an_operation(Verb.STOP), a_machine(Sight.RUNNING, stubborn=True))
    assert story.steps == [S.PRESS, S.KILL, S.UNPLUG]
    assert story.now - NOW == timedelta(seconds=30)


def test_a_forced_stop_does_not_ask() -> None:
    for sight in (Sight.RUNNING, Sight.PAUSED, Sight.DEAF):
        instance = an_instance(an_intent(Verb.STOP, force=True), an_observed(Phase.RUNNING, 1, 400))
        assert settle(instance, an_operation(Verb.STOP), a_machine(sight)).steps == [S.KILL, S.UNPLUG]


@pytest.mark.parametrize(("verb", "name"), [(Verb.DELETE, S.REMOVE_DISKS), (Verb.STOP, S.UNPLUG), (Verb.START, S.PLUG)])
def test_a_step_that_only_began_is_run_again(verb: Verb, name: StepName) -> None:
    before = [S.UNPLUG] if name is S.REMOVE_DISKS else []
    lines = [line for step in before for line in (entry_of(step, NOW), f"{step}.done")]
    operation = an_operation(verb, (*lines, entry_of(name, NOW)))
    instance = an_instance(an_intent(verb), an_observed(Phase.STOPPED, 1))
    told = plan(instance, operation, a_machine(Sight.GONE).look(), NOW)
    assert isinstance(told, Act)
    assert told.step is name


def test_what_ends_by_itself_is_reaped_and_then_obeys_its_policy() -> None:
    always = RestartPolicy(RestartMode.ALWAYS, backoff=Seconds(2.0))
    instance = an_instance(Intent(generation=1), an_observed(Phase.RUNNING, 1, 400), always)
    story = settle(instance, None, a_machine(Sight.ENDED))
    assert story.steps == [S.REAP, S.RELAUNCH]
    assert story.now - NOW == timedelta(seconds=2)
    assert (story.instance.observed.incarnation, story.instance.observed.restarts) == (2, 1)


def test_a_condemned_run_ends_as_if_by_itself_and_the_next_one_is_left_alone() -> None:
    always = RestartPolicy(RestartMode.ALWAYS, backoff=Seconds(2.0))
    instance = an_instance(Intent(generation=1, condemned=1), an_observed(Phase.RUNNING, 1, 400), always)
    story = settle(instance, None, a_machine(Sight.RUNNING))
    assert story.steps == [S.REAP, S.RELAUNCH]
    assert story.now - NOW == timedelta(seconds=2)
    assert (story.instance.observed.incarnation, story.instance.observed.restarts) == (2, 1)
    told = plan(
        replace(instance, observed=an_observed(Phase.RUNNING, 1, 400)),
        None,
        Machine(Sight.RUNNING, a_run(401)).look(),
        NOW,
    )
    assert not isinstance(told, Act)  # a process that came after it, and is not on record yet


def test_a_machine_that_ends_before_anybody_looked_uses_up_an_attempt() -> None:
    policy = RestartPolicy(RestartMode.ALWAYS, attempts=2, backoff=Seconds(2.0))
    observed = replace(an_observed(Phase.STOPPED, 1), restarts=1, restart_at=NOW)
    told = plan(an_instance(Intent(generation=1), observed, policy), None, Machine(run=a_run(401)).look(), NOW)
    assert isinstance(told, Settled)
    assert (told.observed.incarnation, told.observed.restarts) == (2, 2)
    assert told.observed.restart_at == NOW + timedelta(seconds=4)


def test_the_remains_of_a_run_that_was_told_of_are_not_another_run() -> None:
    instance = an_instance(an_intent(Verb.STOP), an_observed(Phase.STOPPED, 1))
    story = settle(instance, an_operation(Verb.STOP), a_machine(Sight.ENDED))
    assert story.instance.observed.incarnation == 1


def test_a_deaf_machine_is_asked_again_and_said_to_be_lost_once() -> None:
    instance = an_instance(Intent(generation=1), an_observed(Phase.RUNNING, 1, 400))
    told = plan(instance, None, a_machine(Sight.DEAF).look(), NOW)
    assert isinstance(told, Wait)
    assert told.observed.phase is Phase.LOST
    again = an_instance(Intent(generation=1), told.observed)
    later = plan(again, None, a_machine(Sight.DEAF).look(), NOW + timedelta(seconds=2))
    assert isinstance(later, Wait)
    assert later.observed == told.observed


def test_what_is_as_it_should_be_is_left_alone() -> None:
    running = an_instance(Intent(generation=1), an_observed(Phase.RUNNING, 1, 400))
    stopped = an_instance(Intent(Power.OFF, generation=1), an_observed(Phase.STOPPED, 1))
    for instance, sight in ((running, Sight.RUNNING), (stopped, Sight.GONE)):
        told = plan(instance, None, a_machine(sight).look(), NOW + timedelta(hours=1))
        assert told == Settled(instance.observed)


def test_every_step_can_be_found_and_those_without_an_undo_are_known() -> None:
    assert set(STEPS) == set(S)
    assert {name for name, step in STEPS.items() if step.undo is None} == {
        S.PRESS, S.KILL, S.REAP, S.UNPLUG, S.REMOVE_DISKS, S.RESUME, S.RESET, S.DETACH, S.REVERT,
        S.DISCARD, S.CONFIGURE, S.ENFORCE,
    }  # fmt: skip


def test_what_it_reaches_is_set_right_before_anything_else_is_said_of_it() -> None:
    running = an_instance(Intent(generation=1), an_observed(Phase.RUNNING, 1, 400))
    policy = EgressPolicy(domains=("a.example",))
    changed = replace(running, spec=replace(running.spec, egress=policy))
    paused = an_instance(Intent(Power.PAUSED, generation=1), an_observed(Phase.PAUSED, 1, 400))
    for instance, sight in ((changed, Sight.RUNNING), (paused, Sight.PAUSED)):
        for operation in (None, an_operation(Verb.RESUME if sight is Sight.RUNNING else Verb.PAUSE)):
            wished = instance if operation is None else replace(instance, intent=replace(instance.intent, generation=2))
            astray = replace(a_machine(sight).look(), astray=True, bare=True)
            assert plan(wished, operation, astray, NOW) == Act(S.ENFORCE)
    told = plan(changed, None, a_machine(Sight.RUNNING).look(), NOW)
    assert isinstance(told, Settled) and told.observed.egress == mark_of(policy) != running.observed.egress


@pytest.mark.parametrize(
    ("verb", "phase", "sight", "steps", "fault"),
    [
        (Verb.SNAPSHOT, Phase.RUNNING, Sight.RUNNING, [S.SNAPSHOT], ""),
        (Verb.SNAPSHOT, Phase.PAUSED, Sight.PAUSED, [S.SNAPSHOT], ""),
        (Verb.SNAPSHOT, Phase.STOPPED, Sight.GONE, [S.SNAPSHOT], ""),
        (Verb.SNAPSHOT, Phase.RUNNING, Sight.ENDED, [S.REAP, S.SNAPSHOT], ""),
        (Verb.SNAPSHOT, Phase.RUNNING, Sight.DEAF, [S.SNAPSHOT], ""),
        (Verb.REVERT, Phase.STOPPED, Sight.GONE, [S.REVERT], ""),
        (Verb.REVERT, Phase.STOPPED, Sight.ENDED, [S.REAP, S.REVERT], ""),
        (Verb.REVERT, Phase.RUNNING, Sight.RUNNING, [], "WrongState"),
    ],
)
def test_a_snapshot_is_taken_of_what_is_there_and_a_revert_waits_for_rest(
    verb: Verb, phase: Phase, sight: Sight, steps: list[StepName], fault: str
) -> None:
    power = Power.OFF if phase is Phase.STOPPED else Power.PAUSED if phase is Phase.PAUSED else Power.ON
    instance = an_instance(Intent(power, generation=1), an_observed(phase, 1, 400))
    story = settle(instance, an_operation(verb), a_machine(sight))
    assert (story.steps, story.fault) == (steps, fault)
    assert story.operation is None
