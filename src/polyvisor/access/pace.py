"""Logins and refusals, spaced out: who guesses spends time of its own, and hardly any of ours.

A refusal that is told at once is asked for again at once, and its reading, parsing and answering is then all that a
server does, however cheap each is. So those of one address leave one after the other, and its logins begin so (ADR 36).
Who waits costs what an idle connection costs.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from time import monotonic

_MOST = 10_000  # addresses; the oldest are forgotten


class Pace:
    """`burst` of an address go at once, then one every `every` seconds; none waits over `longest`."""

    def __init__(self, burst: int = 20, every: float = 0.05, longest: float = 5.0) -> None:
        self._burst, self._every, self._longest = burst, every, longest
        self._last: OrderedDict[str, float] = OrderedDict()  # when the last one of an address goes

    async def wait(self, source: str) -> None:
        """Until the next one of that address may go."""
        if (delay := self._delay(source)) > 0:
            await asyncio.sleep(delay)

    def _delay(self, source: str) -> float:
        now = monotonic()
        last = max(self._last.get(source, 0.0), now - self._burst * self._every)
        self._last[source] = min(last + self._every, now + self._longest)
        self._last.move_to_end(source)
        while len(self._last) > _MOST:
            self._last.popitem(last=False)
        return self._last[source] - now
