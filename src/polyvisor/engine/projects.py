"""Projects: a tree of owners, with what each branch may hold."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from polyvisor.access.credentials import find_project
from polyvisor.access.grants import permit, scope
from polyvisor.engine.ingress import IngressEngine
from polyvisor.engine.instances import InstancesEngine, Until
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.volumes import VolumesEngine
from polyvisor.model.faults import Busy, Exists, Forbidden, Invalid, NotFound, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.identity import MAX_DEPTH, Grant, Project, Quotas, Usage
from polyvisor.model.ids import ProjectId, UserId, check_name, mint
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store, Unit

NO_QUOTAS = Quotas()
_MOST = 100_000
_LIMIT = 120.0  # seconds for what was in it to go


@dataclass(frozen=True, slots=True)
class Standing:
    """A project, and what it holds together with those below it."""

    project: Project
    usage: Usage


@dataclass(frozen=True, slots=True)
class Inhabitants:
    """What can be in a project."""

    instances: InstancesEngine
    power: PowerEngine
    volumes: VolumesEngine
    snapshots: SnapshotsEngine
    ingresses: IngressEngine

    async def clear(self, store: Store, owner: Principal) -> None:
        """Delete all that the owner's project has: first what leads to others."""
        here = [owner.project]
        async with store.read() as unit:
            ingresses = (await unit.ingresses.page(here, None, _MOST)).items
            instances = (await unit.instances.page(here, None, _MOST)).items
        for ingress in ingresses:
            await self.ingresses.delete(owner, ingress.id)
        asked = [await self.power.delete(owner, one.id, force=True) for one in instances]
        for one in asked:
            await self.instances.settle(one, Until.LAUNCHED, _LIMIT)
        async with store.read() as unit:
            snapshots = (await unit.snapshots.page(here, None, _MOST)).items
            volumes = (await unit.volumes.page(here, None, _MOST)).items
        for snapshot in snapshots:
            await self.snapshots.delete(owner, snapshot.id)
        for volume in volumes:
            await self.volumes.delete(owner, volume.id)


