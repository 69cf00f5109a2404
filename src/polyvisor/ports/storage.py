"""What a host needs of its storage: the writable disks of instances, their snapshots, and volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from typing import Protocol

from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Pool
from polyvisor.ports.hypervisor import DiskFile
from polyvisor.ports.volumes import VolumeFiles


class Switch(Protocol):
    """Makes a running machine write to another file."""

    async def __call__(self, disk: DiskFile, *, ahead: bool = False) -> None:
        """`ahead`: only what takes time; the switch itself is the next call's."""


Moment = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]


class Storage(Protocol):
    """Disks as files. Every verb is safe to repeat and leaves no half-made file under a final name.

    A snapshot holds a disk that is never written again. What instances and snapshots need of one another's disks is
    kept for as long as any of them is there, in whatever order they go. One caller at a time for each instance.
    """

    async def make(self, blueprint: Blueprint, image: Path, origin: str = "") -> None:
        """The directory and writable disk of an instance; with `origin`, as that snapshot holds it. A blank one has no
        disk.

        A disk may be made larger than its origin: the guest finds more room behind what was there.
        :raise NoCapacity: the file system is full. :raise NotFound: there is no such snapshot.
        :raise Invalid: the disk would be smaller than its origin, or that is of another image.
        """

    async def remove(self, id: InstanceId) -> None:
        """Nothing of the instance is left but what snapshots and other instances need."""

    def is_made(self, id: InstanceId) -> bool:
        """Whether the instance has its writable disk."""

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """The disks a launch is given, root first, volumes last; a blank machine boots the first of those that can."""

    async def snapshot(
        self, blueprint: Blueprint, image: Path, snapshot: str, switch: Switch | None, moment: Moment | None = None
    ) -> None:
        """The instance's disk as it is now becomes the snapshot's, and the instance goes on above it.

        `switch` makes its running machine write to another file; None: no process has the disk open. It is called by
        `moment`, once what takes its time is done, where more than the disk is of that moment. A call that was
        cut short at any point has lost nothing; what it has left is taken up by the next one.
        :raise NoCapacity: the file system is full, or too many disks lie upon one another already.
        """

    async def revert(self, blueprint: Blueprint, image: Path, snapshot: str) -> None:
        """The instance, of which no process is there, has the snapshot's disk; its present one is gone.

        :raise NotFound, Invalid, NoCapacity: as for `make`.
        """

    async def remove_snapshot(self, snapshot: str) -> None:
        """Nothing of the snapshot is left but what others need."""

    async def snapshot_size(self, snapshot: str) -> Bytes:
        """Bytes on this host of the disk that the snapshot holds, without what lies below. :raise NotFound:"""

    async def compact(self) -> None:
        """Join disks that nothing but one other needs any more. Takes its time; may be cut short anywhere."""

    def volume(self, disk: Disk) -> DiskFile:
        """The file of a volume."""

    def pools(self) -> tuple[Pool, ...]:
        """Where volumes can be, the default first."""

    async def create_blank(self, disk: Disk) -> None:
        """A volume of zeros. :raise NoCapacity: :raise Unavailable: its pool is not there."""

    async def write_volume(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """Bytes into the file of a volume, from that place on; how many there were.

        :raise Invalid: they would go beyond its end. :raise NoCapacity: the disk is full.
        """

    def read_volume(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """The first bytes of a volume, as many as that. :raise Internal: there are fewer."""

    async def adopt_volume(self, disk: Disk, file: Path) -> None:
        """A file of ours becomes that of a volume. :raise NoCapacity:"""

    def volume_files(self, disk: Disk) -> VolumeFiles:
        """The files in a volume that nobody else writes to meanwhile."""

    def volume_used(self, disk: Disk) -> Bytes:
        """What its file takes of the pool's room."""

    async def copy_volume(self, source: Disk, target: Disk) -> None:
        """A volume with what is in another one's file, which nobody writes to meanwhile. All or nothing.

        :raise NoCapacity: the disk is full. :raise Unavailable: its pool is not there.
        """

    async def receive_volume(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """A volume of exactly `length` bytes that come from somebody, filled up to a whole sector with zeros. All or
        nothing: what was cut off leaves no file.

        :raise Invalid: there are more, or fewer. :raise NoCapacity: :raise Unavailable: its pool is not there.
        """

    async def create_volume(self, disk: Disk, archive: Path | None = None) -> None:
        """A volume with an ext4 file system, which is empty or holds what is in a tar archive.

        :raise NoCapacity: :raise Invalid: the archive is none, is hostile, or does not fit.
        """

    async def format_blank(self, disk: Disk) -> None:
        """An empty ext4 file system in a volume that nothing was ever written to: none of its blocks is there. One that
        is too small for that, or has no file, stays as it is. :raise NoCapacity:
        """

    async def remove_volume(self, volume: str, pool: str = "") -> None:
        """No file is left. :raise Unavailable: its pool is not there."""

    async def resize_volume(self, disk: Disk) -> None:
        """Grow the file. :raise Invalid: it would shrink. :raise NoCapacity:"""

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str], snapshots: Collection[str]) -> None:
        """Remove directories and files that no record knows."""

    def free(self) -> Bytes:
        """Room left."""
