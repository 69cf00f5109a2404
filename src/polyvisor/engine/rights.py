"""What projects may do with pools, for dialects whose users ask for that before they put something there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyvisor.access.grants import require
from polyvisor.model.faults import Invalid
from polyvisor.model.identity import Project
from polyvisor.model.principal import Action, Principal
from polyvisor.model.volume import Pool, PoolRights
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store


@dataclass(frozen=True, slots=True)
class Assigned:
    """A pool, and what a project may do there."""

    pool: Pool
    rights: PoolRights


class RightsEngine:
    """Give, take, read. The root of the projects may do everything in every pool, unless it is told otherwise."""

    def __init__(self, store: Store, host: Host) -> None:
        self._store = store
        self._host = host

    async def assign(self, principal: Principal, rights: PoolRights) -> None:
        """In the place of what the project might do there before. A quota is widened by who may assign above as well.

        :raise Forbidden: :raise Invalid: :raise NotFound:
        """
        require(principal, Action.POOL_ASSIGN, rights.project)
        if not 0 <= rights.quota < 2**62:
            raise Invalid("quota: must be 0 (no limit) or more bytes", field="quota")
        async with self._store.write() as unit:
            was = next((one.quota for one in await unit.pools.of(rights.project) if one.pool == rights.pool), 0)
            above = (await unit.identities.project(rights.project)).parent
            if was and above is not None and not 0 < rights.quota <= was:
                require(principal, Action.POOL_ASSIGN, above)
            await unit.pools.put(rights)

    async def revoke(self, principal: Principal, project: Project, pool: str) -> bool:
        """The project may do nothing there; whether it might. What it has there stays. :raise Forbidden:"""
        require(principal, Action.POOL_REVOKE, project.id)
        async with self._store.write() as unit:
            if project.parent is None:
                await unit.pools.put(PoolRights(project.id, pool, 0, writes=False, manages=False))
                return True
            return await unit.pools.remove(project.id, pool)

    async def of(self, project: Project) -> Sequence[Assigned]:
        """What a project may do in which pools; what those above it may is their own."""
        async with self._store.read() as unit:
            found = {one.pool: one for one in await unit.pools.of(project.id)}
        assigned = []
        for pool in self._host.volumes.pools():
            name = "" if pool.number == 0 else pool.name
            rights = found.get(name)
            if rights is None and project.parent is None:
                rights = PoolRights(project.id, name, 0, writes=True, manages=True)
            if rights is not None and (rights.writes or rights.manages or project.parent is not None):
                assigned.append(Assigned(pool, rights))
        return assigned
