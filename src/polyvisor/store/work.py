"""`Work`: one transaction as the repositories see it.

A statement that fails inside a write leaves PostgreSQL's transaction aborted and, when the disk is full,
SQLite's rolled back behind our back, so that the next statement would stand alone and stay. Hence a failed
work is spoilt: it takes no more statements and cannot be committed. Only an `insert` or `revise` that a
constraint refused may be followed by others: on PostgreSQL it has a savepoint to go back to, SQLite undoes
the one statement by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Executable, true
from sqlalchemy.exc import IntegrityError

from polyvisor.model.faults import Fault, NotFound
from polyvisor.model.ids import ProjectId
from polyvisor.store.database import Link
from polyvisor.store.refusals import fault_of, refused


class Work:
    """A transaction, and the topics to publish when it is committed."""

    def __init__(self, link: Link, *, writes: bool) -> None:
        self._link = link
        self._writes = writes
        self.topics: dict[str, None] = {}  # a set that keeps its order
        self.spoilt: Fault | None = None

    def tell(self, *topics: str) -> None:
        """Publish these after the commit."""
        self.topics.update(dict.fromkeys(topics))

    async def rows(self, statement: Executable) -> Sequence[Any]:
        """All rows of a query."""
        return (await self._run(statement)).all()

    async def row(self, statement: Executable) -> Any:
        """The first row of a query, if there is one."""
        return (await self._run(statement)).first()

    async def value(self, statement: Executable) -> Any:
        """The first column of the first row, if there is one."""
        return (await self._run(statement)).scalar()

    async def change(self, statement: Executable) -> int:
        """Run an INSERT, UPDATE or DELETE that no constraint can refuse; how many rows it changed."""
        self._must_write()
        return (await self._run(statement)).rowcount

    async def add(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run an INSERT of rows, however many, that no constraint can refuse."""
        self._must_write()
        await self._run(statement, rows)

    async def insert(self, statement: Executable, subject: str, missing: str = "") -> int:
        """Run an INSERT; the number it was given, where the table numbers its rows.

        :raise Exists: a unique field of `subject` is taken; the field is named.
        :raise NotFound: `missing`, which the row refers to, is not there.
        """
        key = (await self._try(statement, subject, missing)).inserted_primary_key
        return key[0] if key and isinstance(key[0], int) else 0

    async def revise(self, statement: Executable, subject: str, noun: str) -> None:
        """Run an UPDATE or DELETE of one row.

        :raise NotFound: there is no such row.
        :raise Exists: a unique field is taken; the field is named.
        """
        if (await self._try(statement, subject, subject)).rowcount == 0:
            raise NotFound(f"there is no such {noun}", subject=subject)

    async def _try(self, statement: Executable, subject: str, missing: str) -> CursorResult[Any]:
        self._must_write()
        try:
            async with self._link.attempt():
                return await self._run(statement)
        except IntegrityError as exc:
            self.spoilt = None
            raise refused(exc, subject, missing) from exc

    def _must_write(self) -> None:
        if not self._writes:
            raise RuntimeError("a read unit cannot write")

    async def _run(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None) -> CursorResult[Any]:
        if self.spoilt is not None:
            raise self.spoilt
        try:
            return await self._link.execute(statement, rows)
        except Exception as exc:
            fault = fault_of(exc)
            if fault is None:
                raise
            self.spoilt = fault
            if isinstance(exc, IntegrityError):
                raise
            raise fault from exc


def owned(column: Any, projects: Collection[ProjectId] | None) -> ColumnElement[bool]:
    """What belongs to one of these projects; None: to anybody."""
    return true() if projects is None else column.in_(list(projects))
