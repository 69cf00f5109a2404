"""Events: server-sent, resumed where a dropped connection left off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from polyvisor.client.errors import Refused
from polyvisor.client.link import Link
from polyvisor.wire.native import Event

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_SILENCE = 60.0  # the server says something every 15 seconds, if only that it is still here


class Events:
    """The numbered log of what happened."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def after(self, seq: int) -> list[Event]:
        """Those behind a number that there are by now, in one answer's worth."""
        return [event async for event, _ in self._once(seq, follow=False) if event is not None]

    async def follow(self, after: int | None = None, *, patience: float = 60.0) -> AsyncIterator[Event]:
        """Every event behind number `after` (None: from now on), each once, whatever happens to the connection.

        :raise Refused: the server says no, or was away for longer than `patience` seconds.
        """
        loop = asyncio.get_running_loop()
        seq, pause, heard = after, _FIRST_PAUSE, loop.time()
        while True:
            try:
                async for event, number in self._once(seq, follow=True):
                    seq, pause, heard = number, _FIRST_PAUSE, loop.time()
                    if event is not None:
                        yield event
            except Refused as refusal:
                if (refusal.status is not None and refusal.status < 500) or loop.time() - heard > patience:
                    raise
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)

    async def _once(self, seq: int | None, *, follow: bool) -> AsyncIterator[tuple[Event | None, int]]:
        """One connection's worth: events, and the number reached even when there is none yet."""
        headers = {} if seq is None else {"Last-Event-ID": str(seq)}
        async with self._link.stream(
            "GET", "/events", params={"follow": follow}, headers=headers, patience=_SILENCE
        ) as answer:
            number, data = seq or 0, ""
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    number = int(value)
                elif name == "data":
                    data = value
                elif not line:
                    yield (Event.model_validate_json(data) if data else None), number
                    data = ""
