"""Who may do what, over HTTP: sessions, projects, users, grants, keys, the audit log."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from polyvisor.dialects.kit.credentials import source_of
from polyvisor.dialects.native.auth import Caller, Core, credential
from polyvisor.dialects.native.params import Key, PageSize
from polyvisor.engine.keys import KeyRequest
from polyvisor.engine.projects import Standing
from polyvisor.engine.users import Membership
from polyvisor.model.faults import Invalid, Unauthenticated
from polyvisor.model.identity import ApiKey, AuditFilter, Project, Quotas, Usage, User
from polyvisor.model.principal import Action, Credential
from polyvisor.model.ssh import SshKey
from polyvisor.model.units import parse_duration, parse_size
from polyvisor.wire import access as wire

router = APIRouter()
ProjectPath = Annotated[str, Path(max_length=2048, pattern=r"^[^\x00]+$", description="an id or a path of names")]
Words = Annotated[str, Query(max_length=255)]


@router.post("/sessions", status_code=201, tags=["access"])
async def login(body: wire.Login, request: Request, core: Core) -> wire.LoggedIn:
    """Log in with a name and a password. The token is used as an API key is, and ends with the session."""
    lifetime = timedelta(seconds=parse_duration(body.lifetime, "lifetime"))
    given = Credential(name=body.name, password=body.password, source=source_of(request))
    token, session, user = await core.sessions.login(given, lifetime)
    return wire.LoggedIn(token=token, user=user.name, expires=session.expires)


@router.delete("/sessions", status_code=204, tags=["access"])
async def logout(request: Request, core: Core) -> Response:
    """Log out: the token that this is asked with holds no more."""
    shown = credential(request)
    if shown is None or not shown.key:
        raise Unauthenticated()
    await core.sessions.logout(shown.key)
    return Response(status_code=204)


# -- projects ------------------------------------------------------------------------------------------------------


@router.post("/projects", status_code=201, tags=["access"])
async def create_project(body: wire.CreateProject, caller: Caller, core: Core) -> wire.Project:
    """Create a project below another. What is granted above holds in it, and its quotas within those above."""
    project = await core.projects.create(caller, body.name, body.parent, _quotas(body.quotas, Quotas()))
    return _project(project, await core.projects.list(caller))


@router.get("/projects", tags=["access"])
async def list_projects(caller: Caller, core: Core) -> wire.ProjectList:
    """The projects that the caller may see, oldest first."""
    found = await core.projects.list(caller)
    return wire.ProjectList(items=[_project(one, found) for one in found])


@router.get("/projects/{key:path}", tags=["access"])
async def get_project(key: ProjectPath, caller: Caller, core: Core) -> wire.Project:
    """One project, with what it and those below it hold."""
    standing = await core.projects.standing(caller, key)
    return _project(standing.project, await core.projects.list(caller), standing)


@router.patch("/projects/{key:path}", tags=["access"])
async def update_project(key: ProjectPath, body: wire.UpdateProject, caller: Caller, core: Core) -> wire.Project:
    """Rename a project, or set its quotas, which is for who may alter the project above it."""
    before = await core.projects.get(caller, key)
    quotas = None if body.quotas is None else _quotas(body.quotas, before.quotas)
    project = await core.projects.update(caller, before.id, name=body.name, quotas=quotas)
    return _project(project, await core.projects.list(caller))


@router.delete("/projects/{key:path}", status_code=204, tags=["access"])
async def delete_project(key: ProjectPath, caller: Caller, core: Core, force: bool = False) -> Response:
    """Delete a project that is empty; with `force`, with all that is in it. Projects below it are in the way."""
    await core.projects.delete(caller, key, force=force)
    return Response(status_code=204)


def _quotas(asked: wire.QuotasRequest | None, before: Quotas) -> Quotas:
    if asked is None:
        return before
    return Quotas(
        instances=before.instances if asked.instances is None else asked.instances,
        vcpus=before.vcpus if asked.vcpus is None else asked.vcpus,
        memory=before.memory if asked.memory is None else parse_size(asked.memory, "memory"),
        disk=before.disk if asked.disk is None else parse_size(asked.disk, "disk"),
        snapshots=before.snapshots if asked.snapshots is None else asked.snapshots,
    )


def _amounts(of: Quotas | Usage) -> wire.Amounts:
    return wire.Amounts(
        instances=of.instances, vcpus=of.vcpus, memory=of.memory, disk=of.disk, snapshots=of.snapshots
    )  # fmt: skip


def _project(project: Project, seen: Iterable[Project], standing: Standing | None = None) -> wire.Project:
    """`seen`: the path begins with the highest of those above it that the caller sees."""
    tree, here = {one.id: one for one in seen}, project
    names: list[str] = []
    while here.parent is not None:
        names.insert(0, here.name)
        if here.parent not in tree:
            break
        here = tree[here.parent]
    return wire.Project(
        id=project.id, name=project.name, path="/".join(names) or project.name, parent=project.parent,
        quotas=_amounts(project.quotas), usage=_amounts(standing.usage) if standing else None, created=project.created,
    )  # fmt: skip


# -- users and grants ----------------------------------------------------------------------------------------------


@router.post("/users", status_code=201, tags=["access"])
async def create_user(body: wire.CreateUser, caller: Caller, core: Core) -> wire.User:
    """Create a user, who may do nothing until something is granted."""
    made = await core.users.create(
        caller, body.name, body.password, project=body.project, operator=body.operator
    )  # fmt: skip
    return _user(made)


@router.get("/users", tags=["access"])
async def list_users(caller: Caller, core: Core) -> wire.UserList:
    """Every user, oldest first."""
    return wire.UserList(items=[_user(one) for one in await core.users.list(caller)])


@router.get("/users/{key}", tags=["access"])
async def get_user(key: Key, caller: Caller, core: Core) -> wire.User:
    """One user, by id or name."""
    return _user(await core.users.get(caller, key))


@router.patch("/users/{key}", tags=["access"])
async def update_user(key: Key, body: wire.UpdateUser, caller: Caller, core: Core) -> wire.User:
    """Change one's own password, or another user's who holds no more than the caller."""
    more = body.model_dump(exclude_none=True)
    return _user(await core.users.update(caller, key, **more))


@router.delete("/users/{key}", status_code=204, tags=["access"])
async def delete_user(key: Key, caller: Caller, core: Core) -> Response:
    """Delete a user with its grants, keys and sessions. What it made stays."""
    await core.users.delete(caller, key)
    return Response(status_code=204)


def _user(user: User) -> wire.User:
    return wire.User(
        id=user.id, name=user.name, project=user.project, operator=user.operator, disabled=user.disabled,
        created=user.created,
    )  # fmt: skip


@router.post("/grants", tags=["access"])
async def assign(body: wire.GrantRequest, caller: Caller, core: Core) -> wire.Membership:
    """Let a user do that in a project and all below it. Nobody passes on what he does not hold."""
    return _membership(await core.grants.assign(caller, body.user, body.project, actions_of(body.actions)))


@router.get("/grants", tags=["access"])
async def list_grants(
    caller: Caller, core: Core, user: Words | None = None, project: Annotated[str | None, Query(max_length=2048)] = None
) -> wire.MembershipList:
    """What a user was granted, or who was granted what on a project; without either, what the caller was."""
    if project is not None:
        found = await core.grants.on(caller, project)
        found = [one for one in found if user in (None, one.user.name, one.user.id)]
    elif user is not None or caller.user is not None:
        found = list(await core.grants.of(caller, user or str(caller.user)))
    else:
        raise Invalid("user: this credential is no user's, so say whose", field="user")
    return wire.MembershipList(items=[_membership(one) for one in found])


@router.delete("/grants", tags=["access"])
async def revoke(
    caller: Caller, core: Core, user: Words, project: Annotated[str, Query(max_length=2048)],
    action: Annotated[list[str] | None, Query(max_length=100)] = None,
) -> wire.Membership:  # fmt: skip
    """Take actions away again, or all that was granted on the project itself. What is inherited stays."""
    actions = None if action is None else actions_of(action)
    return _membership(await core.grants.revoke(caller, user, project, actions))


def actions_of(names: Iterable[str]) -> frozenset[Action]:
    """The actions that these names and patterns stand for. :raise Invalid: one that stands for none."""
    found: set[Action] = set()
    for name in names:
        those = {action for action in Action if name == "*" or fnmatchcase(action, name)}
        if not those or "[" in name or "?" in name:
            raise Invalid(f"actions: there is none called {name[:64]}", field="actions")
        found |= those
    return frozenset(found)


def _membership(one: Membership) -> wire.Membership:
    return wire.Membership(user=one.user.name, project=one.project.id, actions=sorted(one.actions))


# -- keys and the log ----------------------------------------------------------------------------------------------


@router.post("/keys", status_code=201, tags=["access"])
async def create_key(body: wire.CreateKey, caller: Caller, core: Core) -> wire.CreatedKey:
    """Create an API key of the caller's. It is told this once."""
    expires = None
    if body.lifetime is not None:
        expires = datetime.now(UTC) + timedelta(seconds=min(parse_duration(body.lifetime, "lifetime"), 10**10))
    scopes = None if body.scopes is None else actions_of(body.scopes)
    key, record = await core.keys.create(caller, KeyRequest(body.name, body.project, scopes, expires))
    return wire.CreatedKey(key=key, record=_key(record))


