"""What the operator says of this dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyvisor.dialects.hanzo.catalog import REGIONS
from polyvisor.model.image import ImageSource


@dataclass(frozen=True, slots=True)
class System:
    """What an `os` is made from: an image that this host knows by name, or a file or URL with a checksum."""

    image: str = ""
    source: ImageSource | None = None


BUILT_IN: Mapping[str, System] = {"debian-12": System("debian-12")}


@dataclass(frozen=True, slots=True)
class Settings:
    """`systems` by the name that a launch gives. `reads` and `writes` are calls a minute, told to every caller, and
    minded when `enforced`. `xterm` is where Debian's `node-xterm` puts its files.
    """

    regions: tuple[str, ...] = REGIONS
    systems: Mapping[str, System] = field(default_factory=lambda: BUILT_IN)
    reads: int = 100
    writes: int = 30
    enforced: bool = False
    xterm: Path = Path("/usr/share/nodejs/xterm")
