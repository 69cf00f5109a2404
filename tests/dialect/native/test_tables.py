"""The tables are total, and every kind of refusal has its status and its body."""

from __future__ import annotations

import json

import pytest

from polyvisor.dialects.kit.tables import total
from polyvisor.dialects.native.errors import STATUS, problem, reply
from polyvisor.dialects.native.states import FACES, WORDS
from polyvisor.model import faults
from polyvisor.model.face import Face
from polyvisor.wire import native as wire

EXPECTED = {
    "Invalid": 422, "Unauthenticated": 401, "Throttled": 429, "Forbidden": 403, "NotFound": 404, "Exists": 409,
    "WrongState": 409, "Busy": 409, "Stale": 412, "OverQuota": 403, "NoCapacity": 507, "Unsupported": 422,
    "Upstream": 502, "TimedOut": 408, "Unavailable": 503, "Internal": 500,
}  # fmt: skip


def test_every_fault_has_the_status_that_clients_were_promised() -> None:
    assert {fault.__name__: STATUS[fault] for fault in faults.FAULTS} == EXPECTED


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: str(fault.__name__))
def test_a_fault_is_answered_with_its_kind_and_without_its_secret(fault: type[faults.Fault]) -> None:
    answer = reply(fault("no", field="f", subject="s", private="secret", retry_after=0.2))
    assert answer.status_code == EXPECTED[fault.__name__]
    assert json.loads(bytes(answer.body)) == {"kind": fault.__name__, "message": "no", "field": "f", "subject": "s"}
    assert answer.headers["retry-after"] == "1"
    assert ("www-authenticate" in answer.headers) == (fault is faults.Unauthenticated)


def test_words_that_cannot_be_sent_are_sent_as_question_marks() -> None:
    said = problem(faults.Invalid("\ud800" * 5000, field="\udfff"))
    assert said.field == "?"
    assert said.message == "?" * 2000


def test_every_face_has_a_word_that_the_wire_knows() -> None:
    assert set(WORDS) == set(Face)
    assert set(FACES) == set(wire.State.__args__)  # type: ignore[attr-defined]


def test_a_table_with_a_gap_is_found_when_it_is_made() -> None:
    with pytest.raises(LookupError, match="paused"):
        total({Face.RUNNING: 1}, (Face.RUNNING, Face.PAUSED), "test")
