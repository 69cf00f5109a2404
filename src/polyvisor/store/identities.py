"""Projects, users, grants, API keys and sessions; of keys, tokens and passwords only hashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Executable, delete, insert, literal, or_, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.fence import Net, fence, shown
from polyvisor.model.identity import ApiKey, Grant, Project, Quotas, Session, User
from polyvisor.model.ids import KeyId, ProjectId, UserId
from polyvisor.model.principal import Action
from polyvisor.store import codec
from polyvisor.store.foreigners import forget
from polyvisor.store.tables import (
    api_keys,
    derived_grants,
    former_users,
    grants,
    meta,
    projects,
    sessions,
    users,
)
from polyvisor.store.work import Work

_p, _u, _g, _d = projects.c, users.c, grants.c, derived_grants.c


class SqlIdentities:
    """See `ports.store.Identities`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    # -- projects ------------------------------------------------------------------------------------------------

    async def add_project(self, project: Project) -> Project:
        """Insert; the number is given here."""
        number = await self._next("projects")
        row: dict[str, Any] = {"id": project.id, "name": project.name, "created": codec.micros(project.created)}
        row |= {"parent": project.parent, "number": number} | _limits(project.quotas)
        await self._work.insert(insert(projects).values(row), project.id, missing=project.parent or "")
        return await self.project(project.id)

    async def project(self, id: ProjectId) -> Project:
        """One project."""
        row = await self._work.row(select(projects).where(_p.id == id))
        if row is None:
            raise NotFound("there is no such project", subject=id)
        return _project(row)

    async def projects(self) -> Sequence[Project]:
        """Every project, oldest first."""
        query = select(projects).order_by(_p.number)
        return [_project(row) for row in await self._work.rows(query)]

    async def path(self, id: ProjectId) -> Sequence[Project]:
        """The project and those above it, the root last."""
        up = select(projects, literal(0).label("height")).where(_p.id == id).cte("up", recursive=True)
        up = up.union_all(select(projects, (up.c.height + 1).label("height")).where(_p.id == up.c.parent))
        rows = await self._work.rows(select(up).order_by(up.c.height))
        return [_project(row) for row in rows]

    async def below(self, ids: Iterable[ProjectId]) -> Sequence[tuple[ProjectId, ProjectId | None]]:
        """These projects and all below them, with their parents."""
        rows = await self._work.rows(select(below(ids)))
        return [(ProjectId(row.id), ProjectId(row.parent) if row.parent else None) for row in rows]

    async def save_project(self, project: Project) -> None:
        """Write name and quotas."""
        row = {"name": project.name} | _limits(project.quotas)
        await self._work.revise(update(projects).where(_p.id == project.id).values(row), project.id, "project")

    async def remove_project(self, id: ProjectId) -> None:
        """Delete, with what was granted on it and its keys."""
        await self._work.revise(delete(projects).where(_p.id == id), id, "project")
        await forget(self._work, id)

    # -- users ---------------------------------------------------------------------------------------------------

    async def add_user(self, user: User) -> User:
        """Insert; the number is given here."""
        row: dict[str, Any] = {"id": user.id, "name": user.name, "number": await self._next("users")}
        row |= {"created": codec.micros(user.created)} | _standing(user)
        await self._work.insert(insert(users).values(row), user.name, missing=user.project)
        return await self.user(user.id)

    async def save_user(self, user: User) -> None:
        """Write password, project, whether it is an operator and whether it is disabled."""
        await self._work.revise(update(users).where(_u.id == user.id).values(_standing(user)), user.name, "user")

    async def remove_user(self, id: UserId, at: datetime) -> None:
        """Delete, with what was granted to it, its keys and sessions, and the rows about them."""
        name = (await self.user(id)).name
        for key in [key.id for key in await self.keys() if key.user == id]:
            await forget(self._work, key)
        await forget(self._work, id)
        await self._work.revise(delete(users).where(_u.id == id), id, "user")
        await self._work.change(delete(former_users).where(former_users.c.name == name))
        await self._work.insert(insert(former_users).values(name=name, removed=codec.micros(at)), name)

    async def removed_user(self, name: str) -> datetime | None:
        """When the last user of that name was removed."""
        found = await self._work.value(select(former_users.c.removed).where(former_users.c.name == name))
        return codec.moment_or_none(found)

    async def user(self, id: UserId) -> User:
        """One user."""
        row = await self._work.row(select(users).where(_u.id == id))
        if row is None:
            raise NotFound("there is no such user", subject=id)
        return _user(row)

    async def user_named(self, name: str) -> User | None:
        """By name."""
        row = await self._work.row(select(users).where(_u.name == name))
        return None if row is None else _user(row)

    async def users(self) -> Sequence[User]:
        """Every user, oldest first."""
        return [_user(row) for row in await self._work.rows(select(users).order_by(_u.number))]

    # -- grants --------------------------------------------------------------------------------------------------

    async def put_grant(self, grant: Grant) -> bool:
        """Insert; False: it is there already."""
        row = {"user": grant.user, "project": grant.project, "action": grant.action.value}
        if grant.origin:
            await self._work.insert(insert(derived_grants).values(origin=grant.origin, **row), grant.user)
            return True
        here = _g.user == grant.user, _g.project == grant.project, _g.action == grant.action.value
        if await self._work.row(select(grants).where(*here)) is not None:
            return False
        await self._work.insert(insert(grants).values(row), grant.user, missing=grant.user)
        return True

    async def remove_grants(self, user: UserId, project: ProjectId, actions: Iterable[Action] | None = None) -> int:
        """Delete those, or all of the user's on the project; how many there were."""
        query = delete(grants).where(_g.user == user, _g.project == project)
        if actions is not None:
            query = query.where(_g.action.in_([action.value for action in actions]))
        return await self._work.change(query)

    async def grants(self, user: UserId | None = None, project: ProjectId | None = None) -> Sequence[Grant]:
        """Those of a user, on a project, or all."""
        own = select(literal("").label("origin"), _g.user, _g.project, _g.action)
        derived = select(_d.origin, _d.user, _d.project, _d.action)
        if user is not None:
            own, derived = own.where(_g.user == user), derived.where(_d.user == user)
        if project is not None:
            own, derived = own.where(_g.project == project), derived.where(_d.project == project)
        return await self._grants(own.union_all(derived).order_by("project", "user", "action", "origin"))

    async def derived(self, origin: str) -> Sequence[Grant]:
        """Those that a dialect's rows say."""
        return await self._grants(select(derived_grants).where(_d.origin == origin))

    async def remove_derived(self, grant: Grant) -> None:
        """Delete one of those."""
        here = _d.user == grant.user, _d.project == grant.project, _d.action == grant.action.value
        await self._work.change(delete(derived_grants).where(_d.origin == grant.origin, *here))

    async def _grants(self, query: Executable) -> Sequence[Grant]:
        known = {action.value: action for action in Action}  # one that a newer version knew allows nothing here
        return [
            Grant(UserId(row.user), ProjectId(row.project), known[row.action], row.origin)
            for row in await self._work.rows(query)
            if row.action in known
        ]

    # -- keys and sessions ---------------------------------------------------------------------------------------

    async def add_key(self, key: ApiKey) -> None:
        """Insert."""
        row: dict[str, Any] = {"id": key.id, "name": key.name, "project": key.project, "prefix": key.prefix}
        row |= {"digest": key.digest, "created": codec.micros(key.created), "operator": key.operator}
        row |= {"expires": codec.micros_or_none(key.expires), "user": key.user, "used": codec.micros_or_none(key.used)}
        row |= _limited(key)
        await self._work.insert(insert(api_keys).values(row), key.id, missing=key.project)

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        """The key with that hash."""
        row = await self._work.row(select(api_keys).where(api_keys.c.digest == digest))
        return None if row is None else _key(row)

    async def keys(self) -> Sequence[ApiKey]:
        """Every key, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created, api_keys.c.id)
        return [_key(row) for row in await self._work.rows(query)]

    async def used_key(self, id: KeyId, at: datetime) -> None:
        """Write when it was used last."""
        await self._work.change(update(api_keys).where(api_keys.c.id == id).values(used=codec.micros(at)))

    async def save_key(self, key: ApiKey) -> None:
        """Write name, when it expires, scopes and fence."""
        row = {"name": key.name, "expires": codec.micros_or_none(key.expires)} | _limited(key)
        await self._work.revise(update(api_keys).where(api_keys.c.id == key.id).values(row), key.id, "key")

    async def remove_key(self, id: KeyId) -> None:
        """Delete, with the rows about it."""
        await forget(self._work, id)
        await self._work.revise(delete(api_keys).where(api_keys.c.id == id), id, "key")

    async def add_session(self, session: Session) -> None:
        """Insert."""
        row: dict[str, Any] = {"id": session.id, "user": session.user, "digest": session.digest}
        row |= {"created": codec.micros(session.created), "expires": codec.micros(session.expires)}
        await self._work.insert(insert(sessions).values(row), session.id, missing=session.user)

    async def session_by_digest(self, digest: str) -> Session | None:
        """The session with that hash."""
        row = await self._work.row(select(sessions).where(sessions.c.digest == digest))
        if row is None:
            return None
        times = codec.moment(row.created), codec.moment(row.expires)
        return Session(KeyId(row.id), UserId(row.user), row.digest, *times)

    async def remove_session(self, digest: str) -> bool:
        """Delete; False: there was none."""
        return await self._work.change(delete(sessions).where(sessions.c.digest == digest)) > 0

    async def end_sessions(self, *, before: datetime | None = None, of: UserId | None = None) -> int:
        """Delete those that expired before then, and all of a user."""
        which = []
        if before is not None:
            which.append(sessions.c.expires <= codec.micros(before))
        if of is not None:
            which.append(sessions.c.user == of)
        return await self._work.change(delete(sessions).where(or_(*which))) if which else 0

    async def _next(self, table: str) -> int:
        """A number that was never given out before."""
        key = f"next_{table}"
        value = await self._work.value(select(meta.c.value).where(meta.c.key == key))
        number = int(value)
        await self._work.change(update(meta).where(meta.c.key == key).values(value=str(number + 1)))
        return number


def below(ids: Iterable[ProjectId]) -> Any:
    """A table of these projects and all below them: their ids and parents."""
    down = select(_p.id, _p.parent).where(_p.id.in_(list(ids))).cte("down", recursive=True)
    return down.union(select(_p.id, _p.parent).where(_p.parent == down.c.id))


def _limits(quotas: Quotas) -> dict[str, Any]:
    return {
        "max_instances": quotas.instances,
        "max_vcpus": quotas.vcpus,
        "max_memory": quotas.memory,
        "max_disk": quotas.disk,
        "max_snapshots": quotas.snapshots,
    }


def _standing(user: User) -> dict[str, Any]:
    told = {"password": user.password, "project": user.project}
    return told | {"operator": user.operator, "disabled": user.disabled}


def _limited(key: ApiKey) -> dict[str, Any]:
    scopes = None if key.scopes is None else " ".join(sorted(key.scopes))
    return {"scopes": scopes, "allow": _words(key.fence.allow), "deny": _words(key.fence.deny)}


def _words(nets: Iterable[Net]) -> str:
    return " ".join(shown(net) for net in nets)


def _project(row: Any) -> Project:
    return Project(
        id=ProjectId(row.id),
        name=row.name,
        created=codec.moment(row.created),
        parent=ProjectId(row.parent) if row.parent else None,
        quotas=Quotas(row.max_instances, row.max_vcpus, row.max_memory, row.max_disk, row.max_snapshots),
        number=row.number,
    )


def _user(row: Any) -> User:
    created = codec.moment(row.created)
    return User(
        UserId(row.id), row.name, row.password, ProjectId(row.project), bool(row.operator), created, row.number,
        bool(row.disabled),
    )  # fmt: skip


def _key(row: Any) -> ApiKey:
    known = {action.value: action for action in Action}
    scopes = None if row.scopes is None else frozenset(known[name] for name in row.scopes.split() if name in known)
    return ApiKey(
        id=KeyId(row.id),
        name=row.name,
        project=ProjectId(row.project),
        prefix=row.prefix,
        digest=row.digest,
        created=codec.moment(row.created),
        operator=bool(row.operator),
        expires=codec.moment_or_none(row.expires),
        user=UserId(row.user) if row.user else None,
        scopes=scopes,
        used=codec.moment_or_none(row.used),
        fence=fence(row.allow.split(), row.deny.split()),
    )