@router.get("/keys", tags=["access"])
async def list_keys(caller: Caller, core: Core) -> wire.ApiKeyList:
    """The caller's keys; for an operator all."""
    return wire.ApiKeyList(items=[_key(one) for one in await core.keys.list(caller)])


@router.delete("/keys/{key}", status_code=204, tags=["access"])
async def delete_key(key: Key, caller: Caller, core: Core) -> Response:
    """Delete a key, by id or name."""
    await core.keys.delete(caller, key)
    return Response(status_code=204)


def _key(key: ApiKey) -> wire.ApiKey:
    return wire.ApiKey(
        id=key.id, name=key.name, project=key.project, user=key.user, prefix=key.prefix, created=key.created,
        scopes=None if key.scopes is None else sorted(key.scopes), expires=key.expires, used=key.used,
    )  # fmt: skip


@router.get("/audit", tags=["access"])
async def list_audit(  # noqa: PLR0913 - what can be looked for
    caller: Caller, core: Core, who: Words = "", action: Words = "", subject: Words = "", outcome: Words = "",
    since: datetime | None = None, until: datetime | None = None,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None, limit: PageSize = 100,
) -> wire.AuditPage:  # fmt: skip
    """Who did what, newest first. Times without a zone are UTC."""
    since, until = (t.replace(tzinfo=UTC) if t is not None and t.tzinfo is None else t for t in (since, until))
    wanted = AuditFilter(who, action, subject, outcome, since, until)
    found = await core.audit.list(caller, wanted, before, limit)
    items = [wire.AuditEntry.model_validate(one, from_attributes=True) for one in found]
    return wire.AuditPage(items=items, next=items[-1].seq if len(items) == limit else None)


