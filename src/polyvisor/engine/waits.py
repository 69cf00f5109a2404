"""Waiting for an instance: each waiter is woken by the facts of its own instance only, then reads the record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from polyvisor.model.faults import NotFound, TimedOut, Unavailable
from polyvisor.model.ids import InstanceId, OperationId
from polyvisor.model.instance import Instance
from polyvisor.model.operation import Operation, Outcome
from polyvisor.ports.store import Store, Unit


async def _news(topics: AsyncIterator[str]) -> None:
    """The next wake-up. :raise Unavailable: there will be none, the server stops."""
    try:
        await anext(topics)
    except StopAsyncIteration as error:
        raise Unavailable("the server is stopping") from error


async def _there(unit: Unit, id: InstanceId) -> Instance | None:
    try:
        return await unit.instances.get(id)
    except NotFound:
        return None


class Waits:
    """Waiting on the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def until(self, id: InstanceId, wanted: Callable[[Instance], bool], limit: float | None) -> Instance | None:
        """The instance once `wanted` is true of it; None when it was deleted meanwhile.

        :raise TimedOut: not within `limit` seconds (None: no limit).
        """
        try:
            async with asyncio.timeout(limit), self._store.follow(f"fact:{id}") as topics:
                found = await self._now(id)
                while found is not None and not wanted(found):
                    await _news(topics)
                    found = await self._now(id)
                return found
        except TimeoutError as error:
            raise TimedOut("the instance did not get there in time", subject=id) from error

    async def _now(self, id: InstanceId) -> Instance | None:
        async with self._store.read() as unit:
            return await _there(unit, id)

    async def finished(self, id: InstanceId, operation: OperationId, limit: float | None) -> Operation:
        """The operation once it is closed. :raise TimedOut:"""
        return (await self.closed(id, operation, limit))[0]

    async def closed(
        self, id: InstanceId, operation: OperationId, limit: float | None
    ) -> tuple[Operation, Instance | None]:
        """The operation once it is closed, and the instance as it was then, if it was still there. :raise TimedOut:"""
        try:
            async with asyncio.timeout(limit), self._store.follow(f"over:{id}") as topics:
                found = await self._both(id, operation)
                while found[0].outcome is Outcome.OPEN:
                    await _news(topics)
                    found = await self._both(id, operation)
                return found
        except TimeoutError as error:
            raise TimedOut("the operation did not finish in time", subject=id) from error

    async def _both(self, id: InstanceId, operation: OperationId) -> tuple[Operation, Instance | None]:
        async with self._store.read() as unit:
            found = await unit.operations.get(operation)
            if found.outcome is Outcome.OPEN:
                return found, None
            return found, await _there(unit, id)
