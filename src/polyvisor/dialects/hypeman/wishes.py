"""Asking the engine as upstream's callers expect: one after the other, and answered when it is done.

Upstream holds a lock for each instance; so do the handlers here that change one. An operation that another dialect has
under way is waited for as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache, wraps
from time import monotonic
from typing import TypeVar
from weakref import WeakValueDictionary

from starlette.responses import Response

from polyvisor.dialects.hypeman import wire
from polyvisor.dialects.hypeman.encode import text_of
from polyvisor.dialects.hypeman.resolve import DIALECT, VOLUME_ID, not_found
from polyvisor.dialects.hypeman.table import Call, Handler
from polyvisor.dialects.hypeman.translate import AT_PRESENT, Kept, instance_to, kept_of
from polyvisor.engine.instances import Asked, Until
from polyvisor.model.faults import Busy, Fault, TimedOut
from polyvisor.model.health import HealthStatus
from polyvisor.model.instance import Instance, stage_of, time_spent

T = TypeVar("T")
PATIENCE = 50.0  # seconds; the SDK hangs up after 60, upstream's middleware as well
_PAUSE = 0.05


_TURNS: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def one_at_a_time(handler: Handler) -> Handler:
    """A handler that changes the instance which its path names: two of them never meet, and each sees it as it is."""

    @wraps(handler)
    async def waits(call: Call) -> Response:
        async with _TURNS.setdefault(call.thing.id, asyncio.Lock()):
            call.thing = await latest(call, call.thing.id)
            return await handler(call)

    return waits


async def in_turn(call: Call, id: str, ask: Callable[[], Awaitable[Asked]]) -> Instance:
    """The instance once what `ask` asks is done. :raise Fault: it was refused, or failed."""
    end = monotonic() + PATIENCE
    return await done(call, await free(call, id, ask, end), end=end)


async def free(call: Call, id: str, ask: Callable[[], Awaitable[T]], end: float | None = None) -> T:
    """What `ask` gives, once no other operation of the instance is under way. :raise Busy: not within the time."""
    end = monotonic() + PATIENCE if end is None else end
    while True:
        try:
            return await ask()
        except Busy:
            if monotonic() >= end:
                raise
        left = max(0.1, end - monotonic())
        with contextlib.suppress(TimedOut):
            await call.core.instances.wait(call.principal, id, lambda i: i.operation is None, left)
        await asyncio.sleep(_PAUSE)  # what is in the way may be no operation of its own


async def at_rest(call: Call, instance: Instance) -> Instance:
    """The instance once no operation of it is under way, or as it is after a while. :raise Refusal: it is gone."""
    if instance.operation is None:
        return instance
    with contextlib.suppress(TimedOut):
        await call.core.instances.wait(call.principal, instance.id, lambda i: i.operation is None, PATIENCE)
    return await latest(call, instance.id)


async def done(call: Call, asked: Asked, until: Until = Until.LAUNCHED, end: float | None = None) -> Instance:
    """The instance once that is done; where it takes too long, as it is then: the work goes on. :raise Fault:"""
    end = monotonic() + PATIENCE if end is None else end
    try:
        return await call.core.instances.settle(asked, until, max(0.1, end - monotonic()))
    except TimedOut:
        return await latest(call, asked.instance.id)


async def made(call: Call, asked: Asked, until: Until = Until.LAUNCHED) -> Instance:
    """A new instance once its machine runs; one that cannot be made leaves nothing. :raise Fault: why it cannot."""
    try:
        return await done(call, asked, until)
    except Fault:
        with contextlib.suppress(Fault):
            gone = await call.core.power.delete(call.principal, asked.instance.id)
            await call.core.instances.settle(gone, Until.LAUNCHED, PATIENCE)
        raise


async def latest(call: Call, id: str) -> Instance:
    """The instance as it is now. :raise Refusal: it is gone."""
    found = await call.core.instances.wait(call.principal, id, lambda _: True, None)
    if found is None:
        raise not_found()
    return found


async def kept_with(call: Call, id: str) -> Kept:
    """The remainder of a thing."""
    return kept_of((await call.core.foreigners.remainders(DIALECT, [id])).get(id))


async def show(call: Call, instance: Instance) -> wire.Instance:
    """The instance for its reader."""
    return (await show_all(call, [instance]))[0]


async def show_all(call: Call, instances: list[Instance]) -> list[wire.Instance]:
    """Many instances for their reader; two questions to the store."""
    texts, aliases = await _foreign(call, instances)
    now = datetime.now(UTC)
    return [instance_to(i, kept_of(texts.get(i.id)), aliases, now, call.core.health.status(i)) for i in instances]


async def _foreign(call: Call, instances: list[Instance]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Their remainders, and the ids that their volumes were made with."""
    texts = await call.core.foreigners.remainders(DIALECT, [i.id for i in instances])
    volumes = sorted({mount.volume for i in instances for mount in i.mounts})
    return texts, await call.core.foreigners.aliases(DIALECT, VOLUME_ID, volumes) if volumes else {}


async def list_text(call: Call, instances: list[Instance]) -> str:
    """As `show_all`, written. Most have not changed since the last list but for the time, and are written once."""
    texts, aliases = await _foreign(call, instances)
    now = datetime.now(UTC)
    found = []
    for one in instances:
        volumes = tuple((m.volume, aliases[m.volume]) for m in one.mounts if m.volume in aliases)
        spent = time_spent(one.observed, now).get(stage_of(one.observed), 0)
        found.append(
            _written(one, texts.get(one.id, ""), volumes, call.core.health.status(one)).replace(_MARK, str(spent), 1)
        )
    return f"[{','.join(found)}]\n"


_MARK = str(AT_PRESENT)


@lru_cache(16_384)
def _written(instance: Instance, remainder: str, aliases: tuple[tuple[str, str], ...], health: HealthStatus) -> str:
    return text_of(instance_to(instance, kept_of(remainder), dict(aliases), None, health))
