"""The audit log: rows are only ever added."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import insert, select

from polyvisor.model.identity import AuditEntry, AuditFilter
from polyvisor.model.ids import ProjectId
from polyvisor.store import codec
from polyvisor.store.tables import audit
from polyvisor.store.work import Work

_a = audit.c


class SqlAudit:
    """See `ports.store.AuditLog`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Insert; numbers are given here."""
        for one in entries:
            row = {name: getattr(one, name) for name in _TEXTS}
            await self._work.change(insert(audit).values(at=codec.micros(one.at), **row))

    async def page(
        self, projects: Collection[ProjectId] | None, wanted: AuditFilter, before: int | None, limit: int
    ) -> Sequence[AuditEntry]:
        """The latest ones, newest first."""
        query = select(audit).order_by(_a.seq.desc()).limit(max(0, limit))
        if projects is not None:
            query = query.where(_a.project.in_(list(projects)))
        if before is not None:
            query = query.where(_a.seq < before)
        for name in ("who", "action", "subject", "outcome"):
            if value := getattr(wanted, name):
                query = query.where(_a[name] == value)
        if wanted.since is not None:
            query = query.where(_a.at >= codec.micros(wanted.since))
        if wanted.until is not None:
            query = query.where(_a.at < codec.micros(wanted.until))
        return [
            AuditEntry(at=codec.moment(row.at), seq=row.seq, **{name: getattr(row, name) for name in _TEXTS})
            for row in await self._work.rows(query)
        ]


_TEXTS = ("who", "source", "action", "project", "subject", "outcome", "detail")
