"""What becomes of an instance when its lifetime is over, or when its owner ends it."""

from __future__ import annotations

from dataclasses import dataclass

from polyvisor.model.ids import check_name


@dataclass(frozen=True, slots=True)
class Ending:
    """`suspend`: it goes into standby at the end of its lifetime, and is not deleted. `snapshot`: before it is deleted
    a snapshot of its disk is taken, of that `name` where there is one."""

    suspend: bool = False
    snapshot: bool = False
    name: str = ""


def check_ending(ending: Ending) -> None:
    """:raise Invalid: no snapshot can be called so."""
    if ending.name:
        check_name(ending.name, "ending.name")
