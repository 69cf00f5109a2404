"""cp: files and directories into a guest and out of it, with `docker cp`'s rules for what ends up where.

`-` is a tar stream on stdin or stdout. A single file goes as its bytes, whole or not at all; a directory as a tar.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, TypeVar

import typer

from polyvisor.cli import show, terminal
from polyvisor.cli.session import talk
from polyvisor.cli.unpack import unpack

if TYPE_CHECKING:
    from polyvisor.client import Client

T = TypeVar("T")
_CHUNK = 256 * 1024


class Misplaced(Exception):
    """What was named cannot be copied there."""


def cp(
    source: Annotated[str, typer.Argument(metavar="SRC", help="N:/path, a local path, or - for a tar on stdin.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="N:/path, a local path, or - for a tar on stdout.")],
) -> None:
    """Copy files between here and an instance. One of SRC and DST is N:/path.

    An existing directory as DST is copied into; SRC ending in `/.` means what is in the directory.
    """
    far_source, far_target = _split(source), _split(target)
    if (far_source is None) == (far_target is None):
        raise typer.BadParameter("one of SRC and DST must be N:/path, and the other a local path", param_hint="SRC")

    async def work(client: Client) -> int:
        try:
            if far_source is not None:
                return await _out(client, *far_source, target)
            assert far_target is not None
            await _in(client, source, *far_target)
            return 0
        except (Misplaced, OSError, tarfile.TarError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            show.remark(f"error: {error}")
            return 1

    talk(work)


def _split(text: str) -> tuple[str, str] | None:
    """Name and path of `N:/path`; None for a local one. A local path with a colon is written `./a:b`."""
    name, colon, path = text.partition(":")
    if not colon or not name or "/" in name or name.startswith("."):
        return None
    return name, "/" + path.lstrip("/")


# -- out of a guest --------------------------------------------------------------------------------------------------


async def _out(client: Client, name: str, path: str, target: str) -> int:
    if target == "-":
        async for chunk in client.files.read_tar(name, path):
            show.raw(1, chunk)
        return 0
    stat = await client.files.stat(name, _base(path))
    if not stat.exists:
        raise Misplaced(f"{name}:{path} does not exist")
    place = Path(target)
    if stat.kind == "file":
        if place.is_dir():
            place = place / path.rstrip("/").rsplit("/", 1)[-1]
        elif target.endswith("/"):
            raise Misplaced(f"{target} is not a directory")
        await _fetch(client.files.read(name, path), place, stat.mode, stat.mtime)
        return 0
    if stat.kind != "directory":
        raise Misplaced(f"{name}:{path} is a {stat.kind}")
    return await _fetch_tree(client, name, path, place)


def _base(path: str) -> str:
    """The path of the directory that `/.` means the contents of."""
    return path.removesuffix("/.").rstrip("/") or "/"


async def _fetch(chunks: AsyncIterator[bytes], place: Path, mode: int, mtime: float) -> None:
    """Beside its place first, so that what was there is replaced as a whole or not at all."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            async for chunk in chunks:
                file.write(chunk)
            os.fchmod(file.fileno(), mode & 0o755 or 0o644)
        os.utime(part, (mtime, mtime))
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


async def _fetch_tree(client: Client, name: str, path: str, place: Path) -> int:
    contents = path.endswith("/.") or path == "/"
    if place.exists() and not place.is_dir():
        raise Misplaced(f"{place} is not a directory, {name}:{path} is one")
    into, rename = place, None
    if contents or not place.exists():
        rename = ""
        place.mkdir(exist_ok=True)
    base = _base(path)
    if base == "/":
        rename = None  # its members have no common first part
    left_out = await _piped_out(client.files.read_tar(name, base), lambda stream: unpack(stream, into, rename))
    for text in left_out:
        show.remark(f"left out: {text}")
    return 1 if left_out else 0


async def _piped_out(chunks: AsyncIterator[bytes], reader: Callable[[IO[bytes]], T]) -> T:
    """Run a blocking reader in a thread on a stream that comes in here."""
    out, into = os.pipe()

    def read() -> T:
        with os.fdopen(out, "rb") as stream:
            found = reader(stream)
            while stream.read(_CHUNK):  # what follows the end of an archive is padding
                pass
            return found

    reading = asyncio.create_task(asyncio.to_thread(read))
    # A broken pipe: the reader gave up, and says why.
    with contextlib.suppress(BrokenPipeError), os.fdopen(into, "wb", buffering=0) as sink:
        async for chunk in chunks:
            await asyncio.to_thread(_write_all, sink.fileno(), chunk)
    return await reading


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


# -- into a guest ----------------------------------------------------------------------------------------------------


async def _in(client: Client, source: str, name: str, path: str) -> None:
    if source == "-":
        await client.files.write_tar(name, path, terminal.typed())
        return
    here = Path(source)
    if not here.exists() and not here.is_symlink():
        raise Misplaced(f"{source} does not exist")
    there = await client.files.stat(name, path)
    contents = source.endswith("/.") or source == "."
    own = here.resolve().name
    if here.is_dir():
        if there.exists and there.kind != "directory":
            raise Misplaced(f"{name}:{path} is a {there.kind}, {source} is a directory")
        if there.exists:
            packed = _piped_in(lambda sink: _pack(sink, here, "" if contents else own))
        else:
            path, _, own = path.rstrip("/").rpartition("/")
            packed = _piped_in(lambda sink: _pack(sink, here, own))
        await client.files.write_tar(name, path or "/", packed)
        return
    if there.exists and there.kind == "directory":
        path = f"{path.rstrip('/')}/{own if not here.is_symlink() else here.name}"
    elif path.endswith("/"):
        raise Misplaced(f"{name}:{path} is not a directory")
    if not here.is_file():
        raise Misplaced(f"{source} is neither a file nor a directory")
    await client.files.write(name, path, _bytes_of(here), mode=here.stat().st_mode & 0o777)


async def _bytes_of(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as opened:
        while data := await asyncio.to_thread(opened.read, _CHUNK):
            yield data


def _pack(sink: IO[bytes], folder: Path, prefix: str) -> None:
    """The directory as a tar whose members are below `prefix`; without one, only what is in it."""
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        if prefix:
            archive.add(folder, arcname=prefix, filter=_as_root)
        else:
            for entry in sorted(folder.iterdir()):
                archive.add(entry, arcname=entry.name, filter=_as_root)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Our numbers mean nothing in the guest."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


async def _piped_in(writer: Callable[[IO[bytes]], None]) -> AsyncIterator[bytes]:
    """What a blocking writer writes in a thread."""
    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as sink:
            writer(sink)

    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        with os.fdopen(out, "rb", buffering=0) as source:
            while data := await asyncio.to_thread(source.read, _CHUNK):
                yield data
    finally:
        with contextlib.suppress(BrokenPipeError):
            await writing


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(cp)
