"""What the fake hypervisor needs around it: storage and images that are names only."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

from polyvisor.host.hypervisor.fake.files import FakeFiles
from polyvisor.host.images import disks, ova
from polyvisor.host.images.bounds import Bounds
from polyvisor.host.images.documents import architecture, contents
from polyvisor.host.images.documents import config as parse_config
from polyvisor.host.images.documents import manifest as parse_manifest
from polyvisor.host.images.provided import verify
from polyvisor.host.images.sniff import Form, sniff_disk
from polyvisor.host.paths import Paths
from polyvisor.host.sparse import copy_sparse
from polyvisor.host.storage.archives import unpack
from polyvisor.host.storage.media import Media
from polyvisor.model.appliance import Appliance
from polyvisor.model.faults import Fault, Invalid, NotFound
from polyvisor.model.host import Blueprint, Disk
from polyvisor.model.ids import Digest, InstanceId
from polyvisor.model.image import Image, ImageKind, ImageSource, ImageState, parse_reference
from polyvisor.model.push import Login, Sent
from polyvisor.model.units import TIB, Bytes
from polyvisor.model.volume import Pool
from polyvisor.ports.hypervisor import DiskFile
from polyvisor.ports.images import Contents, Progress
from polyvisor.ports.storage import Moment, Switch


class FakeStorage:
    """A Storage whose disks say which snapshots they went through. It knows the size and image of a snapshot."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._media = Media(paths)
        self._files: dict[str, FakeFiles] = {}

    async def make(self, blueprint: Blueprint, image: Path, origin: str = "") -> None:
        """See Storage."""
        self._paths.instance(blueprint.id).mkdir(exist_ok=True)
        if not blueprint.spec.blank and not self.is_made(blueprint.id):
            self._write(blueprint, self._check(blueprint, origin) if origin else [])

    def _write(self, blueprint: Blueprint, through: Sequence[str]) -> None:
        part = self._paths.disk(blueprint.id).with_suffix(".part")
        part.write_text("".join(f"{snapshot}\n" for snapshot in through))
        part.rename(self._paths.disk(blueprint.id))

    def is_made(self, id: InstanceId) -> bool:
        """See Storage."""
        return self._paths.disk(id).exists()

    def _facts(self, snapshot: str) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads(self._paths.snapshot_record(snapshot).read_text())
        except FileNotFoundError:
            raise NotFound("snapshot: its disk is not on this host", field="snapshot") from None
        return facts

    def _check(self, blueprint: Blueprint, snapshot: str) -> list[str]:
        """What its disk went through, if this instance can have it."""
        facts = self._facts(snapshot)
        if facts["image"] != blueprint.spec.image:
            raise Invalid("image: the snapshot is of another image", field="image")
        if blueprint.spec.disk < facts["size"]:
            raise Invalid("disk: it cannot be made smaller than the snapshot's", field="disk")
        through: list[str] = facts["through"]
        return through

    async def snapshot(
        self, blueprint: Blueprint, image: Path, snapshot: str, switch: Switch | None, moment: Moment | None = None
    ) -> None:
        """See Storage. A machine is switched to one overlay after another."""
        count = self._paths.disk_record(blueprint.id)
        record = self._paths.snapshot_record(snapshot)
        if not record.exists():
            generation = int(count.read_text()) + 1 if count.exists() else 1

            overlay = DiskFile(self._paths.disk(blueprint.id), "qcow2", "pvdisk", generation=generation)

            async def turn(*, ahead: bool = False) -> None:
                if switch is not None:
                    await switch(overlay, ahead=ahead)

            if moment is None:
                await turn()
            else:
                await turn(ahead=True)
                await moment(turn)
            count.write_text(str(generation))
            through = self._paths.disk(blueprint.id).read_text().split()
            if snapshot not in through:
                self._write(blueprint, through := [*through, snapshot])
            self._paths.snapshot(snapshot).mkdir(exist_ok=True)
            part = record.with_suffix(".part")
            facts = {"size": blueprint.spec.disk, "image": blueprint.spec.image, "through": through}
            part.write_text(json.dumps(facts))
            part.rename(record)

    async def revert(self, blueprint: Blueprint, image: Path, snapshot: str) -> None:
        """See Storage."""
        self._write(blueprint, self._check(blueprint, snapshot))

    async def remove_snapshot(self, snapshot: str) -> None:
        """See Storage."""
        shutil.rmtree(self._paths.snapshot(snapshot), ignore_errors=True)

    async def snapshot_size(self, snapshot: str) -> Bytes:
        """See Storage."""
        self._facts(snapshot)
        return Bytes(self._paths.snapshot_record(snapshot).stat().st_size)

    async def compact(self) -> None:
        """See Storage."""

    async def remove(self, id: InstanceId) -> None:
        """See Storage."""
        shutil.rmtree(self._paths.instance(id), ignore_errors=True)

    def disks(self, blueprint: Blueprint, image: Path) -> tuple[DiskFile, ...]:
        """See Storage. There are only the volumes."""
        return tuple(self.volume(disk) for disk in blueprint.disks)

    def volume(self, disk: Disk) -> DiskFile:
        """See Storage."""
        path = self._paths.volume(disk.volume, disk.pool)
        return DiskFile(path, "raw", disk.serial, disk.read_only, bus=disk.bus)

    def pools(self) -> tuple[Pool, ...]:
        """See Storage."""
        return self._media.pools()

    async def create_blank(self, disk: Disk) -> None:
        """See Storage. As a real one makes it: it takes no room."""
        await self._media.blank(disk)

    async def write_volume(self, disk: Disk, at: int, chunks: AsyncIterator[bytes]) -> int:
        """See Storage."""
        return await self._media.put(disk, at, chunks)

    def read_volume(self, disk: Disk, length: int) -> AsyncIterator[bytes]:
        """See Storage."""
        return self._media.read(disk, length)

    async def adopt_volume(self, disk: Disk, file: Path) -> None:
        """See Storage."""
        await self._media.adopt(disk, file)

    def volume_files(self, disk: Disk) -> FakeFiles:
        """See Storage. They are not those that a guest sees."""
        return self._files.setdefault(disk.volume, FakeFiles(disk.size))

    def volume_used(self, disk: Disk) -> Bytes:
        """See Storage."""
        return self._media.used(disk)

    async def copy_volume(self, source: Disk, target: Disk) -> None:
        """See Storage."""
        await self._media.copy(source, target)
        self.volume_files(target).files = dict(self.volume_files(source).files)

    async def receive_volume(self, disk: Disk, chunks: AsyncIterator[bytes], length: int) -> None:
        """See Storage. As a real one takes it."""
        await self._media.receive(disk, chunks, length)

    async def create_volume(self, disk: Disk, archive: Path | None = None) -> None:
        """See Storage. An archive is unpacked, and what was in it is forgotten."""
        if archive is not None:
            with tempfile.TemporaryDirectory() as folder:
                await asyncio.to_thread(unpack, archive, Path(folder), disk.size)
        self._paths.volume(disk.volume, disk.pool).touch()

    async def format_blank(self, disk: Disk) -> None:
        """See Storage. There is no file system in any of them."""

    async def remove_volume(self, volume: str, pool: str = "") -> None:
        """See Storage."""
        self._paths.volume(volume, pool).unlink(missing_ok=True)

    async def resize_volume(self, disk: Disk) -> None:
        """See Storage."""
        if not self._paths.volume(disk.volume, disk.pool).exists():
            raise Invalid("size: the volume has no file", field="size")

    async def sweep(self, known: Collection[InstanceId], volumes: Collection[str], snapshots: Collection[str]) -> None:
        """See Storage."""
        for folder in self._paths.instances.iterdir():
            if folder.name not in known:
                await self.remove(InstanceId(folder.name))
        folders = (self._paths.volumes, *(place.folder for place in self._paths.pools))
        for file in (file for folder in folders for file in folder.iterdir()):
            if file.stem not in volumes or file.suffix != ".raw":
                file.unlink()
        for folder in self._paths.snapshots.iterdir():
            if folder.name not in snapshots:
                await self.remove_snapshot(folder.name)

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
        self.pushed: list[tuple[str, Login | None]] = []
        self.refuse: list[Fault] = []  # what becomes of the next pushes
        self.gate = asyncio.Event()
        self.gate.set()

    async def vet(self, reference: str, *, trusted: bool) -> str:
        """See Images. No registry is known for short names."""
        found = parse_reference(reference)
        if not found.registry and found.short not in ("busybox", "debian-12", "standard", "image-builder"):
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

    async def disk_size(self, path: Path, length: int, at: int = 0) -> Bytes:
        """See Images."""
        return Bytes(disks.virtual_size(path, length, sniff_disk(path, at), Bounds(), at))

    @asynccontextmanager
    async def unpacked(self, path: Path, length: int, at: int = 0) -> AsyncIterator[Path]:
        """See Images, and `gate`. What a qcow2 holds is not looked at: its disk is empty."""
        await self.gate.wait()
        file = self._folder / f"unpacked-{uuid4().hex}"
        try:
            if sniff_disk(path, at) is Form.RAW:
                await asyncio.to_thread(disks.take, path, file, Bounds(), at, length)
            else:
                file.touch()
            os.truncate(file, await self.disk_size(path, length, at))
            yield file
        finally:
            file.unlink(missing_ok=True)

    async def appliance(self, path: Path, length: int) -> Appliance | None:
        """See Images. As a real one reads it."""
        return ova.read(path, length) if ova.is_tar(path) else None

    @asynccontextmanager
    async def packed(self, files: Sequence[Path], about: Appliance | None) -> AsyncIterator[Path]:
        """See Images. Disks are in it as they stand, whatever their form is to be."""
        out = self._folder / f"packed-{uuid4().hex}"
        try:
            if about is None:
                await asyncio.to_thread(copy_sparse, files[0], out)
            else:
                await asyncio.to_thread(ova.write, out, about, [(one, one.stat().st_size) for one in files])
            yield out
        finally:
            out.unlink(missing_ok=True)

    async def vet_target(self, reference: str, *, trusted: bool, insecure: bool) -> str:
        """See Images. Every registry is a public one."""
        found = parse_reference(reference, field="target")
        if not found.registry or found.digest:
            raise Invalid("target: must be a full name with a tag", field="target")
        if insecure and not trusted:
            raise Invalid("insecure: only for registries that the operator names", field="insecure")
        return str(found)

    async def push(self, digest: Digest, target: str, *, trusted: bool, insecure: bool, login: Login | None) -> Sent:
        """See Images. It is told in `pushed`, once `gate` lets it."""
        await self.gate.wait()
        if self.refuse:
            raise self.refuse.pop(0)
        self.pushed.append((target, login))
        return Sent(1, Bytes(1))

    @asynccontextmanager
    async def archived(self, digest: Digest) -> AsyncIterator[Path]:
        """See Images. There is nothing in it."""
        out = self._folder / f"archived-{uuid4().hex}"
        try:
            out.write_bytes(b"")
            yield out
        finally:
            out.unlink(missing_ok=True)

    async def import_archive(self, path: Path, name: str, progress: Progress) -> Image:
        """See Images."""
        return await self.pull(name, progress)

    async def provide(self, source: ImageSource, name: str, progress: Progress) -> Image:
        """See Images. A file is read, a URL is not asked; what they hold is a disk."""
        if source.file:
            await asyncio.to_thread(verify, Path(source.file), source, name)
        digest = Digest(f"sha256:{source.sha256}")
        image = Image(digest, (name,), ImageKind.DISK, ImageState.READY, datetime.now(UTC), Bytes(1), Bytes(1))
        self._known[digest] = image
        progress("made", 1.0)
        return image

    async def contents(self, manifest: bytes) -> Contents:
        """See Images. As a real one reads it."""
        return contents(manifest, Bounds(), architecture())

    async def import_parts(self, place: Path, name: str, progress: Progress) -> Image:
        """See Images. The config is read, the layers are not."""
        raw = (place / "manifest.json").read_bytes()
        parsed = parse_manifest(raw, Bounds())
        about = parse_config((place / parsed.config.hex).read_bytes(), len(parsed.layers), architecture())
        digest = Digest("sha256:" + sha256(raw).hexdigest())
        image = Image(
            digest, (name,), ImageKind.ROOT, ImageState.READY, datetime.now(UTC), Bytes(1), Bytes(1), about.image
        )
        self._known[digest] = image
        progress("made", 1.0)
        return image

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
