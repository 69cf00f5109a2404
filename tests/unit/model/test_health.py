"""Health: what a row of answers makes of a workload."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from polyvisor.model.faults import Invalid
from polyvisor.model.health import Health, HealthCheck, HealthStatus, Probe, after, check_health
from polyvisor.model.units import Seconds

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHECK = HealthCheck(Probe.TCP, port=80, start=Seconds(30), failures=2, successes=2)


def heard(*errors: str, at: float = 60, was: HealthStatus | None = None) -> HealthStatus:
    """After those answers, so many seconds after the process began."""
    status = was or HealthStatus()
    for error in errors:
        status = after(status, CHECK, error, NOW, NOW + timedelta(seconds=at))
    return status


def test_it_takes_so_many_on_end() -> None:
    assert [heard(*row).health for row in ([""], ["", ""], ["x"], ["x", "x"], ["x", "", "x"])] == [
        Health.STARTING, Health.HEALTHY, Health.STARTING, Health.UNHEALTHY, Health.STARTING,
    ]  # fmt: skip
    well = heard("", "")
    assert heard("x", was=well).health is Health.HEALTHY and heard("x", "x", was=well).health is Health.UNHEALTHY
    ill = heard("x", "x")
    assert heard("", was=ill).health is Health.UNHEALTHY and heard("", "", was=ill).health is Health.HEALTHY
    assert heard("", "", was=ill).error == "" and ill.error == "x"


def test_while_it_starts_failures_are_counted_only() -> None:
    early = heard("x", "x", "x", at=29)
    assert (early.health, early.failures) == (Health.STARTING, 3)
    assert heard("x", at=31, was=early).health is Health.UNHEALTHY


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"interval": 0.0}, "interval"), ({"timeout": 601.0}, "timeout"), ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"path": "a"}, "path"), ({"path": "/ "}, "path"), ({"status": 99}, "status"), ({"failures": 0}, "failures"),
        ({"probe": Probe.EXEC}, "command"), ({"argv": ("a\0",)}, "command"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_check_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_health(replace(CHECK, **change), network=True)
    assert refused.value.field == f"health.{field}"


def test_a_port_needs_a_network() -> None:
    with pytest.raises(Invalid):
        check_health(CHECK, network=False)
