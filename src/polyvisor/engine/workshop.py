"""Machines that are made to be worked in, and are gone afterwards, whatever came of the work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from polyvisor.engine.instances import InstancesEngine, Until
from polyvisor.engine.power import PowerEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, NotFound, WrongState
from polyvisor.model.ids import ProjectId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Principal
from polyvisor.model.request import Create

log = logging.getLogger("polyvisor.engine")
UP_LIMIT = 900.0
_GONE_LIMIT = 300.0


class Workshop:
    """Make one, have it, clear it away."""

    def __init__(self, instances: InstancesEngine, power: PowerEngine) -> None:
        self._instances = instances
        self._power = power

    @asynccontextmanager
    async def open(
        self, principal: Principal, wanted: Create, note: Callable[[Instance], Awaitable[None]]
    ) -> AsyncIterator[Instance]:
        """A machine whose guest is up. `note` is told of it as soon as there is a record of it.

        It goes in the server's name: its maker may have no right to that, or none any more.
        :raise WrongState: it did not come up. :raise Fault: it cannot be made.
        """
        asked = await self._instances.create(principal, wanted)
        try:
            await note(asked.instance)
            found = await self._instances.settle(asked, Until.READY, UP_LIMIT)
            if face(found) is not Face.RUNNING:
                raise WrongState(f"the VM did not come up: {found.observed.fault or f'it is {face(found)}'}")
            yield found
        finally:
            await self.clear(asked.instance.project, asked.instance.id)

    async def clear(self, project: ProjectId, key: str) -> None:
        """That machine, by its id or name, is no more; one that is not there is fine. Who is cancelled waits for it."""
        work = asyncio.create_task(self._clear(project, key), name=f"clear {key}")
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            raise

    async def _clear(self, project: ProjectId, key: str) -> None:
        try:
            gone = await self._power.delete(SYSTEM.in_project(project), key)
            await self._instances.settle(gone, Until.LAUNCHED, _GONE_LIMIT)
        except NotFound:
            return
        except Fault as fault:
            log.warning("machine %s: %s %s", key, fault.public, fault.private)
