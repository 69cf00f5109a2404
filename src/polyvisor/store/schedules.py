"""Schedules: read whole, found by when they are due."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, insert, or_, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.snapshot import Schedule
from polyvisor.store import codec
from polyvisor.store.tables import schedules
from polyvisor.store.work import Work

_CODEC = codec.Codec(Schedule, remember=1024)
_s = schedules.c
_SELECT = select(_s.record).order_by(_s.next_run, _s.instance)


class SqlSchedules:
    """See `ports.store.Schedules`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def put(self, schedule: Schedule) -> None:
        """Insert or replace."""
        row: dict[str, Any] = {"next_run": codec.micros(schedule.next_run), "waits": schedule.operation is not None}
        row |= {"record": _CODEC.encode(schedule)}
        here = _s.instance == schedule.instance
        if not await self._work.change(update(schedules).where(here).values(row)):
            query = insert(schedules).values(instance=schedule.instance, **row)
            await self._work.insert(query, schedule.instance, missing=schedule.instance)

    async def get(self, instance: InstanceId) -> Schedule:
        """That of an instance."""
        for schedule in await self._those(_SELECT.where(_s.instance == instance)):
            return schedule
        raise NotFound("the instance has no schedule", subject=instance)

    async def remove(self, instance: InstanceId) -> None:
        """Delete it."""
        await self._work.revise(delete(schedules).where(_s.instance == instance), instance, "schedule")

    async def due(self, now: datetime) -> Sequence[Schedule]:
        """Those whose time has come, and those that wait for an operation."""
        return await self._those(_SELECT.where(or_(_s.next_run <= codec.micros(now), _s.waits.is_(True))))

    async def all(self) -> Sequence[Schedule]:
        """Every schedule."""
        return await self._those(_SELECT)

    async def _those(self, query: Select[Any]) -> list[Schedule]:
        return [_CODEC.decode(row.record) for row in await self._work.rows(query)]
