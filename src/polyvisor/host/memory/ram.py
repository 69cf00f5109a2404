"""The files in RAM that are the memory of machines which started cold."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from polyvisor.host.paths import RAM_SUFFIX, Paths
from polyvisor.model.ids import InstanceId

_SPARE = 256 * 1024 * 1024  # of the host's RAM that files of it leave free


class RamFiles:
    """One of each such machine, in a directory of tmpfs that is ours alone."""

    def __init__(self, paths: Paths) -> None:
        self._folder = paths.shm
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, id: InstanceId) -> Path:
        """Where a machine's is, if it has one."""
        return self._folder / f"{id}{RAM_SUFFIX}"

    def make(self, id: InstanceId, size: int) -> int:
        """A new one without a page yet; its descriptor is the caller's."""
        fd = os.open(self.path(id), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(fd, size)
        return fd

    def remove(self, id: InstanceId) -> None:
        """Whether or not it is there; who maps it keeps what it has."""
        self.path(id).unlink(missing_ok=True)

    def have_room_for(self, size: int) -> bool:
        """tmpfs that is full kills whoever writes to it, so what may be written one day is counted, not what was."""
        self._folder.mkdir(mode=0o700, exist_ok=True)  # whoever cleans up there takes it away
        usage = os.statvfs(self._folder)
        files = [path.stat() for path in self._folder.iterdir()]
        promised = sum(max(0, file.st_size - file.st_blocks * 512) for file in files)
        return promised + size + _SPARE <= usage.f_bavail * usage.f_frsize

    def sweep(self, named: Collection[str]) -> None:
        """Remove those of no such instance and no such image."""
        for path in self._folder.iterdir():
            if path.name.removesuffix(RAM_SUFFIX) not in named:
                path.unlink(missing_ok=True)
