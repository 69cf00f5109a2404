"""Refusals, spaced out: who guesses spends time of its own, and hardly any of ours.

A refusal that is told at once is asked for again at once, and its reading, parsing and answering is then all that a
server does, however cheap each is. So those of one address leave one after the other. Who waits costs what an idle
connection costs, and only who is refused waits: a right password from the same address is answered meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from time import monotonic

_MOST = 10_000  # addresses; the oldest are forgotten


class Pace:
    """`burst` refusals of an address are told at once, then one every `every` seconds; none waits over `longest`."""

    def __init__(self, burst: int = 20, every: float = 0.05, longest: float = 5.0) -> None:
        self._burst, self._every, self._longest = burst, every, longest
        self._told: OrderedDict[str, float] = OrderedDict()  # when the last one of an address leaves

    async def wait(self, source: str) -> None:
        """Until a refusal may be told there."""
        if (delay := self._delay(source)) > 0:
            await asyncio.sleep(delay)

    def _delay(self, source: str) -> float:
        now = monotonic()
        last = max(self._told.get(source, 0.0), now - self._burst * self._every)
        self._told[source] = min(last + self._every, now + self._longest)
        self._told.move_to_end(source)
        while len(self._told) > _MOST:
            self._told.popitem(last=False)
        return self._told[source] - now
