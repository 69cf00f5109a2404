"""What the fake hypervisor needs around it: storage and images that are names only."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from polyvisor.host.paths import Paths
from polyvisor.model.faults import Invalid, NotFound
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import Digest, InstanceId
from polyvisor.model.image import Image, ImageKind, ImageState, parse_reference
from polyvisor.model.units import TIB, Bytes
from polyvisor.ports.hypervisor import DiskFile
from polyvisor.ports.images import Progress


class FakeStorage:
    """A Storage whose disks are empty files."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    async def make(self, blueprint: Blueprint, image: Path) -> None:
        """See Storage."""
        self._paths.instance(blueprint.id).mkdir(exist_ok=True)
        self._paths.disk(blueprint.id).touch()

    async def remove(self, id: InstanceId) -> None:
        """See Storage."""
        shutil.rmtree(self._paths.instance(id), ignore_errors=True)

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """See Storage. There are only the volumes."""
        return tuple(self.volume(disk) for disk in blueprint.disks)

    def volume(self, disk: Disk) -> DiskFile:
        """See Storage."""
        return DiskFile(self._paths.volume(disk.volume), "raw", disk.serial, disk.read_only)

    async def create_volume(self, disk: Disk) -> None:
        """See Storage."""
        self._paths.volume(disk.volume).touch()

    async def remove_volume(self, volume: str) -> None:
        """See Storage."""
        self._paths.volume(volume).unlink(missing_ok=True)

    async def resize_volume(self, disk: Disk) -> None:
        """See Storage."""
        if not self._paths.volume(disk.volume).exists():
            raise Invalid("size: the volume has no file", field="size")

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str]) -> None:
        """See Storage."""
        for folder in self._paths.instances.iterdir():
            if folder.name not in known:
                await self.remove(InstanceId(folder.name))
        for file in self._paths.volumes.iterdir():
            if file.stem not in volumes:
                file.unlink()

    def free(self) -> Bytes:
        """See Storage."""
        return Bytes(100 * TIB)


class FakeBoot:
    """A Boot of empty files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def agent(self) -> Path:
        """See Boot."""
        return self._file("agent")

    async def kernel(self) -> tuple[Path, Path]:
        """See Boot."""
        return self._file("kernel"), self._file("initrd")

    def _file(self, name: str) -> Path:
        path = self._folder / name
        path.touch()
        return path


class FakeImages:
    """Images that are made when they are asked for: any name is one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Digest, Image] = {}

    async def vet(self, reference: str, *, trusted: bool) -> str:
        """See Images. No registry is known for short names."""
        found = parse_reference(reference)
        if not found.registry and found.short not in ("busybox", "debian-12"):
            raise NotFound(f"image: no image {reference[:120]!r}", field="image", subject=reference)
        return found.short

    async def pull(self, reference: str, progress: Progress, *, trusted: bool = False) -> Image:
        """See Images."""
        name = str(parse_reference(reference))
        kind = ImageKind.DISK if name.startswith("debian-12") else ImageKind.ROOT
        digest = Digest("sha256:" + sha256(name.encode()).hexdigest())
        image = Image(digest, (name,), kind, ImageState.READY, datetime.now(UTC), Bytes(1), Bytes(1))
        self._known[digest] = image
        progress("made", 1.0)
        return image

    async def import_archive(self, path: Path, name: str, progress: Progress) -> Image:
        """See Images."""
        return await self.pull(name, progress)

    async def build(self, name: str, progress: Progress) -> Image:
        """See Images."""
        return await self.pull(name, progress)

    async def remove(self, digest: Digest) -> None:
        """See Images."""
        self._known.pop(digest, None)

    async def path(self, digest: Digest) -> Path:
        """See Images."""
        if not digest.startswith("sha256:"):
            raise NotFound(f"image: no image {digest}", field="image")
        return self._folder / digest.removeprefix("sha256:")

    async def list(self) -> Sequence[Image]:
        """See Images."""
        return list(self._known.values())
