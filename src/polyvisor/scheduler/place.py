"""Placing an instance on a host: said at once, so that a caller hears `NoCapacity` and not a later failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyvisor.model.faults import NoCapacity
from polyvisor.model.host import HostReport
from polyvisor.model.ids import HostId
from polyvisor.model.spec import Spec

MEMORY_OVERCOMMIT = 1.5  # guests rarely touch all their memory; the rest is the page cache's
VCPUS_PER_CPU = 64


def place(spec: Spec, hosts: Sequence[HostReport], memory_used: Mapping[HostId, int]) -> HostId:
    """The host with the most room left. `memory_used` is what running instances were promised.

    :raise NoCapacity: none has room, with the reason of the roomiest.
    """
    roomiest: HostReport | None = None
    left = 0
    for host in hosts:
        room = int(host.memory * MEMORY_OVERCOMMIT) - memory_used.get(host.id, 0)
        if host.ok and (roomiest is None or room > left):
            roomiest, left = host, room
    if roomiest is None:
        raise NoCapacity("no host can take instances now")
    if spec.memory > roomiest.memory or spec.memory > left:
        raise NoCapacity(f"memory: no host has {spec.memory} bytes free", field="memory")
    if spec.vcpus > roomiest.cpus * VCPUS_PER_CPU:
        raise NoCapacity(f"vcpus: no host has {spec.vcpus}", field="vcpus")
    return roomiest.id
