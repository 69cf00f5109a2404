"""Failed logins, counted: who guesses has to wait, and makes nobody else wait.

A bucket for each pair of name and address, and a larger one for each address: from another address a user gets in
however often somebody else guesses at the password, and who tries many names is stopped too. All in memory: a restart
forgets, which gives a guesser one more burst.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

from polyvisor.model.faults import Throttled

_MOST = 10_000  # buckets; the oldest are forgotten


@dataclass
class _Bucket:
    """`left` failures may follow at once; one more every `every` seconds."""

    left: float
    at: float


class Attempts:
    """What has failed lately. `burst` failures of a name from one address are free, then one every `every` seconds."""

    def __init__(self, burst: int = 5, every: float = 10.0, spread: int = 10) -> None:
        self._burst, self._every, self._spread = burst, every, spread
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()

    def check(self, name: str, source: str) -> None:
        """:raise Throttled: saying how many seconds to wait. What is tried before that is not even looked at."""
        waits = [self._wait(key, most) for key, most in self._keys(name, source)]
        if (wait := max(waits)) > 0:
            raise Throttled("too many failed logins; try again later", retry_after=wait)

    def failed(self, name: str, source: str) -> None:
        """Count one."""
        for key, most in self._keys(name, source):
            bucket = self._bucket(key, most)
            bucket.left = max(0.0, bucket.left - 1)

    def succeeded(self, name: str, source: str) -> None:
        """The password is known there: what failed before was a slip."""
        self._buckets.pop((name, source), None)

    def _keys(self, name: str, source: str) -> tuple[tuple[tuple[str, ...], int], ...]:
        return ((name, source), self._burst), ((source,), self._burst * self._spread)

    def _wait(self, key: tuple[str, ...], most: int) -> float:
        if key not in self._buckets:
            return 0.0
        bucket = self._bucket(key, most)
        return 0.0 if bucket.left >= 1 else (1 - bucket.left) * self._pace(most)

    def _pace(self, most: int) -> float:
        return self._every * self._burst / most

    def _bucket(self, key: tuple[str, ...], most: int) -> _Bucket:
        now = monotonic()
        bucket = self._buckets.setdefault(key, _Bucket(most, now))
        self._buckets.move_to_end(key)
        bucket.left = min(most, bucket.left + (now - bucket.at) / self._pace(most))
        bucket.at = now
        while len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return bucket
