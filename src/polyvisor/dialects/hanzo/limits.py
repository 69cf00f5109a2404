"""How many calls a minute a caller has left: told with every answer, and minded where the settings say so."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

WINDOW = 60  # seconds
_CALLERS = 10_000  # who is remembered; the one that has not called for longest is forgotten first


@dataclass(frozen=True, slots=True)
class Standing:
    """After this call. `over`: it was one too many. `reset` is a Unix time."""

    limit: int
    remaining: int
    reset: int
    over: bool

    @property
    def headers(self) -> dict[str, str]:
        """As they are told."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
        }


class Limits:
    """Calls by caller and kind, in windows of a minute."""

    def __init__(self, reads: int, writes: int, clock: Callable[[], datetime]) -> None:
        self._most = {False: reads, True: writes}
        self._clock = clock
        self._seen: OrderedDict[tuple[bytes, bool], tuple[int, int]] = OrderedDict()

    def count(self, who: str, *, writes: bool) -> Standing:
        """One call more of theirs. Who they are is kept as a hash: it may be a token."""
        key = hashlib.sha256(who.encode(errors="replace")).digest(), writes
        window = int(self._clock().timestamp()) // WINDOW
        begun, calls = self._seen.pop(key, (window, 0))
        calls = calls + 1 if begun == window else 1
        self._seen[key] = window, calls
        while len(self._seen) > _CALLERS:
            self._seen.popitem(last=False)
        most = self._most[writes]
        return Standing(most, max(0, most - calls), (window + 1) * WINDOW, calls > most)
