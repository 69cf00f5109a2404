"""`Bounds`: how much an image may ask of a host before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from polyvisor.model.faults import Invalid
from polyvisor.model.units import GIB, MIB, TIB

DOCUMENT = 4 * MIB
"""A manifest or config larger than this is refused; registries refuse such manifests as well."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """`content` is the unpacked size of all layers together, or of a disk image's file; `disk` what a guest sees.

    `entries` and `metadata` (the bytes of names, link targets and attributes) bound what is held in memory.
    """

    content: int = 32 * GIB
    disk: int = 2 * TIB
    entries: int = 500_000
    metadata: int = 128 * MIB
    layers: int = 256
    snapshots: int = 0

    def check(self, name: str, value: int, most: int) -> None:
        """:raise Invalid: when `value` is over `most`."""
        if value > most:
            raise Invalid(f"image: {name} is {value}, more than the {most} allowed here", field="image")
