"""What happens over and over, told once and counted after that: a flood must not cost a commit for each drop of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
_MOST = 1_000  # things that are counted; the oldest are told early


class Repeats(Generic[K]):
    """The first of a thing is told at once, how many came in the `window` seconds behind it as one, at its end."""

    def __init__(self, tell: Callable[[K, int], None], window: float = 10.0) -> None:
        self._tell, self._window = tell, window
        self._counts: OrderedDict[K, int] = OrderedDict()

    def one(self, key: K) -> None:
        """It happened."""
        if key in self._counts:
            self._counts[key] += 1
            return
        self._tell(key, 1)
        self._counts[key] = 0
        asyncio.get_running_loop().call_later(self._window, self._end, key)
        if len(self._counts) > _MOST:
            self._end(next(iter(self._counts)))

    def settle(self) -> None:
        """Tell all that was counted so far."""
        for key, count in self._counts.items():
            if count:
                self._counts[key] = 0
                self._tell(key, count)

    def _end(self, key: K) -> None:
        if count := self._counts.pop(key, 0):
            self._tell(key, count)
