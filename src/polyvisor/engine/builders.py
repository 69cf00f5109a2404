"""Builders: disks that builds keep their layers on, so that the next one need not do all of it again.

A builder's disk is a volume. One build at a time has it; while one does or waits to, it is neither emptied nor deleted.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

from polyvisor.access.grants import permit, require, scope
from polyvisor.engine.buildlog import TABLE
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.model.build import Builder, BuilderState, BuildId, check_builder_id
from polyvisor.model.faults import Busy, Exists, Fault, Invalid, NotFound, OverQuota
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, VolumeId, mint
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.units import GIB, Bytes
from polyvisor.model.volume import Volume
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
SIZE = Bytes(20 * GIB)
"""Of one that says nothing of it."""
MOST = 50  # of one project
PREFIX = "builder-disk-"
_KIND = "builder"
Open = Callable[[ProjectId, str], tuple[BuildId | None, tuple[BuildId, ...]]]


class BuildersEngine:
    """Make, tell of, empty, delete; and take turns on one."""

    def __init__(self, store: Store, volumes: VolumesEngine, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._volumes = volumes
        self._clock = clock
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._changes = asyncio.Lock()
        self._aside: set[asyncio.Task[None]] = set()
        self.open_on: Open = lambda project, id: (None, ())

    async def create(
        self, principal: Principal, id: str = "", name: str = "", size: Bytes = SIZE,
        labels: tuple[tuple[str, str], ...] = (),
    ) -> Builder:  # fmt: skip
        """One with an empty disk. :raise Invalid, Exists: :raise OverQuota, NoCapacity: there is no room for it."""
        require(principal, Action.VOLUME_CREATE)
        id = check_builder_id(id) if id else mint()
        builder = Builder(id, principal.project, name, size, self._clock(), labels=labels)
        async with self._changes:
            known = [one for one in await self._all() if one.project == principal.project]
            if any(one.id == id for one in known):
                raise Exists(f"id: there is a builder {id} already", field="id", subject=id)
            if len(known) >= MOST:
                raise OverQuota(f"a project has at most {MOST} builders")
            disk = await self._disk(principal, builder)
            try:
                async with self._store.write() as unit:
                    row = await unit.rows.add(_row(replace(builder, volume=disk.id)))
            except BaseException:
                await self._volumes.delete(SYSTEM.in_project(builder.project), disk.id)
                raise
        return replace(builder, volume=disk.id, key=row.key)

    async def _disk(self, principal: Principal, builder: Builder) -> Volume:
        """A volume that is called after it, where something may be and nothing else is."""
        try:
            return await self._volumes.create(principal, PREFIX + builder.id, builder.size)
        except (Exists, Invalid) as fault:
            if fault.field != "name":
                raise
            return await self._volumes.create(principal, "", builder.size)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def _all(self) -> list[Builder]:
        async with self._store.read() as unit:
            return [_builder(row) for row in await unit.rows.of(TABLE, [_KIND])]

    async def _seen(self, builder: Builder) -> Builder:
        """With what runs on it; without its disk it is of no use."""
        active, queued = self.open_on(builder.project, builder.id)
        state = builder.state
        if state is BuilderState.READY and not await self._has_disk(builder):
            state = BuilderState.ERROR
        return replace(builder, state=state, active=active, queued=queued)

    async def _has_disk(self, builder: Builder) -> bool:
        try:
            await self._volumes.get(SYSTEM, builder.volume or "")
        except NotFound:
            return False
        return True

    async def list(self, principal: Principal) -> Sequence[Builder]:
        """Those that the caller may see, oldest first."""
        whose = scope(principal, Action.VOLUME_VIEW)
        found = [one for one in await self._all() if whose is None or one.project in whose]
        return [await self._seen(one) for one in found]

    async def get(self, principal: Principal, id: str, action: Action = Action.VOLUME_VIEW) -> Builder:
        """By its id alone; the caller's project's comes first. :raise NotFound:"""
        found = [one for one in await self._all() if one.id == id]
        found.sort(key=lambda one: one.project != principal.project)
        for builder in found:
            try:
                permit(principal, action, builder.project, id)
            except NotFound:
                continue
            return await self._seen(builder)
        raise NotFound("builder not found", field="builder_id", subject=id[:80])

    async def usable(self, principal: Principal, id: str) -> Builder:
        """For a build of the caller's project. :raise NotFound: :raise Busy: it takes none now."""
        found = await self.get(principal, id, Action.VOLUME_USE)
        if found.project != principal.project:
            raise NotFound("builder not found", field="builder_id", subject=id[:80])
        if found.state is not BuilderState.READY:
            raise Busy(f"builder {id} is {found.state}", field="builder_id", subject=id)
        return found

    async def holds(self, volume: str) -> bool:
        """Whether it is some builder's disk."""
        return any(one.volume == volume for one in await self._all())

    # -- using -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def turn(self, project: ProjectId, id: str, build: BuildId) -> AsyncIterator[VolumeId | None]:
        """Its disk, for one build at a time; None where none is named. :raise NotFound, Busy: it is gone meanwhile."""
        if not id:
            yield None
            return
        lock = self._turns.setdefault((project, id), asyncio.Lock())
        async with lock:
            found = await self.usable(SYSTEM.in_project(project), id)
            await self._save(replace(found, used=self._clock()))
            yield found.volume

    # -- changing ----------------------------------------------------------------------------------------------------

    async def prune(self, principal: Principal, id: str) -> Builder:
        """Its disk is empty again, in a while. :raise NotFound: :raise Busy: it is used."""
        async with self._changes:
            found = await self._idle(principal, id, Action.VOLUME_ALTER)
            found = await self._save(replace(found, state=BuilderState.PRUNING))
            self._begin(found)
        return found

    async def delete(self, principal: Principal, id: str) -> None:
        """It and its disk are gone. :raise NotFound: :raise Busy: it is used."""
        async with self._changes:
            found = await self._idle(principal, id, Action.VOLUME_DELETE)
            found = await self._save(replace(found, state=BuilderState.DELETING))
            await self._removed(found)

    async def _idle(self, principal: Principal, id: str, action: Action) -> Builder:
        found = await self.get(principal, id, action)
        if found.active or found.queued:
            raise Busy(f"builder {id} is in use", field="id", subject=id)
        if found.state in (BuilderState.PRUNING, BuilderState.DELETING):
            raise Busy(f"builder {id} is {found.state}", field="id", subject=id)
        return found

    async def _removed(self, builder: Builder) -> None:
        await self._discard(builder)
        async with self._store.write() as unit:
            await unit.rows.remove(builder.key)

    async def _discard(self, builder: Builder) -> None:
        """Its disk is gone. :raise Busy: somebody has attached it elsewhere."""
        try:
            await self._volumes.delete(SYSTEM.in_project(builder.project), builder.volume or "")
        except NotFound:
            return
        except Busy:
            await self._save(replace(builder, state=BuilderState.READY))
            raise

    def _begin(self, builder: Builder) -> None:
        work = asyncio.create_task(self._emptied(builder), name=f"prune {builder.id}")
        self._aside.add(work)
        work.add_done_callback(self._aside.discard)

    async def _emptied(self, builder: Builder) -> None:
        try:
            await self._discard(builder)
            disk = await self._disk(SYSTEM.in_project(builder.project), builder)
            await self._save(replace(builder, volume=disk.id, state=BuilderState.READY))
        except Busy as fault:
            log.warning("builder %s: %s", builder.id, fault.public)
        except Fault as fault:
            log.warning("builder %s: %s", builder.id, fault.public)
            await self._save(replace(builder, volume=None, state=BuilderState.ERROR))

    async def _save(self, builder: Builder) -> Builder:
        async with self._store.write() as unit:
            await unit.rows.save(_row(builder))
        return builder

    async def recover(self) -> None:
        """What a server was about to do when it ended is done. Called once, at the server's start."""
        for builder in await self._all():
            if builder.state is BuilderState.PRUNING:
                self._begin(builder)
            elif builder.state is BuilderState.DELETING:
                try:
                    await self._removed(builder)
                except Fault as fault:
                    log.warning("builder %s: %s", builder.id, fault.public)

    async def close(self) -> None:
        """The server goes; what is begun is done, which takes a moment."""
        await asyncio.gather(*self._aside, return_exceptions=True)


def _row(builder: Builder) -> Row:
    told: dict[str, Any] = asdict(builder)
    for name in ("id", "project", "active", "queued", "key"):
        del told[name]
    told |= {"created": builder.created.isoformat(), "used": builder.used and builder.used.isoformat()}
    name = f"{builder.project}/{builder.id}"
    return Row(TABLE, _KIND, name, builder.project, name, json.dumps(told), builder.key)


def _builder(row: Row) -> Builder:
    told = json.loads(row.data)
    told |= {
        "created": datetime.fromisoformat(told["created"]), "state": BuilderState(told["state"]),
        "used": told["used"] and datetime.fromisoformat(told["used"]),
        "labels": tuple((key, value) for key, value in told["labels"]),
    }  # fmt: skip
    return Builder(id=row.name.partition("/")[2], project=row.project, key=row.key, **told)
