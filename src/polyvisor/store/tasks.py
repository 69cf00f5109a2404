"""Tasks: read whole, found by when they are due."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, insert, or_, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import ProjectId, TaskId
from polyvisor.model.task import Outcome, Task
from polyvisor.store import codec
from polyvisor.store.tables import tasks
from polyvisor.store.work import Work, owned

_CODEC = codec.Codec(Task, remember=1024)
_t = tasks.c
_SELECT = select(_t.record).order_by(_t.created, _t.id)


class SqlTasks:
    """See `ports.store.Tasks`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add(self, task: Task) -> None:
        """Insert."""
        fixed = {"id": task.id, "project": task.project, "instance": task.instance}
        query = insert(tasks).values(**fixed, created=codec.micros(task.created), **_values(task))
        await self._work.insert(query, task.name, missing=task.instance)

    async def get(self, id: TaskId) -> Task:
        """By id."""
        return await self._one(_SELECT.where(_t.id == id), id)

    async def named(self, project: ProjectId, name: str) -> Task:
        """By name."""
        return await self._one(_SELECT.where(_t.project == project, _t.name == name), name)

    async def of(self, projects: Collection[ProjectId] | None) -> Sequence[Task]:
        """Oldest first."""
        return await self._those(_SELECT.where(owned(_t.project, projects)))

    async def due(self, now: datetime) -> Sequence[Task]:
        """Those whose time has come, and those that run."""
        query = _SELECT.where(or_(_t.next_run <= codec.micros(now), _t.runs.is_(True)))
        return await self._those(query.order_by(None).order_by(_t.next_run, _t.id))

    async def save(self, task: Task) -> None:
        """Write it whole."""
        await self._work.revise(update(tasks).where(_t.id == task.id).values(_values(task)), task.name, "task")

    async def remove(self, id: TaskId) -> None:
        """Delete it."""
        await self._work.revise(delete(tasks).where(_t.id == id), id, "task")

    async def _one(self, query: Select[Any], key: str) -> Task:
        for task in await self._those(query):
            return task
        raise NotFound("there is no such task", subject=key)

    async def _those(self, query: Select[Any]) -> list[Task]:
        return [_CODEC.decode(row.record) for row in await self._work.rows(query)]


def _values(task: Task) -> dict[str, Any]:
    runs = task.last is not None and task.last.outcome is Outcome.RUNNING
    told = {"name": task.name, "next_run": codec.micros_or_none(task.next_run), "runs": runs}
    return {**told, "record": _CODEC.encode(task)}
