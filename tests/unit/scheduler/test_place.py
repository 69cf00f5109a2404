"""Placement and quotas: said at once, with the reason."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.access.quotas import check_quota
from polyvisor.model.faults import NoCapacity, OverQuota
from polyvisor.model.host import HostReport
from polyvisor.model.identity import Project, Quotas, Usage
from polyvisor.model.ids import Digest, HostId, ProjectId
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import GIB, MIB, Bytes
from polyvisor.scheduler.place import MEMORY_OVERCOMMIT, VCPUS_PER_CPU, place


def a_spec(memory: int = 256 * MIB, vcpus: int = 1) -> Spec:
    return Spec(Digest("d"), "busybox", Shape.MICRO, Firmware.NONE, vcpus, Bytes(memory), Bytes(GIB))


def a_host(name: str, memory: int = 4 * GIB, cpus: int = 2, *, ok: bool = True) -> HostReport:
    return HostReport(
        HostId(name), cpus, Bytes(memory), Bytes(GIB), "fake", "1", "none", "user", frozenset(), ok, "" if ok else "ill"
    )


def test_the_roomiest_host_is_chosen() -> None:
    hosts = [a_host("a"), a_host("b", 8 * GIB), a_host("c", 16 * GIB, ok=False)]
    assert place(a_spec(), hosts, {}) == "b"
    assert place(a_spec(), hosts, {HostId("b"): 10 * GIB}) == "a"


@pytest.mark.parametrize(
    ("spec", "hosts", "used", "field"),
    [
        (a_spec(), [], {}, None),
        (a_spec(), [a_host("a", ok=False)], {}, None),
        (a_spec(5 * GIB), [a_host("a")], {}, "memory"),
        (a_spec(GIB), [a_host("a")], {"a": 5 * GIB + 1}, "memory"),
        (a_spec(vcpus=2 * VCPUS_PER_CPU + 1), [a_host("a")], {}, "vcpus"),
    ],
)
def test_no_room_is_said_with_the_reason(
    spec: Spec, hosts: list[HostReport], used: dict[HostId, int], field: str | None
) -> None:
    with pytest.raises(NoCapacity) as refused:
        place(spec, hosts, used)
    assert refused.value.field == field


@given(st.lists(st.integers(64, 4096), max_size=60), st.integers(1024, 8192))
def test_no_more_is_promised_than_may_be(sizes: list[int], memory: int) -> None:
    host, used = a_host("a", memory * MIB), 0
    for size in sizes:
        try:
            place(a_spec(size * MIB), [host], {host.id: used})
        except NoCapacity:
            continue
        used += size * MIB
    assert used <= host.memory * MEMORY_OVERCOMMIT


def a_project(**limits: int) -> Project:
    return Project(ProjectId("p"), "p", datetime.now(UTC), quotas=Quotas(**limits))


@pytest.mark.parametrize("name", ["instances", "vcpus", "memory", "disk", "snapshots"])
def test_a_quota_is_met_to_its_last_unit_and_not_beyond(name: str) -> None:
    project, used = a_project(**{name: 10}), Usage(7, 7, 7, 7, 7)
    check_quota(project, used, Quotas(**{name: 3}))
    with pytest.raises(OverQuota) as refused:
        check_quota(project, used, Quotas(**{name: 4}))
    assert refused.value.field == name


def test_without_a_limit_there_is_none_and_what_is_not_asked_for_is_not_counted() -> None:
    check_quota(a_project(), Usage(10**9, 10**9, 10**18, 10**18, 10**9), Quotas(1, 1, 1, 1, 1))
    check_quota(a_project(instances=1), Usage(5, 5, 5, 5, 5), Quotas(disk=1))
