"""Sources of builds: a stranger's tar.gz, of which only the few files are read here that say what it is."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from polyvisor.model.build import LONGEST_DOCKERFILE
from polyvisor.model.faults import Invalid
from polyvisor.model.units import GIB, MIB

DOCKERFILE = "Dockerfile"
_LOCKS = frozenset(
    {
        "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lockb", "requirements.txt",
        "poetry.lock", "uv.lock", "Pipfile.lock", "Cargo.lock", "go.sum", "Gemfile.lock", "composer.lock",
    }
)  # fmt: skip
_LARGEST = 16 * GIB  # unpacked
_MOST = 500_000  # members
_LARGEST_LOCK = 64 * MIB


@dataclass(slots=True)
class Source:
    """Its digest, the instructions in it, if they are there, and the digests of files that pin versions."""

    digest: str
    dockerfile: str | None = None
    locks: dict[str, str] = field(default_factory=dict)


class _Plain:
    """What is packed, read forward and in pieces: nothing in it says how much is held in memory."""

    def __init__(self, packed: gzip.GzipFile) -> None:
        self._packed = packed
        self._at = 0

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MIB:
            raise tarfile.ReadError("a header is too large")
        data = self._packed.read(size)
        self._at += len(data)
        if self._at > _LARGEST:
            raise tarfile.ReadError(f"it is larger than {_LARGEST} bytes")
        return data

    def seek(self, to: int) -> int:
        if to < self._at:
            raise tarfile.ReadError("its members overlap")
        while self._at < to and self.read(min(MIB, to - self._at)):
            pass
        return self._at


def look(path: Path) -> Source:
    """Blocking, as long as it takes to unpack it. :raise Invalid: naming `source`."""
    with path.open("rb") as file:
        source = Source("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())
    try:
        with gzip.open(path) as packed, tarfile.open(fileobj=_Plain(packed), mode="r:") as archive:  # type: ignore[call-overload]  # what it reads
            _read(archive, source)
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        raise Invalid(f"source: must be a tar.gz archive: {str(error)[:200]}", field="source") from error
    return source


def _read(archive: tarfile.TarFile, source: Source) -> None:
    count = 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        count += 1
        if count > _MOST:
            raise tarfile.ReadError(f"it has more than {_MOST} members")
        name = member.name.removeprefix("./")
        if not member.isreg() or (name != DOCKERFILE and name not in _LOCKS):
            continue
        if name == DOCKERFILE and member.size > LONGEST_DOCKERFILE:
            raise tarfile.ReadError(f"its {DOCKERFILE} is larger than {LONGEST_DOCKERFILE} bytes")
        if name != DOCKERFILE and member.size > _LARGEST_LOCK:
            continue
        file = archive.extractfile(member)
        assert file is not None  # of a regular member
        if name == DOCKERFILE:
            source.dockerfile = file.read().decode()
            continue
        sum = hashlib.sha256()
        while data := file.read(MIB):
            sum.update(data)
        source.locks[name] = f"sha256:{sum.hexdigest()}"
