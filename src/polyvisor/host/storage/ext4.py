"""Files of a volume that no machine has: read and written by e2fsprogs, in a jail (ADR 48).

What is in the volume was written by a guest, so the tools run as nobody, without a network, and what they say of a name
is believed as far as it goes. Their requests are texts, in which a name is quoted; one that cannot be is refused.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from polyvisor.host.run import Completed, Limits, run
from polyvisor.model.faults import Internal, Invalid, NoCapacity, NotFound
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import VolumeFile, file_path

JAIL_UID = 199_999  # beside those of machines
_LIMIT = 120.0
_DEEPEST = 64
_LIMITS = Limits(cpu_seconds=120, address_space=4 * GIB, no_network=True, uid=JAIL_UID)
_ENTRY = re.compile(r"/(\d+)/(\d+)/\d+/\d+/([^/\n]+)/(\d*)/")
_FOLDER, _FILE = 0o040000, 0o100000
_PART = ".polyvisor-part"


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: int
    size: int


class Ext4:
    """The file system in a file that nobody else writes to meanwhile."""

    def __init__(self, image: Path) -> None:
        self._image = image

    async def list(self, folder: str, *, deep: bool, most: int) -> list[VolumeFile]:
        """The files and directories in a directory, and below it. :raise NotFound: :raise Invalid: it is damaged."""
        found: list[VolumeFile] = []
        waiting = [file_path(folder)]
        async with self._opened() as image:
            while waiting and len(found) < most:
                here = waiting.pop(0)
                for entry in await self._entries(image, here):
                    if entry.name == _PART:  # of a server that died over it
                        continue
                    path = f"{here.rstrip('/')}/{entry.name}"
                    found.append(VolumeFile(path, entry.kind == _FOLDER, Bytes(entry.size)))
                    if deep and entry.kind == _FOLDER and path.count("/") < _DEEPEST:
                        waiting.append(path)
        return found[:most]

    async def read(self, path: str, most: int) -> bytes:
        """A file. :raise NotFound: :raise Invalid: it is none, or larger than `most` bytes."""
        path = file_path(path)
        async with self._opened() as image:
            entry = await self._entry(image, path)
            if entry is None or entry.kind != _FILE:
                raise NotFound(f"path: there is no file {path[:200]}", field="path", subject=path)
            if entry.size > most:
                raise Invalid(f"path: {path[:200]} is larger than {most} bytes", field="path")
            done = await self._ask(image, f"cat {_quoted(path)}", most=most + 4096)
        if len(done.out) != entry.size:
            raise Invalid("volume: its file system is damaged", field="volume", private=_text(done.err))
        return done.out

    async def write(self, path: str, source: Path) -> None:
        """What is in a file of ours, as a file; another of that name goes. Its directories are made.

        :raise NoCapacity: it does not fit. :raise Invalid: the place is a directory, or below a file.
        """
        path = file_path(path)
        folder, _, name = path.rpartition("/")
        if not name:
            raise Invalid("path: must name a file", field="path")
        size = source.stat().st_size
        async with self._opened() as image, _lent(source, os.O_RDONLY) as data:
            await self._folders(image, folder)
            there = await self._entry(image, path)
            if there is not None and there.kind != _FILE:
                raise Invalid(f"path: {path[:200]} is a directory", field="path")
            part = f"{folder}/{_PART}"
            await self._ask(image, f"rm {_quoted(part)}", write=True)
            done = await self._ask(image, f"write /proc/self/fd/{data} {_quoted(part)}", write=True, more=[data])
            made = await self._entry(image, part)
            if made is None or made.size != size or b"allocat" in done.err or b"No space" in done.err:
                await self._ask(image, f"rm {_quoted(part)}", write=True)
                raise NoCapacity("the volume is full", field="path", private=_text(done.err))
            if there is not None:
                await self._ask(image, f"rm {_quoted(path)}", write=True)
            await self._ask(image, f"ln {_quoted(part)} {_quoted(path)}", write=True)  # neither counts links
            await self._ask(image, f"unlink {_quoted(part)}", write=True)
            if await self._entry(image, path) is None:
                raise Internal(private=f"{path}: it is not there after it was written")

    async def remove(self, path: str) -> None:
        """A file, or a directory that is empty. :raise NotFound: :raise Invalid: a directory that is not."""
        path = file_path(path)
        async with self._opened() as image:
            entry = await self._entry(image, path)
            if entry is None:
                raise NotFound(f"path: there is no {path[:200]}", field="path", subject=path)
            verb = "rmdir" if entry.kind == _FOLDER else "rm"
            await self._ask(image, f"{verb} {_quoted(path)}", write=True)
            if await self._entry(image, path) is not None:
                raise Invalid(f"path: {path[:200]} is not empty", field="path")

    async def used(self) -> Bytes:
        """What files take of its room."""
        async with self._opened() as image:
            done = await run(
                ["dumpe2fs", "-h", f"/proc/self/fd/{image}"], timeout=_LIMIT, limits=_LIMITS, fds=[image], check=False
            )
        facts = dict(
            re.findall(r"^(Block count|Free blocks|Overhead clusters|Block size): +(\d+)$", _text(done.out), re.M)
        )
        if facts.keys() < {"Block count", "Free blocks", "Block size"}:
            raise Invalid("volume: its file system is damaged", field="volume", private=_text(done.err))
        taken = int(facts["Block count"]) - int(facts["Free blocks"]) - int(facts.get("Overhead clusters", 0))
        return Bytes(max(0, taken) * int(facts["Block size"]))

    # -- tools -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[int]:
        """Its descriptor, once what a guest left half done is finished. :raise Invalid: it is damaged."""
        async with _lent(self._image, os.O_RDWR) as image:
            argv = ["e2fsck", "-p", f"/proc/self/fd/{image}"]
            done = await run(argv, timeout=_LIMIT, limits=_LIMITS, fds=[image], check=False)
            if done.code not in (0, 1):
                raise Invalid("volume: its file system is damaged", field="volume", private=_text(done.out + done.err))
            yield image

    async def _folders(self, image: int, folder: str) -> None:
        parts = folder.split("/")[1:]
        for end in range(1, len(parts) + 1):
            here = "/" + "/".join(parts[:end])
            entry = await self._entry(image, here)
            if entry is None:
                await self._ask(image, f"mkdir {_quoted(here)}", write=True)
            elif entry.kind != _FOLDER:
                raise Invalid(f"path: {here[:200]} is a file", field="path")

    async def _entry(self, image: int, path: str) -> _Entry | None:
        folder, _, name = path.rpartition("/")
        if not name:
            return _Entry("", _FOLDER, 0)
        try:
            found = await self._entries(image, folder or "/")
        except NotFound:
            return None
        return next((one for one in found if one.name == name), None)

    async def _entries(self, image: int, folder: str) -> Sequence[_Entry]:
        """:raise NotFound: there is no such directory."""
        done = await self._ask(image, f"ls -p {_quoted(folder)}")
        if b"not found" in done.err or b"not a directory" in done.err:
            raise NotFound(f"path: there is no directory {folder[:200]}", field="path", subject=folder)
        found = []
        for line in done.out.decode("utf-8", "replace").splitlines():
            if (entry := _ENTRY.fullmatch(line)) is None or entry[3] in (".", "..", "lost+found"):
                continue
            found.append(_Entry(entry[3], int(entry[2], 8) & 0o170000, int(entry[4] or 0)))
        if not done.out and done.err.count(b"\n") > 1:  # its first line is the program's name
            raise Invalid("volume: its file system is damaged", field="volume", private=_text(done.err))
        return found

    async def _ask(
        self, image: int, request: str, *, write: bool = False, most: int = 8 << 20, more: Sequence[int] = ()
    ) -> Completed:
        argv = ["debugfs", *(["-w"] if write else []), "-R", request, f"/proc/self/fd/{image}"]
        return await run(argv, timeout=_LIMIT, limits=_LIMITS, fds=[image, *more], max_output=most, check=False)


def _quoted(path: str) -> str:
    """As one word of a request."""
    return '"' + path.replace('"', '""') + '"'


def _text(said: bytes) -> str:
    return said[-2000:].decode("utf-8", "replace")


@asynccontextmanager
async def _lent(path: Path, how: int) -> AsyncIterator[int]:
    """A descriptor of a file that the jail's user may open again."""
    fd = await asyncio.to_thread(os.open, path, how | os.O_CLOEXEC)
    mine = os.geteuid() == 0
    was = os.fstat(fd)
    try:
        if mine:
            os.fchown(fd, JAIL_UID, JAIL_UID)
        yield fd
    finally:
        if mine:
            os.fchown(fd, was.st_uid, was.st_gid)
        os.close(fd)
