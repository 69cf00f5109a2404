"""`Volume`: a disk that outlives the instances it is attached to. `Pool`: where volumes are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import HostId, InstanceId, ProjectId, VolumeId
from polyvisor.model.units import Bytes

DATA = "data"
DEFAULT_POOL = "default"
SECTOR = 512
LONGEST_KIND = 32


class VolumeState(StrEnum):
    """`creating` and `deleting` are swept up after a crash; only `ready` ones can be attached."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


@dataclass(frozen=True, slots=True)
class Volume:
    """`size` is what a guest sees; the file is sparse. `attached` lists the instances that hold it.

    `kind` is "data" for one that was made with a file system, and its owner's word for a medium: one of raw bytes.
    A `read_only` one is never attached writable. `pool` empty: the default one.
    """

    id: VolumeId
    project: ProjectId
    name: str
    size: Bytes
    state: VolumeState
    host: HostId
    created: datetime
    attached: tuple[InstanceId, ...] = ()
    kind: str = DATA
    read_only: bool = False
    pool: str = ""


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """A file or directory in a volume with a file system; `path` begins at its root."""

    path: str
    folder: bool
    size: Bytes


def file_path(text: str) -> str:
    """A path in a volume, from its root. :raise Invalid: it leads elsewhere, or cannot be one."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if (
        ".." in parts
        or not text.isprintable()
        or len(text.encode()) > 4000
        or any(len(p.encode()) > 255 for p in parts)
    ):
        raise Invalid("path: must be printable, without '..', of parts of 255 bytes at most", field="path")
    return "/" + "/".join(parts)


@dataclass(frozen=True, slots=True)
class Pool:
    """A directory that volumes are in, as the operator named it. `number` 0: the default one, the data directory."""

    name: str
    number: int
    path: str
    free: Bytes
    total: Bytes


@dataclass(frozen=True, slots=True)
class PoolRights:
    """What a project may do in a pool: write to the media there, make and remove them. `quota` is how many bytes it and
    the projects below it may have there; 0: no limit."""

    project: ProjectId
    pool: str
    quota: int
    writes: bool
    manages: bool


def check_kind(kind: str) -> str:
    """What a medium may be called. :raise Invalid:"""
    if not 1 <= len(kind) <= LONGEST_KIND or not kind.isprintable() or kind == DATA:
        text = f'kind: must be 1 to {LONGEST_KIND} printable characters, and not "{DATA}"'
        raise Invalid(text, field="kind")
    return kind


def whole_sectors(length: int) -> Bytes:
    """The size of a disk with so many bytes in it."""
    return Bytes(-(-length // SECTOR) * SECTOR)
