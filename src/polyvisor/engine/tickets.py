"""Tickets: whoever has one may connect to one machine, once and soon, and shows no other credential."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from polyvisor.model.faults import Busy, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.principal import SYSTEM, Principal
from polyvisor.model.units import Seconds

LIFE = Seconds(60.0)
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """Lets whoever has it connect once, within `life` seconds."""

    text: str
    life: Seconds


class Tickets:
    """In memory only: one that is lost is asked for again. Kept by hash, with for whom and for which machine."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._held: dict[bytes, tuple[Principal, InstanceId, float]] = {}  # the end of its life last; oldest first

    def give(self, principal: Principal, id: InstanceId) -> Ticket:
        """A ticket of its own. :raise Busy: there are too many."""
        now = self._clock()
        for old in [old for old, (_, _, end) in self._held.items() if end <= now]:
            del self._held[old]
        if len(self._held) >= _MOST:
            raise Busy("there are too many tickets that nobody has used", retry_after=LIFE)
        text = secrets.token_urlsafe(32)
        self._held[_hash(text)] = principal, id, now + LIFE
        return Ticket(text, LIFE)

    def take(self, text: str) -> tuple[Principal, InstanceId]:
        """For whom it is and which machine; it is gone. :raise NotFound: there is none, or it is too old."""
        who, id, end = self._held.pop(_hash(text), (SYSTEM, InstanceId(""), 0.0))
        if end <= self._clock():
            raise NotFound("there is no such ticket, or it was used or is too old", field="ticket")
        return who, id


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
