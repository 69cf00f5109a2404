"""Volumes of a host: their files, and the pools that these are in. See `ports.host`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from polyvisor.model.appliance import Appliance
from polyvisor.model.host import Disk
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Pool, VolumeFile


class VolumeFiles(Protocol):
    """The files in a volume that no machine has. Each raises `Invalid` where its file system is damaged."""

    async def list(self, folder: str, *, deep: bool, most: int) -> Sequence[VolumeFile]:
        """What is in a directory, and below it; as many as that. :raise NotFound:"""

    async def read(self, path: str, most: int) -> bytes:
        """A file. :raise NotFound: :raise Invalid: it is larger than `most` bytes."""

    async def write(self, path: str, source: Path) -> None:
        """What is in a file of ours, in the place of another of that name. :raise NoCapacity: it does not fit.
        :raise Invalid: the place is a directory, or below a file."""

    async def remove(self, path: str) -> None:
        """A file or an empty directory. :raise NotFound: :raise Invalid: a directory that is not."""

    async def used(self) -> Bytes:
        """What files take of its room."""


class HostVolumes(Protocol):
    """What decisions may ask of a host's volumes. Every verb is safe to repeat."""

    def pools(self) -> tuple[Pool, ...]:
        """Where volumes can be, the default first."""

    async def create(self, disk: Disk, archive: Path | None = None) -> None:
        """The file of a volume, empty or with what is in a tar archive. Undone by `remove`.

        :raise NoCapacity: the disk is full. :raise Invalid: the archive is none, is hostile, or does not fit.
        """

    async def create_blank(self, disk: Disk) -> None:
        """A volume of zeros. Undone by `remove`. :raise NoCapacity, Unavailable: its pool is not there."""

    async def receive(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """A volume of exactly `length` bytes that come from somebody; all or nothing. Undone by `remove`.

        :raise Invalid: there are more, or fewer. :raise NoCapacity: :raise Unavailable: its pool is not there.
        """

    async def write(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """Bytes into the file of a volume, from that place on; how many there were.

        :raise Invalid: they would go beyond its end. :raise NoCapacity: the disk is full.
        """

    def read(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """The first bytes of a volume, as many as that. :raise Internal: there are fewer."""

    async def size_in(self, disk: Disk, length: int, at: int = 0) -> Bytes:
        """The size of the disk that `length` bytes of a volume are an image of, from `at` on.

        :raise Invalid: it is damaged. :raise Unsupported: an image of a form that is not taken.
        """

    async def unpack(self, source: Disk, length: int, target: Disk, at: int = 0) -> None:
        """A volume with the disk that `length` bytes of another one are an image of, from `at` on: a qcow2, a VMDK of
        one file, or as it stands. Undone by `remove`. :raise Invalid, Unsupported, NoCapacity:
        """

    async def appliance(self, disk: Disk, length: int) -> Appliance | None:
        """The machine that the first `length` bytes of a volume are an archive of; None: they are no archive.

        :raise Invalid: it is damaged or hostile. :raise Unsupported: it asks for what is not taken.
        """

    def packed(
        self, disks: Sequence[Disk], about: Appliance | None
    ) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[bytes]]]:
        """Volumes that nobody writes to as an archive of a machine, or one of them as a qcow2: how many bytes that are,
        and they themselves, once. :raise NoCapacity:
        """

    def used(self, disk: Disk) -> Bytes:
        """What its file takes of the pool's room."""

    def files(self, disk: Disk) -> AbstractAsyncContextManager[VolumeFiles]:
        """The files in it; a machine that is to start with it waits until they are let go."""

    async def copy(self, pairs: Sequence[tuple[Disk, Disk]], holder: InstanceId | None) -> None:
        """What the first volume of each pair holds now is in the second, a new file of that size: all of one moment.

        `holder` is the instance that has them attached, which runs on; one that is off starts when it is done. Undone
        by `remove`. :raise NoCapacity: the disk is full. :raise Unavailable: a pool is not there.
        """

    async def remove(self, volume: str, pool: str = "") -> None:
        """No file of the volume is left. :raise Unavailable: its pool is not there."""

    async def resize(self, disk: Disk, holder: InstanceId | None) -> None:
        """Grow the file to `disk.size`, live when `holder` runs it."""
