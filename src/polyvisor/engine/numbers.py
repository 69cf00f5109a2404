"""What dialects call by a number: each thing has one of its kind, given out once.

That a number was given out is no secret, so who may not do something to a thing is told so, and not that there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

from polyvisor.access.grants import require
from polyvisor.model.faults import NotFound
from polyvisor.model.identity import Project, User
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.volume import Volume
from polyvisor.ports.store import Store


class NumbersEngine:
    """By number."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def instance(self, principal: Principal, number: int, action: Action) -> Instance:
        """An instance that the caller may do that to. :raise NotFound: :raise Forbidden:"""
        async with self._store.read() as unit:
            found = await unit.instances.numbered(number)
        require(principal, action, found.project)
        return found

    async def volumes(self) -> Sequence[Volume]:
        """Every volume, for dialects that call them by something made of their ids, which is no secret either."""
        async with self._store.read() as unit:
            return await unit.volumes.all()

    async def project(self, number: int) -> Project:
        """A project. What the caller may do with it is asked with each verb. :raise NotFound:"""
        async with self._store.read() as unit:
            found = await unit.identities.projects()
        for project in found:
            if project.number == number:
                return project
        raise NotFound(f"no project {number}", field="project", subject=str(number))

    async def user(self, number: int) -> User:
        """A user, likewise. :raise NotFound:"""
        async with self._store.read() as unit:
            found = await unit.identities.users()
        for user in found:
            if user.number == number:
                return user
        raise NotFound(f"no user {number}", field="user", subject=str(number))
