"""Projects, users and API keys; of keys and passwords only hashes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update

from polyvisor.model.faults import NotFound
from polyvisor.model.ids import KeyId, ProjectId
from polyvisor.model.principal import ApiKey, Project, User
from polyvisor.store import codec
from polyvisor.store.tables import api_keys, projects, users
from polyvisor.store.work import Work


class SqlIdentities:
    """See `ports.store.Identities`."""

    def __init__(self, work: Work) -> None:
        self._work = work

    async def add_project(self, project: Project) -> None:
        """Insert."""
        row: dict[str, Any] = {
            "id": project.id,
            "name": project.name,
            "created": codec.micros(project.created),
        }
        row |= {"max_instances": project.max_instances, "max_vcpus": project.max_vcpus}
        row |= {"max_memory": project.max_memory, "max_disk": project.max_disk}
        await self._work.insert(insert(projects).values(row), project.id)

    async def project(self, id: ProjectId) -> Project:
        """One project."""
        row = await self._work.row(select(projects).where(projects.c.id == id))
        if row is None:
            raise NotFound("there is no such project", subject=id)
        return _project(row)

    async def projects(self) -> Sequence[Project]:
        """Every project, oldest first."""
        query = select(projects).order_by(projects.c.created, projects.c.id)
        return [_project(row) for row in await self._work.rows(query)]

    async def add_key(self, key: ApiKey) -> None:
        """Insert."""
        row: dict[str, Any] = {"id": key.id, "name": key.name, "project": key.project, "prefix": key.prefix}
        row |= {"digest": key.digest, "created": codec.micros(key.created), "operator": key.operator}
        row |= {"expires": codec.micros_or_none(key.expires)}
        await self._work.insert(insert(api_keys).values(row), key.id, missing=key.project)

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        """The key with that hash."""
        row = await self._work.row(select(api_keys).where(api_keys.c.digest == digest))
        return None if row is None else _key(row)

    async def keys(self) -> Sequence[ApiKey]:
        """Every key, oldest first."""
        query = select(api_keys).order_by(api_keys.c.created, api_keys.c.id)
        return [_key(row) for row in await self._work.rows(query)]

    async def remove_key(self, id: KeyId) -> None:
        """Delete."""
        await self._work.revise(delete(api_keys).where(api_keys.c.id == id), id, "key")

    async def put_user(self, user: User) -> None:
        """Insert or replace; the write lock makes the two statements one."""
        row: dict[str, Any] = {"password": user.password, "project": user.project, "operator": user.operator}
        row |= {"created": codec.micros(user.created)}
        try:
            query = update(users).where(users.c.name == user.name).values(row)
            await self._work.revise(query, user.name, "user")
        except NotFound:
            query_new = insert(users).values(name=user.name, **row)
            await self._work.insert(query_new, user.name, missing=user.project)

    async def user(self, name: str) -> User | None:
        """By name."""
        row = await self._work.row(select(users).where(users.c.name == name))
        if row is None:
            return None
        created = codec.moment(row.created)
        return User(row.name, row.password, ProjectId(row.project), bool(row.operator), created)


def _project(row: Any) -> Project:
    return Project(
        id=ProjectId(row.id),
        name=row.name,
        created=codec.moment(row.created),
        max_instances=row.max_instances,
        max_vcpus=row.max_vcpus,
        max_memory=row.max_memory,
        max_disk=row.max_disk,
    )


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=KeyId(row.id),
        name=row.name,
        project=ProjectId(row.project),
        prefix=row.prefix,
        digest=row.digest,
        created=codec.moment(row.created),
        operator=bool(row.operator),
        expires=codec.moment_or_none(row.expires),
    )
