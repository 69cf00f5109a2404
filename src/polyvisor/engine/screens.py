"""Screens: pictures, and viewers who come with a ticket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import monotonic

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.tickets import Ticket, Tickets
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, WrongState
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.host import Host
from polyvisor.ports.screen import Viewer

__all__ = ["ScreensEngine", "Ticket", "Viewer"]  # dialects know a viewer by this module

MOST_VIEWERS = 16  # of one machine at once
_SHOWN = {Face.RUNNING, Face.PAUSED}


class ScreensEngine:
    """Pictures, tickets, connections."""

    def __init__(self, host: Host, instances: InstancesEngine, clock: Callable[[], float] = monotonic) -> None:
        self._host = host
        self._instances = instances
        self._tickets = Tickets(clock)
        self._viewers: Counter[InstanceId] = Counter()

    async def shot(self, principal: Principal, key: str) -> bytes:
        """The screen now, as PNG. :raise WrongState: it does not run. :raise Unsupported: it has no screen."""
        instance = await self._shown(principal, key)
        return await self._host.picture(instance.id)

    async def ticket(self, principal: Principal, key: str) -> Ticket:
        """For one viewer. :raise WrongState, NotFound:"""
        return self._tickets.give(principal, (await self._shown(principal, key)).id)

    async def connect(self, ticket: str) -> Viewer:
        """The screen that a ticket is for; no other credential is asked for, and the ticket is gone.

        :raise NotFound: there is no such ticket. :raise WrongState: the machine has ended. :raise Busy: too many look.
        """
        who, id = self._tickets.take(ticket)
        instance = await self._shown(who, id)
        if self._viewers[instance.id] >= MOST_VIEWERS:
            raise Busy(f"{MOST_VIEWERS} look at this screen already", field="ticket")
        self._viewers[instance.id] += 1
        try:
            return _Counted(await self._host.view(instance.id), lambda: self._left(instance.id))
        except BaseException:
            self._left(instance.id)
            raise

    def watched(self, id: InstanceId) -> int:
        """How many look at its screen now."""
        return self._viewers.get(id, 0)

    def _left(self, id: InstanceId) -> None:
        self._viewers[id] -= 1
        if self._viewers[id] <= 0:
            del self._viewers[id]

    async def _shown(self, principal: Principal, key: str) -> Instance:
        instance = await self._instances.get(principal, key, Action.INSTANCE_INTERACT, anew=True)
        if face(instance) not in _SHOWN:
            raise WrongState(f"the instance is {face(instance)}")
        return instance


class _Counted:
    """A Viewer of whose end somebody is told, once."""

    def __init__(self, viewer: Viewer, left: Callable[[], None]) -> None:
        self._viewer = viewer
        self._left: Callable[[], None] | None = left

    async def read(self) -> bytes:
        """See Viewer."""
        return await self._viewer.read()

    async def write(self, data: bytes) -> None:
        """See Viewer."""
        await self._viewer.write(data)

    async def close(self) -> None:
        """See Viewer."""
        left, self._left = self._left, None
        if left is not None:
            left()
            await self._viewer.close()
