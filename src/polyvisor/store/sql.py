"""`SqlStore`: units of work over SQLite or PostgreSQL.

Writers of this process queue in an asyncio lock, which is first come, first served, as do readers for a
connection; writers of other processes are kept out by the database (see `database`).
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.engine import URL

from polyvisor.model.ids import HostId, InstanceId, mint
from polyvisor.ports import store as port
from polyvisor.ports.vaults import VaultRecords
from polyvisor.store import migrations
from polyvisor.store.audit import SqlAudit
from polyvisor.store.bulletin import Bulletin
from polyvisor.store.database import Database, Link, parse
from polyvisor.store.events import SqlEvents
from polyvisor.store.foreigners import SqlForeigners
from polyvisor.store.identities import SqlIdentities
from polyvisor.store.images import SqlImageNames
from polyvisor.store.ingresses import SqlIngresses
from polyvisor.store.instances import SqlInstances
from polyvisor.store.operations import SqlOperations
from polyvisor.store.patience import to_the_end
from polyvisor.store.pools import SqlPools
from polyvisor.store.postgres import Postgres
from polyvisor.store.receipts import SqlReceipts
from polyvisor.store.refusals import in_our_words
from polyvisor.store.rows import SqlRows
from polyvisor.store.schedules import SqlSchedules
from polyvisor.store.snapshots import SqlSnapshots
from polyvisor.store.sqlite import Sqlite, own_file
from polyvisor.store.ssh_keys import SqlSshKeys
from polyvisor.store.tables import meta
from polyvisor.store.tasks import SqlTasks
from polyvisor.store.vaults import SqlVaults
from polyvisor.store.volumes import SqlVolumes
from polyvisor.store.work import Work


class SqlUnit:
    """The repositories over one transaction."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.instances: port.Instances = SqlInstances(work)
        self.operations: port.Operations = SqlOperations(work)
        self.volumes: port.Volumes = SqlVolumes(work)
        self.snapshots: port.Snapshots = SqlSnapshots(work)
        self.schedules: port.Schedules = SqlSchedules(work)
        self.tasks: port.Tasks = SqlTasks(work)
        self.ingresses: port.Ingresses = SqlIngresses(work)
        self.images: port.ImageNames = SqlImageNames(work)
        self.events: port.Events = SqlEvents(work)
        self.identities: port.Identities = SqlIdentities(work)
        self.receipts: port.Receipts = SqlReceipts(work)
        self.foreigners: port.Foreigners = SqlForeigners(work)
        self.rows: port.Rows = SqlRows(work)
        self.ssh_keys: port.SshKeys = SqlSshKeys(work)
        self.audit: port.AuditLog = SqlAudit(work)
        self.pools: port.Pools = SqlPools(work)
        self.vaults: VaultRecords = SqlVaults(work)

    def wake(self, id: InstanceId) -> None:
        """Publish the wish of an instance whose intent is what it was."""
        self._work.tell(f"wish:{id}")


class SqlStore:
    """A store that is open; make one with `open_store`."""

    def __init__(self, database: Database, scratch: Path | None = None) -> None:
        self._database = database
        self._scratch = scratch
        self._bulletin = Bulletin()
        self._queue = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator[port.Unit]:
        """A consistent view; writing in it is an error."""
        async with self._database.reading() as link:
            yield SqlUnit(Work(link, writes=False))

    @asynccontextmanager
    async def write(self, *, lasting: bool = True) -> AsyncIterator[port.Unit]:
        """All or nothing; one writer at a time, so a unit must not be opened inside another."""
        async with self._written(lasting=lasting) as work:
            yield SqlUnit(work)

    @asynccontextmanager
    async def follow(self, *topics: str) -> AsyncIterator[AsyncIterator[str]]:
        """Topics published from now on; see `bulletin`."""
        with self._bulletin.follow(*topics) as listener:
            yield listener

    async def host_id(self) -> HostId:
        """The id of this installation's own host, made once."""
        key = "host_id"
        query = select(meta.c.value).where(meta.c.key == key)
        async with self._written(lasting=True) as work:
            known = await work.value(query)
            if known is None:
                known = mint()
                await work.change(insert(meta).values(key=key, value=known))
            return HostId(known)

    async def close(self) -> None:
        """Release connections; those who follow come to an end."""
        self._bulletin.close()
        await self._database.close()
        if self._scratch is not None:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    @asynccontextmanager
    async def _written(self, *, lasting: bool) -> AsyncIterator[Work]:
        if self._writing is not None and self._writing is asyncio.current_task():
            raise RuntimeError("a write unit inside a write unit would wait for itself")
        async with self._queue:
            self._writing = asyncio.current_task()
            try:
                async with self._database.writing(lasting=lasting) as link:
                    work = Work(link, writes=True)
                    yield work
                    if work.spoilt is not None:
                        raise work.spoilt
                    await to_the_end(self._commit(link, work))
            finally:
                self._writing = None

    async def _commit(self, link: Link, work: Work) -> None:
        with in_our_words():
            await link.commit()
        self._bulletin.publish(work.topics)


async def open_store(url: str) -> SqlStore:
    """A store that is ready: the schema is brought up to date first.

    `sqlite://` without a file is for tests: a temporary file, so that readers and the writer are as
    independent of each other as in real life (SQLite's own memory databases are not), deleted by `close`.

    :raise Invalid: not a URL of a database we know.
    :raise Unavailable: it cannot be reached.
    """
    where = parse(url)
    is_file = where.get_backend_name() == "sqlite"
    scratch = None
    if is_file and where.database in (None, "", ":memory:"):
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="polyvisor-"))
        where = where.set(database=str(scratch / "store.db"))
    with in_our_words():
        await asyncio.to_thread(_prepare, where)
    return SqlStore(Sqlite(where) if is_file else Postgres(where), scratch)


def _prepare(url: URL) -> None:
    if url.get_backend_name() == "sqlite":
        own_file(url)
    migrations.upgrade(url)