# -- SSH keys ------------------------------------------------------------------------------------------------------


@router.post("/ssh-keys", status_code=201, tags=["access"])
async def add_ssh_key(body: wire.AddSshKey, caller: Caller, core: Core) -> wire.SshKey:
    """Add a public key: who has the private one comes by the SSH gateway into what the caller may interact with."""
    return _ssh_key(await core.ssh_keys.add(caller, body.public_key, body.comment))


@router.get("/ssh-keys", tags=["access"])
async def list_ssh_keys(caller: Caller, core: Core) -> wire.SshKeyList:
    """The caller's SSH keys, oldest first; an operator's list has everybody's."""
    return wire.SshKeyList(items=[_ssh_key(key) for key in await core.ssh_keys.list(caller)])


@router.delete("/ssh-keys/{id}", status_code=204, tags=["access"])
async def remove_ssh_key(id: Annotated[int, Path(ge=1, le=2**63 - 1)], caller: Caller, core: Core) -> Response:
    """Take an SSH key away. Who is connected by it stays so."""
    await core.ssh_keys.remove(caller, id)
    return Response(status_code=204)


def _ssh_key(key: SshKey) -> wire.SshKey:
    return wire.SshKey(
        id=key.number, fingerprint=key.fingerprint, comment=key.comment, owner=key.owner.name, public_key=key.public,
        created=key.created,
    )  # fmt: skip
