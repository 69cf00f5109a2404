"""How much of their memory guests lend the host: pure arithmetic.

assigned    what an instance was created with, or what its owner leaves it of that
floor       what it keeps, whatever the host needs
target      what it is asked to get along with: between the two, and `assigned` unless the host needs something
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import InstanceId
from polyvisor.model.units import MIB, Bytes, Seconds

DEFAULT_HOLD = Seconds(300.0)
MAX_HOLD = Seconds(3600.0)
MAX_REASON = 256
DEFAULT_FLOOR = 50  # per cent
OVER = 1.5  # pressure that begins below a threshold is over at that many times it
_SHARE = 4  # of what is lent, so much goes back in each step: a flood of returning memory would be the next pressure
_LEAST = Bytes(64 * MIB)


class Pressure(StrEnum):
    """How the host's memory is, as far as the settings say what is too little."""

    HEALTHY = "healthy"
    PRESSURE = "pressure"


class Outcome(StrEnum):
    """What became of one guest's share."""

    PLANNED = "planned"  # only asked what would be done
    APPLIED = "applied"
    UNCHANGED = "unchanged"
    UNSUPPORTED = "unsupported"  # its machine has no balloon
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Policy:
    """`below`: bytes of available memory under which the host is under pressure, 0 for never. `floor` in per cent."""

    below: Bytes = Bytes(0)
    floor: int = DEFAULT_FLOOR

    @property
    def over(self) -> Bytes:
        """From so much available memory on, the pressure is over."""
        return Bytes(int(self.below * OVER))

    def keeps(self, assigned: Bytes) -> Bytes:
        """The floor of an instance, in whole MiB."""
        return Bytes(min(assigned, -(-assigned * self.floor // 100 // MIB) * MIB))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator asks for. All of it is lent again when `hold` seconds are over."""

    bytes: Bytes
    hold: Seconds = DEFAULT_HOLD
    dry_run: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One guest's share of a reclaim; sizes in bytes. `target` is what it is asked to get along with from now on."""

    id: InstanceId
    name: str
    assigned: Bytes
    floor: Bytes
    previous: Bytes
    planned: Bytes
    target: Bytes
    outcome: Outcome
    error: str = ""

    @property
    def applied(self) -> Bytes:
        """What it lends, of what was planned for it."""
        return Bytes(self.assigned - self.target)


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What became of a reclaim. `hold_until` None: nothing is held."""

    requested: Bytes
    planned: Bytes
    applied: Bytes
    hold_until: datetime | None
    available: Bytes
    pressure: Pressure
    actions: Sequence[Action] = field(default=())


def check_wanted(wanted: Wanted) -> None:
    """:raise Invalid: naming the first field that is wrong."""
    if wanted.bytes < 0:
        raise Invalid("bytes: must not be negative", field="bytes")
    if not 0 < wanted.hold <= MAX_HOLD:
        raise Invalid("hold: must be more than 0 seconds and at most an hour", field="hold")
    if len(wanted.reason) > MAX_REASON or "\0" in wanted.reason:
        raise Invalid(f"reason: has at most {MAX_REASON} characters, none of them NUL", field="reason")


def targets(assigned: Sequence[Bytes], wanted: int, policy: Policy) -> list[Bytes]:
    """What each guest is asked to get along with, so that they lend `wanted` bytes together if they have so much above
    their floors: each in proportion to that, in whole MiB, rounded so that together it is not less than wanted."""
    spare = [size - policy.keeps(size) for size in assigned]
    total, found = sum(spare), []
    left = min(max(0, wanted), total)
    for size, most in zip(assigned, spare, strict=True):
        share = min(most, -(-left * most // total // MIB) * MIB) if total else 0
        left, total = max(0, left - share), total - most
        found.append(Bytes(size - share))
    return found


def next_lent(lent: int, available: int, most: int, policy: Policy) -> int:
    """How much is lent after the next step. Below the threshold so much more that the pressure would be over; in
    between it stays; once it is over, part after part goes back."""
    if not policy.below:
        return 0
    if available < policy.below:
        return min(most, lent + policy.over - available)
    if available < policy.over:
        return min(most, lent)
    return max(0, min(most, lent) - max(_LEAST, lent // _SHARE))
