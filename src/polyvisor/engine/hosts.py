"""Hosts: what there is to run on, and the sums that monitoring wants."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from polyvisor.access.grants import permit, require_operator, require_somewhere, scope
from polyvisor.model.host import DiskCounts, HostReport, Taken
from polyvisor.model.identity import Usage
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

T = TypeVar("T")
_AT_ONCE = 16  # machines that are asked something at a time


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

    async def accounts(self, principal: Principal) -> Mapping[InstanceId, Taken]:
        """What every instance that runs takes, without its traffic: one question for all. :raise Forbidden: it is for
        operators, and for the server itself."""
        require_operator(principal)
        return await self._host.accounts()

    async def traffic(self, principal: Principal, instances: Sequence[Instance]) -> Mapping[InstanceId, Taken]:
        """As `taken`, of many that the caller has found, a few of them asked at a time."""
        return await self._of_each(principal, instances, self._host.taken)

    async def disk_counts(
        self, principal: Principal, instances: Sequence[Instance]
    ) -> Mapping[InstanceId, Mapping[str, DiskCounts]]:
        """What their disks have done since they run, by the disks' serials (`serial_of`), likewise."""
        return await self._of_each(principal, instances, self._host.disk_counts)

    async def _of_each(
        self, principal: Principal, instances: Sequence[Instance], ask: Callable[[InstanceId], Awaitable[T]]
    ) -> Mapping[InstanceId, T]:
        turn = asyncio.Semaphore(_AT_ONCE)

        async def one(instance: Instance) -> T:
            permit(principal, Action.INSTANCE_VIEW, instance.project, instance.id)
            async with turn:
                return await ask(instance.id)

        found = await asyncio.gather(*(one(instance) for instance in instances))
        return {instance.id: told for instance, told in zip(instances, found, strict=True)}

    async def healthy(self) -> bool:
        """Whether the store answers and the host can take instances."""
        async with self._store.read() as unit:
            await unit.events.last()
        return (await self._host.report()).ok
