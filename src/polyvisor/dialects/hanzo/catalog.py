"""The tables of the contract: plans, regions, operating systems, tiers of volumes (hanzo.md §2.2, §2.3, §1.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from polyvisor.model.units import GIB, Bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a machine. `disk_type` is what it is called, and no promise of this host's."""

    name: str
    vcpus: int
    memory_gb: int
    disk_gb: int
    disk_type: str = "ssd"

    @property
    def memory(self) -> Bytes:
        """In bytes."""
        return Bytes(self.memory_gb * GIB)

    @property
    def disk(self) -> Bytes:
        """In bytes."""
        return Bytes(self.disk_gb * GIB)


_PLANS = (
    Plan("nano", 1, 1, 25),
    Plan("micro", 1, 2, 50),
    Plan("small", 2, 4, 80),
    Plan("medium", 4, 8, 160),
    Plan("power", 8, 16, 320),
    Plan("power-dedicated", 8, 32, 640, "nvme"),
)
PLANS: Mapping[str, Plan] = {plan.name: plan for plan in _PLANS}
"""By name, the smallest first."""
REGIONS = ("us-east", "us-west", "eu-west", "ap-south")
SYSTEMS = ("ubuntu-22.04", "ubuntu-24.04", "debian-12", "rocky-9", "fedora-40")
TIERS: Mapping[str, tuple[int, int]] = {"ssd": (10, 10 * 1024), "nvme": (50, 10 * 1024)}
"""The least and the most GB of a volume, by tier."""
DEFAULT_TIER = "ssd"


def nearest(vcpus: int, memory: int, disk: int) -> Plan:
    """The smallest plan that is at least as large; the largest of all for what is larger still."""
    for plan in _PLANS:
        if plan.vcpus >= vcpus and plan.memory >= memory and plan.disk >= disk:
            return plan
    return _PLANS[-1]
