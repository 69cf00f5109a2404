"""What dialects keep with things of ours. Kept and handed back; nobody here reads a remainder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Principal
from polyvisor.ports.store import Store


class ForeignersEngine:
    """Aliases and remainders. They are written with the thing they belong to; here they are read and changed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, principal: Principal, dialect: str, kind: str, alias: str) -> Sequence[str]:
        """The ids that an alias stands for, among what the caller may see; its own project's alone if there is one."""
        async with self._store.read() as unit:
            own = await unit.foreigners.find([principal.project], dialect, kind, alias)
            seen = None if principal.operator else principal.reach
            return own or await unit.foreigners.find(seen, dialect, kind, alias)

    async def aliases(self, dialect: str, kind: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """The aliases of things that the caller has found already."""
        async with self._store.read() as unit:
            return await unit.foreigners.aliases(dialect, kind, subjects)

    async def remainders(self, dialect: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """The remainders of things that the caller has found already."""
        async with self._store.read() as unit:
            return await unit.foreigners.remainders(dialect, subjects)

    async def put(self, project: ProjectId, subject: str, foreign: Foreign) -> None:
        """Another remainder for a thing that the caller has found and may change. :raise Exists: the alias is taken."""
        async with self._store.write() as unit:
            await unit.foreigners.put(project, subject, foreign)
