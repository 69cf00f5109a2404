"""Extracting a tar stream that a guest wrote, which may be hostile.

Every step of a member's path is opened without following links, from the target directory down, so nothing can be
written outside of it, whatever the stream or the directory holds. What tarfile's `data` filter refuses is left out and
named: devices, links that lead out, set-id bits. (That filter itself is not in every Python that we run on.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Unsafe(Exception):
    """A member that is left out, and why."""


def unpack(stream: IO[bytes], target: Path, rename: str | None) -> list[str]:
    """Extract below `target`, which exists. The first part of every name becomes `rename`; with "" it is taken away,
    None leaves it. What was left out comes back. :raise tarfile.TarError: it is no archive. :raise OSError:"""
    left_out = []
    top = os.open(target, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                try:
                    parts = renamed(parts_of(member.name), rename)
                    if parts or member.isdir():
                        _extract(archive, member, parts, top, rename)
                except Unsafe as reason:
                    left_out.append(f"{member.name}: {reason}")
    finally:
        os.close(top)
    return left_out


def parts_of(name: str) -> list[str]:
    """A member's path. :raise Unsafe: it is absolute or climbs."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise Unsafe("leads out of the directory")
    return parts


def renamed(parts: list[str], rename: str | None) -> list[str]:
    """The path with another first part."""
    if rename is None or not parts:
        return parts
    return [rename, *parts[1:]] if rename else parts[1:]


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str], top: int, rename: str | None) -> None:
    if not parts:  # the target directory itself
        return
    with _opened(top, parts[:-1]) as folder:
        name = parts[-1]
        if member.isdir():
            _make_directory(folder, name, member.mode)
        elif member.isreg():
            _write_file(archive, member, folder, name)
        elif member.issym():
            _check_link(member.linkname, len(parts) - 1)
            _clear(folder, name)
            os.symlink(member.linkname, name, dir_fd=folder)
        elif member.islnk():
            _link(top, renamed(parts_of(member.linkname), rename), folder, name)
        else:
            raise Unsafe("is neither a file, a directory nor a link")


@contextlib.contextmanager
def _opened(top: int, parts: list[str]) -> Iterator[int]:
    """The directory at a path below `top`, made if need be; a link on the way is refused."""
    folder = os.dup(top)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=folder)
            try:
                below = os.open(part, _DIRECTORY, dir_fd=folder)
            except OSError as error:
                raise Unsafe(f"{part} is in the way: {error.strerror}") from error
            os.close(folder)
            folder = below
        yield folder
    finally:
        os.close(folder)


def _make_directory(folder: int, name: str, mode: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    try:
        made = os.open(name, _DIRECTORY, dir_fd=folder)
    except OSError as error:
        raise Unsafe(f"something else is there: {error.strerror}") from error
    try:
        os.fchmod(made, mode & 0o755 | 0o700)
    finally:
        os.close(made)


def _write_file(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
    source = archive.extractfile(member)
    assert source is not None
    _clear(folder, name)
    with os.fdopen(os.open(name, _FILE, 0o600, dir_fd=folder), "wb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
        file.flush()
        os.fchmod(file.fileno(), member.mode & 0o755 | 0o600)
        with contextlib.suppress(OverflowError, ValueError):
            os.utime(file.fileno(), (member.mtime, member.mtime))


def _clear(folder: int, name: str) -> None:
    """What was there makes room, unless it is a directory."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as error:
        raise Unsafe("a directory is there") from error


def _check_link(target: str, depth: int) -> None:
    """:raise Unsafe: the link leads out of the directory, from `depth` steps below it."""
    if target.startswith("/"):
        raise Unsafe(f"links to {target}")
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            raise Unsafe(f"links to {target}")


def _link(top: int, source: list[str], folder: int, name: str) -> None:
    if not source:
        raise Unsafe("links to the directory itself")
    with _opened(top, source[:-1]) as other:
        _clear(folder, name)
        try:
            os.link(source[-1], name, src_dir_fd=other, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            raise Unsafe(f"links to {'/'.join(source)}: {error.strerror}") from error
