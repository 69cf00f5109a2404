"""What dialects keep with things of ours. Kept and handed back; nobody here reads a remainder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from polyvisor.access.grants import scope
from polyvisor.model.foreign import Foreign
from polyvisor.model.ids import InstanceId, ProjectId
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store

_MOST = 10_000  # projects that have one of the same name


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

    async def called(self, principal: Principal, dialect: str, kind: str, name: str) -> Collection[InstanceId]:
        """The instances that the caller sees and whose name or alias that is: a project has one of each at most."""
        seen = scope(principal, Action.INSTANCE_VIEW)
        async with self._store.read() as unit:
            named = (await unit.instances.page(seen, None, _MOST, name=name)).items
            aliases = await unit.foreigners.find(seen, dialect, kind, name)
        return {*(one.id for one in named), *map(InstanceId, aliases)}

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
