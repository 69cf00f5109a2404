"""A tar archive unpacked for a volume: names, links and sizes are a stranger's: nothing leads out of the folder.

Each step on the way to a member is looked at before it is taken, and none is a link; what a link of the archive leads
to is the guest's business and is never looked at here.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyvisor.model.faults import Invalid

_ENTRIES = 500_000
_PIECE = 1024 * 1024
_LONGEST = 4096
_MODE = 0o7777


@dataclass(slots=True)
class _Room:
    """What may still come."""

    bytes: int
    entries: int = _ENTRIES

    def take(self, size: int) -> None:
        """:raise Invalid: it is more than there is room for."""
        self.bytes -= size
        self.entries -= 1
        if self.bytes < 0 or self.entries < 0:
            raise Invalid("archive: there is more in it than fits into the volume", field="archive")


def unpack(archive: Path, folder: Path, room: int) -> None:
    """Unpack a tar archive, compressed or not, into an empty folder. Owners are kept where we are root.

    :raise Invalid: it is none, or a member would land elsewhere, is a device, or does not fit into `room` bytes.
    """
    left, owners = _Room(room), os.geteuid() == 0
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    try:
        with tarfile.open(archive) as members:
            for member in members:
                path = _place(folder, member.name)
                left.take(member.size if member.isreg() else 0)
                if path is not None:
                    _make(members, member, folder, path)
                    if member.isdir():
                        folders.append((path, member))
                    else:
                        _dress(path, member, owners=owners)
    except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as error:
        raise Invalid("archive: cannot be read as a tar archive", field="archive", private=str(error)) from error
    except ValueError as error:
        raise Invalid(f"archive: {error}", field="archive") from error
    for path, member in reversed(folders):  # the innermost first: one that may not be entered is dressed last
        _dress(path, member, owners=owners)


def _place(folder: Path, name: str) -> Path | None:
    """Where a member goes; None: it is the folder itself. Its parents are made. :raise Invalid: it would lead out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name or len(name) > _LONGEST:
        raise Invalid(f"archive: {name[:80]!r} would land elsewhere", field="archive")
    if not parts:
        return None
    here = folder
    for part in parts[:-1]:
        here /= part
        if not here.is_symlink() and not here.exists():
            here.mkdir(mode=0o755)
        if here.is_symlink() or not here.is_dir():
            raise Invalid(f"archive: {name[:80]!r} goes through what is no directory", field="archive")
    return here / parts[-1]


def _make(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path, path: Path) -> None:
    there = path.lstat() if path.is_symlink() or path.exists() else None
    if there is not None and stat.S_ISDIR(there.st_mode) != member.isdir():
        raise Invalid(f"archive: {member.name[:80]!r} is there twice, once as a directory", field="archive")
    if there is not None and not member.isdir():
        path.unlink()
    if member.isdir():
        path.mkdir(mode=0o700, exist_ok=True)
    elif member.isreg():
        with path.open("xb") as file:
            for piece in _content(members, member):
                file.write(piece)
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        target = _place(folder, member.linkname)
        if target is None or target.is_symlink() or not target.is_file():
            raise Invalid(f"archive: {member.name[:80]!r} is a link to what is not in it", field="archive")
        os.link(target, path)
    else:
        raise Invalid(f"archive: {member.name[:80]!r} is a device or the like", field="archive")


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    source = members.extractfile(member)
    while source is not None and (piece := source.read(_PIECE)):
        yield piece


def _dress(path: Path, member: tarfile.TarInfo, *, owners: bool) -> None:
    """Owner, mode and time."""
    if owners:
        os.lchown(path, member.uid & 0xFFFFFFFF, member.gid & 0xFFFFFFFF)
    if not member.issym():
        path.chmod(member.mode & _MODE)
        moment = min(max(0.0, float(member.mtime)), 2.0**33)
        os.utime(path, (moment, moment))
