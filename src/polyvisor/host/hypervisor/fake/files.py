"""The files of the fake storage's volumes, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyvisor.model.faults import Invalid, NoCapacity, NotFound
from polyvisor.model.units import Bytes
from polyvisor.model.volume import VolumeFile, file_path


class FakeFiles:
    """See ports.volumes.VolumeFiles. A directory is there while something is in it."""

    def __init__(self, size: Bytes) -> None:
        self.size = size
        self.files: dict[str, bytes] = {}

    async def list(self, folder: str, *, deep: bool, most: int) -> Sequence[VolumeFile]:
        """See VolumeFiles."""
        below = file_path(folder).rstrip("/") + "/"
        found: dict[str, VolumeFile] = {}
        for path, data in sorted(self.files.items()):
            if not path.startswith(below):
                continue
            parts = path[len(below) :].split("/")
            for end in range(1, len(parts) + 1 if deep else 2):
                here = below + "/".join(parts[:end])
                is_folder = end < len(parts)
                found[here] = VolumeFile(here, is_folder, Bytes(0 if is_folder else len(data)))
        if not found and below != "/":
            raise NotFound(f"path: there is no directory {folder[:200]}", field="path", subject=folder)
        return list(found.values())[:most]

    async def read(self, path: str, most: int) -> bytes:
        """See VolumeFiles."""
        path = file_path(path)
        if path not in self.files:
            raise NotFound(f"path: there is no file {path[:200]}", field="path", subject=path)
        if len(self.files[path]) > most:
            raise Invalid(f"path: {path[:200]} is larger than {most} bytes", field="path")
        return self.files[path]

    async def write(self, path: str, source: Path) -> None:
        """See VolumeFiles."""
        path = file_path(path)
        if any(name.startswith(f"{path}/") for name in self.files):
            raise Invalid(f"path: {path[:200]} is a directory", field="path")
        data = source.read_bytes()
        if await self.used() - len(self.files.get(path, b"")) + len(data) > self.size:
            raise NoCapacity("the volume is full", field="path")
        self.files[path] = data

    async def remove(self, path: str) -> None:
        """See VolumeFiles."""
        path = file_path(path)
        if any(name.startswith(f"{path}/") for name in self.files):
            raise Invalid(f"path: {path[:200]} is not empty", field="path")
        if self.files.pop(path, None) is None:
            raise NotFound(f"path: there is no {path[:200]}", field="path", subject=path)

    async def used(self) -> Bytes:
        """See VolumeFiles."""
        return Bytes(sum(map(len, self.files.values())))
