"""How long an instance was what it was."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from polyvisor.model.instance import Observed, Phase, Stage, stage_of, time_spent, timed

START = datetime(2026, 1, 2, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("ready", [False, True])
def test_every_phase_has_a_stage(phase: Phase, ready: bool) -> None:
    assert stage_of(Observed(phase=phase, ready=ready)) in Stage


def test_time_is_added_up_by_stage() -> None:
    now = Observed(since=START, staged=START)
    run = replace(now, phase=Phase.RUNNING, incarnation=1, booted=after(1))
    now = timed(now, run, after(1))
    now = timed(now, replace(now, ready=True), after(3))
    now = timed(now, replace(now, phase=Phase.SUSPENDED, ready=False), after(10))
    now = timed(now, replace(now, phase=Phase.RUNNING, ready=True, incarnation=2, booted=after(110)), after(110))
    assert time_spent(now, after(115)) == {
        Stage.CREATED: 1000, Stage.INITIALIZING: 2000, Stage.RUNNING: 12_000, Stage.STANDBY: 100_000,
    }  # fmt: skip
    assert now.staged == after(110)
    assert now.begun == after(1)  # it goes on where it was
    now = timed(now, replace(now, phase=Phase.STOPPED, ready=False), after(115))
    now = timed(now, replace(now, phase=Phase.RUNNING, incarnation=3, booted=after(120)), after(120))
    assert now.begun == after(120)


def test_what_does_not_change_keeps_its_time() -> None:
    now = Observed(phase=Phase.RUNNING, ready=True, since=START, staged=START, incarnation=1)
    assert timed(now, replace(now, phase=Phase.PAUSED, since=after(5)), after(5)).staged == START


def test_a_record_of_an_older_version_is_counted_from_its_last_change() -> None:
    old = Observed(phase=Phase.STOPPED, since=START)
    assert time_spent(old, after(2)) == {Stage.STOPPED: 2000}
    assert time_spent(Observed(), START) == {}
