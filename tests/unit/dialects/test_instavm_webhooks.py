"""What is pure of webhooks: what matches, when there is another try, what becomes of a delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from polyvisor.dialects.instavm.dispatch import judged, pause, signature
from polyvisor.dialects.instavm.happenings import TYPES, check_patterns, kind_of, matches
from polyvisor.dialects.instavm.hooks import Delivery, State
from polyvisor.model.event import Event
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import ProjectId
from polyvisor.model.letter import Receipt

NOW = datetime(2026, 3, 4, tzinfo=UTC)
P = ProjectId("p" * 24)


def test_patterns() -> None:
    assert matches(["*"], "vm.created")
    assert matches(["snapshot.*", "vm.created"], "vm.created")
    assert not matches(["snapshot.*", "vm.creat"], "vm.created")
    assert check_patterns(["vm.*", "*", "vm.*"]) == ("vm.*", "*")
    assert all(check_patterns([kind]) for kind in TYPES)
    with pytest.raises(Invalid, match=r"event_patterns\.1"):
        check_patterns(["*", "vmx.*"])


def test_what_is_told_of_an_operation_is_that_it_is_done() -> None:
    done = Event("operation.finished", P, "i", NOW, {"verb": "create", "outcome": "done"})
    assert kind_of(done) == "vm.created"
    assert kind_of(replace(done, data={"verb": "create", "outcome": "failed"})) is None
    assert kind_of(replace(done, data={"verb": "attach", "outcome": "done"})) is None
    assert kind_of(replace(done, kind="operation.opened")) is None
    assert kind_of(replace(done, kind="instance.deleted", data={})) == "vm.terminated"


def test_pauses_grow_up_to_an_hour() -> None:
    assert [pause(tries) for tries in (1, 2, 3)] == [timedelta(seconds=seconds) for seconds in (1, 4, 16)]
    assert pause(50) == timedelta(hours=1)


def test_what_becomes_of_a_delivery() -> None:
    one = Delivery("whd_a", P, "whe_a", "evt_1", "vm.created", "{}", NOW, State.PENDING, NOW)
    again = judged(one, Receipt(500), 1)
    assert (again.state, again.attempts, again.status, again.error) == (State.PENDING, 1, 500, "HTTP status 500")
    assert again.due > NOW
    assert judged(again, Receipt(error="no"), 1).state is State.FAILED
    assert judged(one, Receipt(302), 0).state is State.FAILED
    done = judged(again, Receipt(204), 1)
    assert (done.state, done.attempts, done.error) == (State.DELIVERED, 2, "")


def test_a_signature_is_upstreams() -> None:
    digest = signature("whsec_x", 1, b"{}").partition("v1=")[2]
    webhooks = pytest.importorskip("instavm.webhooks")
    assert digest == webhooks.compute_signature("whsec_x", 1, b"{}")
