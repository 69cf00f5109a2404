"""PostgreSQL, over asyncpg.

A writer takes one advisory lock for its transaction, in READ COMMITTED so that what it reads after getting the lock is
the latest. SERIALIZABLE would let writers overlap and then fail some of them at their commit, when the caller's block
has run and cannot be run again; our writes are short, a queue costs less than that. The advisory lock, unlike a table
lock, leaves readers alone. Readers have REPEATABLE READ: one snapshot for the unit. What need not last is committed
asynchronously.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from sqlalchemy import CursorResult, Executable, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from polyvisor.store.database import READERS, WAIT, Link, Rows
from polyvisor.store.patience import to_the_end
from polyvisor.store.refusals import in_our_words

_LOCK = 0x706F6C79  # "poly": the one key of our advisory locks
_PATIENCE = {"timeout": WAIT, "command_timeout": 60}  # seconds; a network that is silent must not hold us for ever


class Postgres:
    """A Database of a server."""

    def __init__(self, url: URL) -> None:
        self._reader = engine(
            url, "REPEATABLE READ", connections=READERS, execution_options={"postgresql_readonly": True}
        )
        self._writer = engine(url, "READ COMMITTED")
        self._readers = asyncio.Semaphore(READERS)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Link]:
        """See Database."""
        async with self._readers, _begun(self._reader) as connection:
            yield _PostgresLink(connection)

    @asynccontextmanager
    async def writing(self, *, lasting: bool) -> AsyncIterator[Link]:
        """See Database."""
        async with _begun(self._writer) as connection:
            with in_our_words():
                await to_the_end(lock(connection, lasting=lasting))
            yield _PostgresLink(connection)

    async def close(self) -> None:
        """See Database."""
        await self._reader.dispose()
        await self._writer.dispose()


class _PostgresLink:
    """A Link."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def execute(self, statement: Executable, rows: Rows | None = None) -> CursorResult[Any]:
        """See Link."""
        return await to_the_end(self._execute(statement, rows))

    async def _execute(self, statement: Executable, rows: Rows | None) -> CursorResult[Any]:
        return await self._connection.execute(statement, rows)

    def attempt(self) -> AbstractAsyncContextManager[object]:
        """See Link."""
        return self._connection.begin_nested()

    async def commit(self) -> None:
        """See Link."""
        await to_the_end(self._connection.commit())


def engine(url: URL, isolation: str, *, connections: int = 1, **more: Any) -> AsyncEngine:
    """Connections of that isolation."""
    return create_async_engine(
        url, pool_size=connections, max_overflow=0, connect_args=_PATIENCE, pool_pre_ping=True,
        isolation_level=isolation, **more,
    )  # fmt: skip


async def lock(connection: AsyncConnection, *, lasting: bool = True) -> None:
    """The transaction is the only one that writes from here on."""
    await connection.execute(
        text("SELECT set_config('lock_timeout', :wait, true), set_config('synchronous_commit', :last, true)"),
        {"wait": f"{WAIT}s", "last": "on" if lasting else "off"},
    )
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


@asynccontextmanager
async def _begun(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, which is rolled back unless the block commits it."""
    connection = engine.connect()
    try:
        with in_our_words():
            await to_the_end(_begin(connection))
        yield connection
    finally:
        if connection.sync_connection is not None:  # it was started
            await to_the_end(connection.close())


async def _begin(connection: AsyncConnection) -> None:
    await connection.start()
    await connection.begin()