class ProjectsEngine:
    """Create, read, change, delete."""

    def __init__(self, store: Store, clock: Callable[[], datetime], inhabitants: Inhabitants) -> None:
        self._store = store
        self._clock = clock
        self._inhabitants = inhabitants

    async def create(
        self, principal: Principal, name: str, parent: str = "", quotas: Quotas = NO_QUOTAS, *,
        foreign: Foreign | None = None, owner: Collection[Action] = (),
    ) -> Project:  # fmt: skip
        """A project below another, by default below the one that the caller acts in. Whoever holds anything above holds
        it here. Without a name, which its dialect keeps then, its id is its name. `owner`: what the caller, if it is a
        user, is granted here: no more than it holds above.

        :raise Invalid, NotFound, Forbidden: :raise Exists: its parent has one of that name.
        """
        if name or foreign is None:
            check_name(name)
        _check_quotas(quotas)
        async with self._store.write() as unit:
            above = await self.find(unit, principal, parent or principal.project, Action.PROJECT_CREATE)
            if len(await unit.identities.path(above.id)) >= MAX_DEPTH:
                raise Invalid(f"parent: projects are at most {MAX_DEPTH} deep", field="parent")
            for action in sorted(owner):
                if not principal.may(action, above.id):
                    raise Forbidden(f"nobody passes on what he does not hold: {action}", field="actions")
            id = ProjectId(mint())
            project = Project(id, name or id, self._clock(), above.id, quotas)
            try:
                made = await unit.identities.add_project(project)
                if foreign is not None:
                    await unit.foreigners.put(above.id, project.id, foreign)
            except Exists as error:
                raise Exists(f"name: {above.name} has a project {name}", field="name", subject=name) from error
            for action in sorted(owner if principal.user is not None else ()):
                await unit.identities.put_grant(Grant(UserId(principal.user or ""), project.id, action))
            return made

    async def find(self, unit: Unit, principal: Principal, key: str, action: Action) -> Project:
        """By id or by path, in the caller's transaction. :raise NotFound:"""
        try:
            project = await find_project(unit, key)
            permit(principal, action, project.id, key)
        except NotFound as error:
            raise NotFound(f"no project {key[:80]!r}", field="project", subject=key) from error
        return project

    async def get(self, principal: Principal, key: str, action: Action = Action.PROJECT_VIEW) -> Project:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            return await self.find(unit, principal, key, action)

    async def list(self, principal: Principal) -> Sequence[Project]:
        """Those that the caller may see, oldest first."""
        seen = scope(principal, Action.PROJECT_VIEW)
        async with self._store.read() as unit:
            return [one for one in await unit.identities.projects() if seen is None or one.id in seen]

    async def tree(self) -> Sequence[Project]:
        """Every project, oldest first: names and numbers, which dialects that number groups tell whoever logs in."""
        async with self._store.read() as unit:
            return await unit.identities.projects()

    async def standing(self, principal: Principal, key: str) -> Standing:
        """A project with what it and those below it hold. :raise NotFound:"""
        async with self._store.read() as unit:
            project = await self.find(unit, principal, key, Action.PROJECT_VIEW)
            below = [id for id, _ in await unit.identities.below([project.id])]
            return Standing(project, await unit.instances.usage(below))

    async def enter(self, principal: Principal, key: str) -> Principal:
        """The caller, acting in that project. :raise NotFound: it may do nothing there."""
        async with self._store.read() as unit:
            project = await find_project(unit, key)
        if not principal.operator and not principal.reach.get(project.id):
            raise NotFound(f"no project {key[:80]!r}", field="project", subject=key)
        return principal.in_project(project.id)

    async def update(
        self, principal: Principal, key: str, *, name: str | None = None, quotas: Quotas | None = None,
        foreign: Foreign | None = None,
    ) -> Project:  # fmt: skip
        """Another name, other quotas, what a dialect keeps with it. What is over a new quota stays; more is refused.

        Who may set a project's quotas is who may alter the one above it: nobody raises the limit that he was given.
        :raise NotFound, Forbidden, Exists, Invalid:
        """
        if quotas is not None:
            _check_quotas(quotas)
        async with self._store.write() as unit:
            project = await self.find(unit, principal, key, Action.PROJECT_ALTER)
            if quotas is not None and not _may_limit(principal, project):
                raise Forbidden("a project's quotas are set from above it", field="quotas")
            if name == "" and foreign is not None:
                name = project.id
            called = check_name(name) if name else project.name
            project = replace(project, name=called, quotas=quotas or project.quotas)
            await unit.identities.save_project(project)
            if foreign is not None:
                await unit.foreigners.put(project.parent or project.id, project.id, foreign)
        return project

    async def delete(self, principal: Principal, key: str, *, force: bool = False) -> None:
        """A project without projects below it. `force`: with all that is in it, running or not.

        :raise NotFound, Forbidden: :raise Busy: something is in it, or it cannot be deleted now.
        """
        async with self._store.read() as unit:
            project = await self.find(unit, principal, key, Action.PROJECT_DELETE)
            if project.parent is None:
                raise WrongState("the root of the projects stays", field="project", subject=key)
            if len(await unit.identities.below([project.id])) > 1:
                raise Busy("project: there are projects below it", field="project", subject=key)
            users = [user.name for user in await unit.identities.users() if user.project == project.id]
            if users:
                raise Busy(f"project: it is the home of user {users[0]}", field="project", subject=key)
        if force:
            owner = replace(principal, operator=True, actions=principal.actions | _REMOVALS).in_project(project.id)
            await self._inhabitants.clear(self._store, owner)  # who may delete a project may delete what is in it
        async with self._store.write() as unit:
            usage = await unit.instances.usage([project.id])
            if usage.instances or usage.disk or usage.snapshots:
                raise Busy("project: it is not empty", field="project", subject=key)
            try:
                await unit.identities.remove_project(project.id)
            except NotFound as error:  # something refers to it
                raise Busy("project: it is not empty", field="project", subject=key) from error


_REMOVALS = frozenset(
    {Action.INSTANCE_DELETE, Action.INSTANCE_VIEW, Action.SNAPSHOT_DELETE, Action.SNAPSHOT_VIEW, Action.VOLUME_DELETE,
     Action.VOLUME_VIEW, Action.INGRESS_DELETE, Action.INGRESS_VIEW}
)  # fmt: skip


def _may_limit(principal: Principal, project: Project) -> bool:
    return principal.operator or (project.parent is not None and principal.may(Action.PROJECT_ALTER, project.parent))


def _check_quotas(quotas: Quotas) -> None:
    for name in ("instances", "vcpus", "memory", "disk", "snapshots"):
        if not 0 <= getattr(quotas, name) < 2**62:
            raise Invalid(f"{name}: must be 0 (no limit) or more", field=name)
