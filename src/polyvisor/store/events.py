"""The event log: numbered in the order of commits, since numbers are given under the write lock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select

from polyvisor.model.event import Event
from polyvisor.model.ids import ProjectId
from polyvisor.store import codec
from polyvisor.store.tables import events
from polyvisor.store.work import Work, owned

_e = events.c


class SqlEvents:
    """See `ports.store.Events`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def append(self, event: Event) -> None:
        """Insert; the number is given here."""
        row: dict[str, Any] = {"kind": event.kind, "project": event.project, "subject": event.subject}
        row |= {"at": codec.micros(event.at), "data": codec.texts.encode(dict(event.data))}
        await self._work.change(insert(events).values(row))
        self._work.tell("events")

    async def after(self, seq: int, projects: Collection[ProjectId] | None, limit: int) -> Sequence[Event]:
        """Those later than `seq`, oldest first."""
        query = select(events).where(_e.seq > seq, owned(_e.project, projects)).order_by(_e.seq).limit(max(0, limit))
        return [
            Event(
                row.kind,
                row.project,
                row.subject,
                codec.moment(row.at),
                codec.texts.decode(row.data),
                row.seq,
            )
            for row in await self._work.rows(query)
        ]

    async def last(self) -> int:
        """The highest number so far."""
        return int(await self._work.value(select(func.coalesce(func.max(_e.seq), 0))))

    async def prune(self, keep: int) -> int:
        """Delete all but the newest `keep`; the newest stays in any case, since `last` is read from it."""
        oldest = select(_e.seq).order_by(_e.seq.desc()).offset(max(keep, 1) - 1).limit(1).scalar_subquery()
        return await self._work.change(delete(events).where(_e.seq < oldest))
