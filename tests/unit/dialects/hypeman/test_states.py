"""Every face has a word, and every word its law."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from polyvisor.dialects.hypeman import asks, errors, states
from polyvisor.model import faults
from polyvisor.model.face import Face
from polyvisor.model.ids import Digest
from polyvisor.model.instance import Intent, Phase
from unit.reconcile.simulated import an_instance, an_observed


def test_every_face_has_one_of_the_eight_words() -> None:
    assert set(states.WORDS) == set(Face)
    assert set(states.WORDS.values()) <= set(get_args(asks.State))


def test_one_without_an_agent_is_running_as_soon_as_it_runs() -> None:
    """Whoever waits for the word would wait for ever."""
    silent = an_instance(Intent(), an_observed(Phase.RUNNING, 1, 400))
    assert states.word(silent) == "Initializing"
    blank = replace(silent, spec=replace(silent.spec, image=Digest("")))
    assert (blank.spec.blank, states.word(blank)) == (True, "Running")


def test_every_fault_has_a_status_and_a_code() -> None:
    assert set(errors.TABLE) == set(faults.FAULTS)
    assert all(400 <= status <= 504 and code for status, code in errors.TABLE.values())


@pytest.mark.parametrize("verb", list(states.LEGAL))
def test_what_is_already_so_is_not_also_legal(verb: str) -> None:
    assert not states.LEGAL[verb] & states.ALREADY[verb]
    assert states.LEGAL[verb] | states.ALREADY[verb] < set(get_args(asks.State))


def test_texts_are_upstreams() -> None:
    said = "invalid state transition: cannot"
    assert states.no_way("standby", "Stopped") == f"{said} standby from state Stopped"
    assert states.no_way("restore", "Stopped") == f"{said} restore from state Stopped"
    assert states.no_way("stop", "Standby") == f"{said} stop from state Standby, must be Running or Initializing"
    assert states.no_way("start", "Standby") == f"{said} start from state Standby, must be Stopped"


# What each call does in each of the eight words: `ok`, `same` (nothing, and 200), or the rest of upstream's refusal.
UP = ", must be Running or Initializing"
LAW = {
    "standby": {"Running": "ok", "Standby": "same"},
    "restore": {"Standby": "ok", "Running": "same", "Initializing": "same"},
    "stop": {"Running": "ok", "Initializing": "ok", "Stopped": "same"},
    "start": {"Stopped": "ok", "Running": "same", "Initializing": "same"},
}
MUST = {"stop": UP, "start": ", must be Stopped"}


@pytest.mark.parametrize("state", get_args(asks.State))
@pytest.mark.parametrize("verb", list(LAW))
def test_the_law_of_every_word(verb: str, state: str) -> None:
    said = LAW[verb].get(state)
    assert (state in states.LEGAL[verb]) == (said == "ok")
    assert (state in states.ALREADY[verb]) == (said == "same")
    if said is None:
        text = f"invalid state transition: cannot {verb} from state {state}{MUST.get(verb, '')}"
        assert states.no_way(verb, state) == text
