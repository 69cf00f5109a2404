"""How images of memory are packed to take less of the disk, and what has become of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.units import Bytes, Seconds

MAX_DELAY = Seconds(7 * 86400.0)
DEFAULT_WORD = "default"  # what callers say to have the server's own choice back
_TEXT = re.compile(r"(none|zstd|lz4)(?::([0-9]{1,2}))?")


class Algorithm(StrEnum):
    """`none`: as it is."""

    NONE = "none"
    ZSTD = "zstd"
    LZ4 = "lz4"


LEVELS = {Algorithm.NONE: range(1), Algorithm.ZSTD: range(1, 20), Algorithm.LZ4: range(10)}
"""The levels of each; the first is what is meant where none is said."""


@dataclass(frozen=True, slots=True)
class Compression:
    """`level` is the tool's own scale."""

    algorithm: Algorithm = Algorithm.NONE
    level: int = 0

    def __bool__(self) -> bool:
        return self.algorithm is not Algorithm.NONE

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.level}" if self else str(self.algorithm)


@dataclass(frozen=True, slots=True)
class Packing:
    """What is to be done with an image once it is on disk, and how long after that."""

    compression: Compression = Compression()
    delay: Seconds = Seconds(0.0)


AS_IT_IS = Packing()


class PackState(StrEnum):
    """Where it stands. `compressing` is also one that waits for its turn, or was put off by somebody who needed it."""

    NONE = "none"
    COMPRESSING = "compressing"
    COMPRESSED = "compressed"
    ERROR = "error"  # it stays as it was; `error` says why


@dataclass(frozen=True, slots=True)
class Packed:
    """What has become of an image. `packed` and `plain` are bytes of its pages, 0 while nobody has counted them."""

    state: PackState = PackState.NONE
    error: str = ""
    packed: Bytes = Bytes(0)
    plain: Bytes = Bytes(0)


def compression(algorithm: Algorithm, level: int | None = None, field: str = "compression") -> Compression:
    """With the algorithm's own first level where none is said. :raise Invalid: naming `field`."""
    levels = LEVELS[algorithm]
    if level is None:
        return Compression(algorithm, levels[0])
    if algorithm is Algorithm.NONE or level not in levels:
        allowed = "takes no level" if algorithm is Algorithm.NONE else f"takes levels {levels[0]} to {levels[-1]}"
        raise Invalid(f"{field}: {algorithm} {allowed}", field=field)
    return Compression(algorithm, level)


def parse_compression(text: str, field: str = "compression") -> Compression:
    """`none`, `zstd`, `zstd:3`, `lz4:9`. :raise Invalid: naming `field`."""
    match = _TEXT.fullmatch(text)
    if not match:
        raise Invalid(f"{field}: {text[:40]!r} is not none, zstd[:1-19] or lz4[:0-9]", field=field)
    return compression(Algorithm(match[1]), int(match[2]) if match[2] else None, field)


def check_delay(delay: Seconds, field: str = "compression_delay") -> Seconds:
    """:raise Invalid: naming `field`."""
    if not 0 <= delay <= MAX_DELAY:
        raise Invalid(f"{field}: must be between 0 and 7 days", field=field)
    return delay
