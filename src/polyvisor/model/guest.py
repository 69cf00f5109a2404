"""What passes between us and the agent inside a guest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from polyvisor.model.instance import Address
from polyvisor.model.units import Seconds


@dataclass(frozen=True, slots=True)
class Exec:
    """A command to run. `tty` gives it a terminal of `cols` × `rows`; `timeout` ends it."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | None = None
    user: str | None = None
    tty: bool = False
    cols: int = 80
    rows: int = 24
    timeout: Seconds | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended: by itself with a code, by a signal, or at its time limit. `cpu` is what it has used of
    processors, where that is known."""

    code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    cpu: Seconds | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command said: `fd` 1 or 2."""

    fd: int
    data: bytes


@dataclass(frozen=True, slots=True)
class FileStat:
    """What lies at a path; `kind` is file, directory, link, or another word of stat(2)."""

    exists: bool
    kind: str = ""
    mode: int = 0
    size: int = 0
    mtime: float = 0.0
    uid: int = 0
    gid: int = 0
    target: str = ""


class Change(StrEnum):
    """What is done to one name: `to` is an octal mode, a path, `uid:gid`, `accessed:modified` in seconds, or a size.

    A `rename` never takes the place of what is there, a `replace` does.
    """

    MKDIR = "mkdir"
    RMDIR = "rmdir"
    UNLINK = "unlink"
    RENAME = "rename"
    REPLACE = "replace"
    SYMLINK = "symlink"
    CHMOD = "chmod"
    CHOWN = "chown"
    UTIME = "utime"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a copy of a running guest is from now on; what is None or empty stays as it was copied.

    `machine_id` is 32 hexadecimal digits. `seed` is 32 bytes or more that no other copy is given: without it two copies
    draw the same random numbers, so the same keys.
    """

    hostname: str | None = None
    machine_id: str | None = None
    address: Address | None = None
    seed: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One record of a workload's journal; `at` is the guest's clock in Unix seconds."""

    at: float
    stream: Literal["start", "stdout", "stderr", "exit"]
    data: bytes = b""
    code: int | None = None
    signal: int | None = None
