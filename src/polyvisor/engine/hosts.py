"""Hosts: what there is to run on, and the sums that monitoring wants."""

from __future__ import annotations

from polyvisor.access.grants import require, scope
from polyvisor.model.host import HostReport
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Usage


class HostsEngine:
    """Reading hosts."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    async def list(self, principal: Principal) -> list[HostReport]:
        """Every host."""
        require(principal, Action.VIEW)
        return [await self._host.report()]

    async def usage(self, principal: Principal) -> Usage:
        """What the caller's project holds; everything for the operator."""
        require(principal, Action.VIEW)
        async with self._store.read() as unit:
            return await unit.instances.usage(scope(principal))

    async def healthy(self) -> bool:
        """Whether the store answers and the host can take instances."""
        async with self._store.read() as unit:
            await unit.events.last()
        return (await self._host.report()).ok
