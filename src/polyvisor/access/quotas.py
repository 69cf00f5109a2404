"""Quotas: sums that a project and all below it may not exceed. Checked inside the transaction that creates."""

from __future__ import annotations

from polyvisor.model.faults import OverQuota
from polyvisor.model.identity import Project, Quotas, Usage
from polyvisor.model.ids import ProjectId
from polyvisor.model.volume import Volume
from polyvisor.ports.store import Unit


async def admit_more(unit: Unit, project: ProjectId, more: Quotas) -> None:
    """Whether a project may hold that much more: the quota of each project up to the root has to hold.

    To be asked in the write unit that adds it, so that of two who ask at once the second counts the first.
    :raise NotFound: there is no such project. :raise OverQuota: naming the first limit that would be exceeded.
    """
    await unit.identities.project(project)
    for one in await unit.identities.path(project):
        if one.quotas != Quotas():
            below = [id for id, _ in await unit.identities.below([one.id])]
            check_quota(one, await unit.instances.usage(below), more)


async def admit_to_pool(unit: Unit, volume: Volume, more: int) -> None:
    """Whether a volume may take so many bytes more of what its project, and those above, were given of its pool.

    :raise OverQuota:
    """
    for one in await unit.identities.path(volume.project):
        for rights in await unit.pools.of(one.id):
            if rights.pool != volume.pool or not rights.quota:
                continue
            held = await unit.pools.held(one.id, volume.pool)
            if held + more > rights.quota:
                text = f"pool: project {one.name} has {rights.quota} bytes there, this would make {held + more}"
                raise OverQuota(text, field="pool")


def check_quota(project: Project, usage: Usage, more: Quotas) -> None:
    """:raise OverQuota: naming the first limit of `project` that would be exceeded. Limits of 0 are none."""
    limits = project.quotas
    rows = (
        ("instances", limits.instances, usage.instances, more.instances),
        ("vcpus", limits.vcpus, usage.vcpus, more.vcpus),
        ("memory", limits.memory, usage.memory, more.memory),
        ("disk", limits.disk, usage.disk, more.disk),
        ("snapshots", limits.snapshots, usage.snapshots, more.snapshots),
    )
    for name, limit, held, wanted in rows:
        if limit and wanted and held + wanted > limit:
            raise OverQuota(
                f"{name}: the quota of project {project.name} is {limit}, this would make {held + wanted}", field=name
            )
