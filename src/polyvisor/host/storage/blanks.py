"""Empty ext4 file systems: one per size that overlays share, and one of its own for each volume."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from polyvisor.host.durable import full
from polyvisor.host.paths import Paths
from polyvisor.host.run import run
from polyvisor.host.storage.files import sparse
from polyvisor.model.faults import Internal

_LIMIT = 60.0
_FILL_LIMIT = 600.0


class Blanks:
    """Made when first asked for, and kept."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._making = asyncio.Lock()

    def path(self, size: int, holds: Sequence[int] = ()) -> Path:
        """Where the one of that size is, which holds others of those sizes."""
        return self._paths.blanks / f"ext4-{'+'.join(map(str, (size, *holds)))}.raw"

    async def make(self, size: int, holds: Sequence[int] = ()) -> Path:
        """An empty ext4 file system of that size, made once and shared by all overlays. `holds`: the sizes of others,
        which are files in it, `overlays/0` and so on."""
        path = self.path(size, holds)
        async with self._making:
            if path.exists():
                return path
            for other in set(holds):
                if not self.path(other).exists():
                    await format_ext4(self.path(other), other)
            await (self._with(path, size, holds) if holds else format_ext4(path, size))
        return path

    async def _with(self, path: Path, size: int, holds: Sequence[int]) -> None:
        with tempfile.TemporaryDirectory(prefix="making-", dir=self._paths.blanks) as name:
            folder = Path(name) / "overlays"
            folder.mkdir(mode=0o700)
            for number, other in enumerate(holds):
                os.link(self.path(other), folder / str(number))
            await format_ext4(path, size, Path(name))

    def tidy(self) -> None:
        """Half-made ones are gone."""
        for file in self._paths.blanks.glob("*.part"):
            file.unlink(missing_ok=True)
        for folder in self._paths.blanks.glob("making-*"):
            shutil.rmtree(folder, ignore_errors=True)


async def format_ext4(path: Path, size: int, folder: Path | None = None) -> None:
    """A sparse file with an empty ext4, or one with what is in a folder; hole punching leaves the inode tables zeroed,
    so no guest need do it.

    :raise NoCapacity: the host's file system is full, or cannot hold a file of that size.
    """
    part = path.with_suffix(".part")
    options = ["-m", "0", "-E", "lazy_itable_init=0,root_owner=0:0"]
    if folder is not None:
        options += ["-d", str(folder)]
    try:
        await asyncio.to_thread(sparse, part, size)
        limit = _LIMIT if folder is None else _FILL_LIMIT
        await run(["mke2fs", "-q", "-F", "-t", "ext4", *options, str(part)], timeout=limit)
    except (OSError, Internal) as error:
        part.unlink(missing_ok=True)
        raise full(error) from error
    part.rename(path)
