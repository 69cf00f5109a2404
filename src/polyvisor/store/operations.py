"""Operations: what was asked and what became of it. A closed one stays as it was closed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import InstanceId, OperationId, ProjectId
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.store import codec
from polyvisor.store.tables import instances, is_open, operations
from polyvisor.store.work import Work, owned

_o = operations.c


class SqlOperations:
    """See `ports.store.Operations`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def open(self, operation: Operation) -> None:
        """Insert; any open one of the instance is superseded, as of now."""
        known = select(instances.c.id).where(instances.c.id == operation.instance)
        if await self._work.value(known) is None:
            raise NotFound("there is no such instance", subject=operation.instance)
        now = codec.micros(operation.created)
        superseded = await self._work.change(
            update(operations)
            .where(_o.instance == operation.instance, is_open)
            .values(outcome=Outcome.SUPERSEDED.value, finished=now)
        )
        row: dict[str, Any] = {
            "id": operation.id,
            "instance": operation.instance,
            "project": operation.project,
        }
        row |= {"verb": operation.verb.value, "generation": operation.generation, "created": now}
        row |= {"subject": operation.subject, **_progress(operation), **_outcome(operation)}
        await self._work.insert(insert(operations).values(row), operation.id)
        self._work.tell(f"fact:{operation.instance}")
        if superseded:
            self._work.tell(f"over:{operation.instance}")

    async def get(self, id: OperationId) -> Operation:
        """One operation."""
        row = await self._work.row(select(operations).where(_o.id == id))
        if row is None:
            raise NotFound("there is no such operation", subject=id)
        return _decode(row)

    async def current(self, id: InstanceId) -> Operation | None:
        """The open one of an instance."""
        query = select(operations).where(_o.instance == id, is_open)
        row = await self._work.row(query)
        return None if row is None else _decode(row)

    async def about(self, subject: str) -> Sequence[Operation]:
        """The open ones about a volume or snapshot."""
        rows = await self._work.rows(select(operations).where(is_open, _o.subject == subject))
        return [_decode(row) for row in rows]

    async def save(self, operation: Operation) -> None:
        """Write the journal and progress and, while it is open, outcome and fault.

        The reconciler may hold an operation that a later wish has superseded meanwhile: its steps are still
        worth knowing, but it must not come back to life.
        """
        mine = update(operations).where(_o.id == operation.id)
        progress, closed = _progress(operation), operation.outcome is not Outcome.OPEN
        both = mine.where(is_open).values(**progress, **_outcome(operation))
        if not (closed and await self._work.change(both)):
            await self._work.revise(mine.values(**progress), operation.id, "operation")
        if closed:
            self._work.tell(f"over:{operation.instance}")
        self._work.tell(f"fact:{operation.instance}")

    async def page(
        self, projects: Collection[ProjectId] | None, instance: InstanceId | None, limit: int
    ) -> Sequence[Operation]:
        """The latest ones, newest first; none of spares, which are nobody's yet."""
        spares = select(instances.c.id).where(instances.c.spare)
        query = select(operations).where(owned(_o.project, projects), _o.instance.not_in(spares))
        query = query.order_by(_o.created.desc(), _o.id.desc()).limit(max(0, limit))
        if instance is not None:
            query = query.where(_o.instance == instance)
        return [_decode(row) for row in await self._work.rows(query)]

    async def prune(self, before: datetime) -> int:
        """Delete finished ones older than that."""
        old = ~is_open & (func.coalesce(_o.finished, _o.created) < codec.micros(before))
        return await self._work.change(delete(operations).where(old))


def _progress(operation: Operation) -> dict[str, Any]:
    return {"progress": operation.progress, "journal": codec.words.encode(operation.journal)}


def _outcome(operation: Operation) -> dict[str, Any]:
    finished = codec.micros_or_none(operation.finished)
    values = {"outcome": operation.outcome.value, "finished": finished}
    return values | {"fault": operation.fault, "fault_kind": operation.fault_kind}


def _decode(row: Any) -> Operation:
    return Operation(
        id=OperationId(row.id),
        instance=InstanceId(row.instance),
        project=ProjectId(row.project),
        verb=Verb(row.verb),
        generation=row.generation,
        outcome=Outcome(row.outcome),
        created=codec.moment(row.created),
        subject=row.subject,
        progress=row.progress,
        journal=codec.words.decode(row.journal),
        fault=row.fault,
        fault_kind=row.fault_kind,
        finished=codec.moment_or_none(row.finished),
    )
