"""Idempotency keys: a request that comes twice is answered with what the first one made."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select

from polyvisor.model.ids import ProjectId
from polyvisor.store import codec
from polyvisor.store.tables import receipts
from polyvisor.store.work import Work

_r = receipts.c


class SqlReceipts:
    """See `ports.store.Receipts`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def find(self, project: ProjectId, key: str) -> tuple[str, str] | None:
        """(hash of the request, id of what it made)."""
        row = await self._work.row(select(_r.digest, _r.made).where(_r.project == project, _r.key == key))
        return None if row is None else (row.digest, row.made)

    async def add(self, project: ProjectId, key: str, digest: str, made: str, at: datetime) -> None:
        """Insert."""
        row: dict[str, Any] = {
            "project": project,
            "key": key,
            "digest": digest,
            "made": made,
            "at": codec.micros(at),
        }
        await self._work.insert(insert(receipts).values(row), key)

    async def prune(self, before: datetime) -> int:
        """Delete those older than that."""
        return await self._work.change(delete(receipts).where(_r.at < codec.micros(before)))
