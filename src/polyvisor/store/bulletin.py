"""Topics within this process: who waits for a fact hears of the commit that changed it.

A topic is a hint, never data: a listener looks again in the store. So repeats that were not yet read are
merged, and publishing only adds a word to a listener's set: it cannot block a commit, however slow the
listener is. The set is bounded too: a wildcard's listener that fell too far behind gets the wildcard itself,
once, in place of the topics that matched it: "anything under this may have changed".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

BEHIND = 10_000  # different unread topics after which a wildcard's listener is told to look at everything


class Listener(AsyncIterator[str]):
    """Topics that were published and not yet read, oldest first."""

    def __init__(self, topics: Iterable[str], behind: int) -> None:
        self.exact = frozenset(t for t in topics if not t.endswith("*"))
        self.prefixes = tuple(t[:-1] for t in topics if t.endswith("*"))
        self._behind = behind
        self._unread: dict[str, None] = {}  # a set that keeps its order
        self._news = asyncio.Event()
        self._closed = False

    def hear(self, topic: str) -> None:
        """Take note of a topic, when it is one of ours."""
        prefix = next((p for p in self.prefixes if topic.startswith(p)), None)
        if topic not in self.exact:
            if prefix is None or prefix + "*" in self._unread:
                return
            if len(self._unread) >= self._behind + len(self.exact):
                self._look_at_everything(prefix)
                topic = prefix + "*"
        self._unread[topic] = None
        self._news.set()

    def close(self) -> None:
        """End the iteration, after what is unread."""
        self._closed = True
        self._news.set()

    def _look_at_everything(self, prefix: str) -> None:
        kept = [t for t in self._unread if t in self.exact or not t.startswith(prefix)]
        self._unread = dict.fromkeys(kept)

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> str:
        while not self._unread:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        topic = next(iter(self._unread))
        del self._unread[topic]
        return topic


class Bulletin:
    """Publish and follow, within one event loop."""

    def __init__(self, behind: int = BEHIND) -> None:
        self._behind = behind
        self._exact: dict[str, set[Listener]] = {}
        self._wild: set[Listener] = set()
        self._closed = False

    def publish(self, topics: Iterable[str]) -> None:
        """Tell the listeners; returns at once."""
        for topic in topics:
            for listener in (*self._exact.get(topic, ()), *self._wild):
                listener.hear(topic)

    @contextmanager
    def follow(self, *topics: str) -> Iterator[Listener]:
        """A listener from now on; it ends with the block, or when the bulletin closes."""
        listener = Listener(topics, self._behind)
        self._add(listener)
        if self._closed:
            listener.close()
        try:
            yield listener
        finally:
            self._remove(listener)
            listener.close()

    def close(self) -> None:
        """End every listener's iteration."""
        self._closed = True
        for listener in {*self._wild, *(one for some in self._exact.values() for one in some)}:
            listener.close()

    def _add(self, listener: Listener) -> None:
        if listener.prefixes:
            self._wild.add(listener)  # it looks at every topic anyway, so it is not listed by exact ones too
            return
        for topic in listener.exact:
            self._exact.setdefault(topic, set()).add(listener)

    def _remove(self, listener: Listener) -> None:
        self._wild.discard(listener)
        for topic in listener.exact:
            some = self._exact.get(topic)
            if some is not None:
                some.discard(listener)
                if not some:
                    del self._exact[topic]
