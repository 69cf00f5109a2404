"""Pools: where volumes can be, as the operator configured it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from polyvisor.access.grants import require_somewhere
from polyvisor.model.faults import NotFound
from polyvisor.model.principal import Action, Principal
from polyvisor.model.volume import DEFAULT_POOL, Pool
from polyvisor.ports.host import Host


class PoolsEngine:
    """Read."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def list(self, principal: Principal) -> Sequence[Pool]:
        """The default one first. Where they are on the host is for operators."""
        require_somewhere(principal, Action.VOLUME_VIEW)
        found = self._host.volumes.pools()
        return found if principal.operator else [replace(pool, path="") for pool in found]

    def numbers(self) -> Mapping[str, int]:
        """The number of each pool, by how a volume's record names it."""
        return {"" if pool.name == DEFAULT_POOL else pool.name: pool.number for pool in self._host.volumes.pools()}

    def numbered(self, number: int) -> str:
        """How a volume's record names the pool of that number. :raise NotFound:"""
        for name, known in self.numbers().items():
            if known == number:
                return name
        raise NotFound(f"pool: no pool {number}", field="pool", subject=str(number))

    def find(self, name: str) -> str:
        """How a volume's record names that pool. :raise NotFound:"""
        if name in ("", DEFAULT_POOL):
            return ""
        if all(pool.name != name for pool in self._host.volumes.pools()):
            raise NotFound(f"pool: no pool {name[:80]!r}", field="pool", subject=name)
        return name
