"""What builds say while somebody may listen, and how builds and that are written down."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import Any

from polyvisor.model.build import Build, BuildId, BuildNews, BuildState, Provenance
from polyvisor.model.foreign import Row
from polyvisor.model.ids import InstanceId

TABLE = "builds"
"""Whose rows ours are: no dialect is called so."""
_MOST_LINES, _MOST_CHARACTERS = 5000, 1_000_000
_SHORTEST_SECRET = 4  # less is found everywhere, and hides nothing
_HIDDEN = "***"


class Log:
    """The last lines of a build and its states, in order, for any number of listeners."""

    def __init__(self, clock: Callable[[], datetime], secrets: Iterable[str] = ()) -> None:
        self._clock = clock
        lines = {line.strip() for value in secrets for line in value.splitlines()}
        self._secrets = sorted((one for one in lines if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._news: deque[BuildNews] = deque()
        self._size = 0  # characters of their lines
        self._count = 0  # of all that there were
        self._more = asyncio.Event()
        self._closed = False

    def line(self, text: str) -> None:
        """It said that. Secrets that it was given are not shown."""
        self._add(BuildNews(self._clock(), line=self.masked(text)))

    def state(self, state: BuildState) -> None:
        """That has become of it."""
        self._add(BuildNews(self._clock(), state=state))

    def masked(self, text: str) -> str:
        """Without what is nobody's to read."""
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def _add(self, news: BuildNews) -> None:
        self._news.append(news)
        self._count += 1
        self._size += len(news.line or "")
        while len(self._news) > _MOST_LINES or self._size > _MOST_CHARACTERS:
            self._size -= len(self._news.popleft().line or "")
        self._wake()

    def close(self) -> None:
        """There will be no more."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()

    async def news(self, *, follow: bool, pause: float) -> AsyncIterator[BuildNews]:
        """All of it; with `follow` what is still to come, and after each `pause` without any that there was none."""
        seen = 0
        while True:
            new, seen, more = self._count - seen, self._count, self._more
            for one in list(islice(reversed(self._news), new))[::-1]:
                yield one
            if follow and self._count != seen:  # more came while these were taken
                continue
            if self._closed or not follow:
                return
            try:
                await asyncio.wait_for(more.wait(), pause)
            except TimeoutError:
                yield BuildNews(self._clock())

    def text(self) -> str:
        """As it is written down."""
        return json.dumps([[one.at.isoformat(), one.line, one.state] for one in self._news])


def log_of(text: str, clock: Callable[[], datetime]) -> Log:
    """One that is over."""
    found = Log(clock)
    for at, line, state in json.loads(text):
        found._add(BuildNews(datetime.fromisoformat(at), line, BuildState(state) if state else None))
    found.close()
    return found


_TIMES = ("created", "started", "completed")


def row_of(build: Build, kind: str) -> Row:
    """As it is written down."""
    told: dict[str, Any] = asdict(build)
    for name in ("id", "project", "position", "key"):
        del told[name]
    told |= {name: told[name] and told[name].isoformat() for name in _TIMES}
    return Row(TABLE, kind, build.id, build.project, build.id, json.dumps(told), build.key)


def build_of(row: Row) -> Build:
    """As it was written down."""
    told = json.loads(row.data)
    told |= {name: told[name] and datetime.fromisoformat(told[name]) for name in _TIMES}
    told |= {
        "state": BuildState(told["state"]), "labels": tuple((key, value) for key, value in told["labels"]),
        "provenance": Provenance(**told["provenance"]), "instance": told["instance"] and InstanceId(told["instance"]),
    }  # fmt: skip
    return Build(id=BuildId(row.name), project=row.project, key=row.key, **told)
