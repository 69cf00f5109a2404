"""The tables of the model have no gap, and say what they should."""

from __future__ import annotations

from itertools import product

import pytest

from polyvisor.model.face import Face, face_of
from polyvisor.model.faults import FAULTS, Busy, Fault, Internal, NotFound, WrongState, revive
from polyvisor.model.instance import Phase, Power, RunRecord, advance, same_process
from polyvisor.model.operation import Answer, Verb, admit, admit_memory, answer

EVERY = list(product(Power, Phase, (True, False), (True, False)))


@pytest.mark.parametrize(("power", "phase", "settled", "deleted"), EVERY)
def test_every_combination_has_a_face(power: Power, phase: Phase, settled: bool, deleted: bool) -> None:
    found = face_of(power, phase, settled, deleted=deleted)
    assert isinstance(found, Face)
    assert (found is Face.DELETING) == deleted


def test_every_face_can_be_seen() -> None:
    assert {face_of(p, f, s, deleted=d) for p, f, s, d in EVERY} == set(Face)


def test_what_is_settled_is_not_on_its_way() -> None:
    moving = {Face.STARTING, Face.STOPPING, Face.PAUSING, Face.RESUMING}
    assert not {face_of(p, f, True) for p, f in product(Power, Phase)} & moving


@pytest.mark.parametrize(
    ("power", "phase", "word"),
    [
        (Power.ON, Phase.ABSENT, Face.CREATING),
        (Power.ON, Phase.STOPPED, Face.STARTING),
        (Power.ON, Phase.FAILED, Face.STARTING),
        (Power.ON, Phase.PAUSED, Face.RESUMING),
        (Power.ON, Phase.RUNNING, Face.RUNNING),
        (Power.OFF, Phase.RUNNING, Face.STOPPING),
        (Power.OFF, Phase.LOST, Face.STOPPING),
        (Power.PAUSED, Phase.RUNNING, Face.PAUSING),
        (Power.PAUSED, Phase.STOPPED, Face.STARTING),
    ],
)
def test_what_is_under_way_says_where_to(power: Power, phase: Phase, word: Face) -> None:
    assert face_of(power, phase, False) is word


@pytest.mark.parametrize("verb", Verb)
def test_every_verb_is_answered_in_every_face(verb: Verb) -> None:
    for face, under_way in product(Face, [None, *Verb]):
        verdict = answer(verb, face, under_way)
        if isinstance(verdict, Fault):
            assert isinstance(verdict, WrongState) or (isinstance(verdict, Busy) and verdict.retry_after)
            with pytest.raises(type(verdict)):
                admit(verb, face, under_way)
        else:
            assert admit(verb, face, under_way) is verdict


def test_delete_is_always_admitted_and_nothing_else_while_deleting() -> None:
    assert all(answer(Verb.DELETE, face, u) is Answer.GO for face, u in product(Face, [None, *Verb]))
    others = [answer(verb, Face.DELETING) for verb in Verb if verb is not Verb.DELETE]
    assert all(isinstance(a, WrongState) for a in others)


def test_only_ending_verbs_may_cut_another_short() -> None:
    for verb, face, under_way in product(Verb, Face, Verb):
        if answer(verb, face, under_way) is Answer.GO:
            assert verb in (Verb.STOP, Verb.DELETE)


def test_a_stop_is_admitted_wherever_a_process_may_be() -> None:
    for face in (Face.STARTING, Face.RUNNING, Face.PAUSING, Face.PAUSED, Face.RESUMING, Face.STOPPING, Face.LOST):
        assert answer(Verb.STOP, face, Verb.START) is Answer.GO


@pytest.mark.parametrize("face", Face)
def test_a_snapshot_needs_a_disk_at_rest_or_a_machine_and_a_revert_needs_rest(face: Face) -> None:
    assert (answer(Verb.SNAPSHOT, face) is Answer.GO) == (
        face in (Face.RUNNING, Face.PAUSED, Face.SUSPENDED, Face.STOPPED)
    )
    assert (answer(Verb.REVERT, face) is Answer.GO) == (face is Face.STOPPED)
    if face in (Face.RUNNING, Face.PAUSED, Face.SUSPENDED):
        admit_memory(face)
    else:
        with pytest.raises(WrongState):
            admit_memory(face)


@pytest.mark.parametrize("phase", Phase)
def test_a_phase_may_stay_and_go_to_failed_or_lost_and_never_back_to_absent(phase: Phase) -> None:
    assert advance(phase, phase) is phase
    for to in (Phase.FAILED, Phase.LOST):
        assert advance(phase, to) is to
    if phase is not Phase.ABSENT:
        with pytest.raises(ValueError, match="no way"):
            advance(phase, Phase.ABSENT)


def test_a_machine_that_ran_is_never_merely_prepared_again() -> None:
    for phase in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPED, Phase.LOST):
        with pytest.raises(ValueError, match="no way"):
            advance(phase, Phase.PREPARED)


def test_there_are_sixteen_faults_and_each_survives_being_stored() -> None:
    assert len(FAULTS) == len(set(FAULTS)) == 16
    for kind in FAULTS:
        assert kind().public == kind.__doc__
        again = revive(kind("why").kind, "why")
        assert (type(again), again.public, str(again)) == (kind, "why", "why")
    assert isinstance(revive("Unheard", "x"), Internal)


def test_a_fault_keeps_what_is_not_for_the_caller_apart() -> None:
    fault = NotFound("no", field="name", subject="it", private="row 7", retry_after=2.0)
    assert (fault.field, fault.subject, fault.private, fault.retry_after) == ("name", "it", "row 7", 2.0)
    assert "row 7" not in str(fault)


def test_a_process_is_known_by_boot_pid_and_start() -> None:
    one = RunRecord(1, "boot", 7, 100, "u", "", "", "", 0.0)
    assert same_process(one, RunRecord(1, "boot", 7, 100, "u", "b", "v", "kvm", 5.0, journal=9))
    for other in (("other", 7, 100), ("boot", 8, 100), ("boot", 7, 101)):
        assert not same_process(one, RunRecord(1, *other, "u", "", "", "", 0.0))
    assert same_process(None, None)
    assert not same_process(one, None)
