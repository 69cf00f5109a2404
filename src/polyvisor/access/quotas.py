"""Quotas: sums that a project may not exceed. Checked inside the transaction that creates."""

from __future__ import annotations

from polyvisor.model.faults import OverQuota
from polyvisor.model.principal import Project
from polyvisor.ports.store import Usage


def check_quota(
    project: Project, usage: Usage, *, instances: int = 0, vcpus: int = 0, memory: int = 0, disk: int = 0
) -> None:
    """Whether `project` may hold that much more. Limits of 0 are none.

    :raise OverQuota: naming the first limit that would be exceeded.
    """
    rows = (
        ("instances", project.max_instances, usage.instances + instances, instances),
        ("vcpus", project.max_vcpus, usage.vcpus + vcpus, vcpus),
        ("memory", project.max_memory, usage.memory + memory, memory),
        ("disk", project.max_disk, usage.disk + disk, disk),
    )
    for name, limit, would_be, more in rows:
        if limit and more and would_be > limit:
            raise OverQuota(f"{name}: the project's quota is {limit}, this would make {would_be}", field=name)
