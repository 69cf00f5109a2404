"""When a schedule runs next, and which snapshots it keeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.ids import Digest, HostId, InstanceId, ProjectId, SnapshotId
from polyvisor.model.snapshot import Schedule, Snapshot, SnapshotKind, SnapshotState, after, outdated
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes, Seconds

NOW = datetime(2026, 3, 4, tzinfo=UTC)
ID = InstanceId("i" * 24)
SPEC = Spec(Digest("d"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(256 * MIB), Bytes(GIB))
SCHEDULE = Schedule(ID, Seconds(60.0), SnapshotKind.DISK, NOW)


def taken(seconds: int, **given: Any) -> Snapshot:
    """One that the schedule took so long ago."""
    one = Snapshot(
        SnapshotId(f"s{seconds}"), ProjectId("p"), "", SnapshotKind.DISK, SnapshotState.READY, ID, "it", SPEC, Bytes(1),
        HostId("h"), NOW - timedelta(seconds=seconds), scheduled=True,
    )  # fmt: skip
    return replace(one, **given)


@given(st.floats(60, 10**7), st.integers(0, 10**9))
def test_the_next_run_is_later_than_now_and_in_step(interval: float, late: int) -> None:
    schedule, now = replace(SCHEDULE, interval=Seconds(interval)), NOW + timedelta(seconds=late)
    following = after(schedule, now)
    step = timedelta(seconds=interval)
    assert now < following <= now + step
    assert (following - NOW) % step == timedelta(0)


def test_the_newest_are_kept_and_none_that_is_too_old() -> None:
    some = [taken(n) for n in (50, 10, 30, 20, 40)]

    def gone(count: int | None, age: float | None) -> set[str]:
        limits = replace(SCHEDULE, max_count=count, max_age=None if age is None else Seconds(age))
        return {s.id for s in outdated(limits, some, NOW)}

    assert gone(None, None) == set()
    assert gone(2, None) == {"s30", "s40", "s50"}
    assert gone(None, 30.0) == {"s40", "s50"}
    assert gone(4, 20.0) == {"s30", "s40", "s50"}
    assert gone(9, 60.0) == set()
    assert gone(9, 5.0) == {s.id for s in some}


def test_what_the_schedule_did_not_make_or_is_not_ready_is_none_of_its_business() -> None:
    others = [
        taken(90, scheduled=False),
        taken(91, source=InstanceId("else")),
        taken(92, state=SnapshotState.CREATING),
        taken(93, state=SnapshotState.DELETING),
    ]
    assert outdated(replace(SCHEDULE, max_count=1, max_age=Seconds(60.0)), [*others, taken(1)], NOW) == []
