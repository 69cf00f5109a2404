"""What a host needs of its storage: the writable disks of instances, and volumes."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import Bytes
from polyvisor.ports.hypervisor import DiskFile


class Storage(Protocol):
    """Disks as files. Every verb is safe to repeat and leaves no half-made file under a final name."""

    async def make(self, blueprint: Blueprint, image: Path) -> None:
        """The directory and writable disk of an instance. :raise NoCapacity: the file system is full."""

    async def remove(self, id: InstanceId) -> None:
        """Nothing of the instance is left."""

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """The disks a launch is given, root first, volumes last."""

    def volume(self, disk: Disk) -> DiskFile:
        """The file of a volume."""

    async def create_volume(self, disk: Disk) -> None:
        """A volume with an empty ext4 file system. :raise NoCapacity:"""

    async def remove_volume(self, volume: str) -> None:
        """No file is left."""

    async def resize_volume(self, disk: Disk) -> None:
        """Grow the file. :raise Invalid: it would shrink. :raise NoCapacity:"""

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str]) -> None:
        """Remove directories and files that no record knows."""

    def free(self) -> Bytes:
        """Room left."""
