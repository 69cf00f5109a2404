"""Hosts: what there is to run on, and the sums that monitoring wants."""

from __future__ import annotations

from polyvisor.access.grants import permit, require_somewhere, scope
from polyvisor.model.host import HostReport, Taken
from polyvisor.model.identity import Usage
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store


class HostsEngine:
    """Reading hosts."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    async def list(self, principal: Principal) -> list[HostReport]:
        """Every host."""
        require_somewhere(principal, Action.HOST_VIEW)
        return [await self._host.report()]

    async def usage(self, principal: Principal) -> Usage:
        """What the projects hold whose instances the caller sees."""
        require_somewhere(principal, Action.INSTANCE_VIEW)
        async with self._store.read() as unit:
            return await unit.instances.usage(scope(principal, Action.INSTANCE_VIEW))

    async def taken(self, principal: Principal, instance: Instance) -> Taken:
        """What an instance that the caller has found takes of its host."""
        permit(principal, Action.INSTANCE_VIEW, instance.project, instance.id)
        return await self._host.taken(instance.id)

    async def healthy(self) -> bool:
        """Whether the store answers and the host can take instances."""
        async with self._store.read() as unit:
            await unit.events.last()
        return (await self._host.report()).ok
