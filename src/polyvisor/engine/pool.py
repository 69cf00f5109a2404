"""The warm pool: for each template some copies that run already, have run a command, and belong to nobody.

A create that fits takes one over: it is told its name and its workload, which is all that is left to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from polyvisor.engine.instances import InstancesEngine, Until
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, NoCapacity
from polyvisor.model.ids import InstanceId, SnapshotId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotState
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_AT_ONCE = 4  # new ones for a template in one turn: creates that people wait for come first
_EXERCISES = 2
_LIMIT = 60.0
_LIVELY = {Face.CREATING, Face.STARTING, Face.RUNNING}


class PoolEngine:
    """`size` spares for each template; 0: none."""

    def __init__(
        self, store: Store, instances: InstancesEngine, power: PowerEngine, streams: StreamsEngine, size: int
    ) -> None:
        self._store = store
        self._instances = instances
        self._power = power
        self._streams = streams
        self._size = size
        self._exercised: set[InstanceId] = set()
        self._retired: set[SnapshotId] = set()
        self._turn = asyncio.Lock()

    async def tick(self) -> None:
        """Make what is missing, exercise what is new, remove what is of no use any more."""
        async with self._turn:
            await self._tick()

    @asynccontextmanager
    async def retired(self, template: SnapshotId) -> AsyncIterator[None]:
        """No copy of that template waits, and none is made, within: it is about to go."""
        self._retired.add(template)
        try:
            async with self._turn:  # one may just be being made
                async with self._store.read() as unit:
                    spares = [s for s in await unit.instances.spares() if s.spec.origin == template]
                for asked in [await self._power.delete_spare(spare.id) for spare in spares]:
                    if asked is not None:
                        await self._instances.settle(asked, Until.LAUNCHED, _LIMIT)
            yield
        finally:
            self._retired.discard(template)

    async def _tick(self) -> None:
        async with self._store.read() as unit:
            templates = [t for t in await unit.snapshots.templates() if t.state is SnapshotState.READY]
            spares = [spare for spare in await unit.instances.spares() if not spare.intent.deleted]
        wanted = {t.id: t for t in templates if t.id not in self._retired} if self._size else {}
        useful = [s for s in spares if s.spec.origin in wanted and face(s) in _LIVELY]
        for spare in spares:
            if spare not in useful:
                await self._power.delete_spare(spare.id)
        for template in wanted.values():
            await self._top_up(template, [s for s in useful if s.spec.origin == template.id])
        await self._exercise([s for s in useful if s.observed.ready and s.id not in self._exercised])
        self._exercised &= {s.id for s in useful}

    async def _top_up(self, template: Snapshot, there: Sequence[Instance]) -> None:
        for _ in range(min(_AT_ONCE, self._size - len(there))):
            try:
                maker = replace(SYSTEM, project=template.project)
                await self._instances.create(maker, Create(snapshot=template.id), bare=True)
            except NoCapacity:
                return  # the host is full: creates boot, or fail, without our adding to it
        for spare in there[self._size :]:
            await self._power.delete_spare(spare.id)

    async def _exercise(self, spares: Sequence[Instance]) -> None:
        for spare in spares:
            self._exercised.add(spare.id)
            try:
                await self._streams.exercise(SYSTEM, spare.id, _EXERCISES)
            except Fault as fault:
                log.info("spare %s: %s", spare.id, fault.public)
