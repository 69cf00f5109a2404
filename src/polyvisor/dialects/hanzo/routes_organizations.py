"""`organization.*` and `orgTeam.*`: projects, and what is granted on them by role (hanzo.md §1.4)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from polyvisor.dialects.hanzo import find, wire
from polyvisor.dialects.hanzo.find import DIALECT, ORGANIZATION, USER, Kept, kept_of, name_of, named
from polyvisor.dialects.hanzo.launching import one_of
from polyvisor.dialects.hanzo.roles import OWNER, ROLES, role_of
from polyvisor.dialects.hanzo.table import CREATE, DELETE, QUERY, UPDATE, Call, Router
from polyvisor.dialects.hanzo.translate import when
from polyvisor.engine.users import Membership
from polyvisor.model.faults import Invalid, NotFound, WrongState
from polyvisor.model.foreign import Foreign
from polyvisor.model.identity import Project
from polyvisor.model.principal import SYSTEM, Action

routes = Router()
_SHORTEST, _LONGEST, _LONGEST_TEXT = 2, 50, 1000


async def _members(call: Call, project: Project) -> Sequence[Membership]:
    """Users with a role on the organization itself; what is granted on those above it is told there."""
    return [one for one in await call.core.grants.on(SYSTEM, project.id) if role_of(one.actions)]


async def _told(call: Call, project: Project, kept: Kept) -> dict[str, object]:
    return {
        "id": ORGANIZATION + project.id, "name": name_of(project, kept), "description": kept.get("description"),
        "createdAt": when(project.created), "memberCount": len(await _members(call, project)), "clusterCount": 0,
    }  # fmt: skip


def _member(one: Membership) -> dict[str, object]:
    joined = max(one.user.created, one.project.created)
    return {
        "userId": USER + one.user.id, "email": one.user.name, "role": role_of(one.actions), "joinedAt": when(joined),
    }  # fmt: skip


def _check_name(name: str) -> str:
    if not _SHORTEST <= len(name) <= _LONGEST or not name.isprintable() or name != name.strip():
        raise Invalid(f"name: must be {_SHORTEST} to {_LONGEST} printable characters", field="name")
    return name


def _check_description(text: str | None) -> str | None:
    if text is not None and (len(text) > _LONGEST_TEXT or "\0" in text):
        raise Invalid(f"description: must be at most {_LONGEST_TEXT} characters", field="description")
    return text


@routes.add("organization.all", QUERY, wire.Nothing)
async def all_organizations(call: Call) -> object:
    """Those that the caller is a member of, here or above."""
    found = await call.core.projects.list(call.principal)
    kept = await kept_of(call.core, [one.id for one in found])
    return [await _told(call, one, kept[one.id]) for one in found]


@routes.add("organization.one", QUERY, wire.ThisOrganization)
async def one_organization(call: Call) -> object:
    """One, with its members."""
    project = await find.organization(call, call.body.organizationId, Action.PROJECT_VIEW)
    kept = (await kept_of(call.core, [project.id]))[project.id]
    members = [_member(one) for one in await _members(call, project)]
    return await _told(call, project, kept) | {"members": members}


@routes.add("organization.create", CREATE, wire.NewOrganization, 201)
async def create(call: Call) -> object:
    """Below the one that the caller acts in, by one who owns that; he owns the new one as well."""
    text = _check_description(call.body.description)
    name, foreign = named(_check_name(call.body.name), "organization", description=text)
    project = await call.core.projects.create(call.principal, name, foreign=foreign, owner=ROLES[OWNER])
    return await _told(call, project, {"name": call.body.name, "description": text})


@routes.add("organization.update", UPDATE, wire.ChangeOrganization)
async def update(call: Call) -> object:
    """Another name or description."""
    project = await find.organization(call, call.body.organizationId, Action.PROJECT_ALTER)
    kept = (await kept_of(call.core, [project.id]))[project.id]
    text = kept.get("description") if call.body.description is None else _check_description(call.body.description)
    if call.body.name is None:
        foreign: Foreign | None = Foreign(DIALECT, json.dumps(kept | {"description": text}))
        name = None
    else:
        name, foreign = named(_check_name(call.body.name), "organization", description=text)
        if foreign is not None and foreign.alias is None:  # what it was called before may be another's now
            foreign = Foreign(foreign.dialect, foreign.remainder, ("organization", ""))
    project = await call.core.projects.update(call.principal, project.id, name=name, foreign=foreign)
    return await _told(call, project, (await kept_of(call.core, [project.id]))[project.id])


@routes.add("organization.remove", DELETE, wire.ThisOrganization, 204)
async def remove(call: Call) -> None:
    """One in which nothing is left."""
    project = await find.organization(call, call.body.organizationId, Action.PROJECT_DELETE)
    await call.core.projects.delete(call.principal, project.id)


# -- members -------------------------------------------------------------------------------------------------------


@routes.add("orgTeam.all", QUERY, wire.ThisOrganization)
async def team(call: Call) -> object:
    """The members of an organization."""
    project = await find.organization(call, call.body.organizationId, Action.PROJECT_VIEW)
    return [_member(one) for one in await _members(call, project)]


@routes.add("orgTeam.update", UPDATE, wire.ChangeMember)
async def change(call: Call) -> object:
    """Another role for a member; whoever is none becomes one. Nobody gives or takes a role that holds more than his."""
    project = await find.organization(call, call.body.organizationId, Action.GRANT_ASSIGN)
    role = one_of(call.body.role, ROLES, "role")
    user = await _user(call, call.body.userId)
    await _keep_an_owner(call, project, user, role)
    return _member(await call.core.grants.put(call.principal, user, project.id, ROLES[role]))


@routes.add("orgTeam.remove", DELETE, wire.ThisMember, 204)
async def leave(call: Call) -> None:
    """A member is one no more."""
    project = await find.organization(call, call.body.organizationId, Action.GRANT_REVOKE)
    user = await _user(call, call.body.userId)
    if all(one.user.id != user for one in await _members(call, project)):
        raise NotFound("Member not found", field="userId")
    await _keep_an_owner(call, project, user, "")
    await call.core.grants.revoke(call.principal, user, project.id)


async def _user(call: Call, key: str) -> str:
    """The id of a user who is meant by id or by name. :raise NotFound:"""
    try:
        return str((await call.core.users.get(SYSTEM, key.removeprefix(USER))).id)
    except NotFound:
        raise NotFound("User not found", field="userId") from None


async def _keep_an_owner(call: Call, project: Project, user: str, role: str) -> None:
    """:raise WrongState: the only owner would be one no more; who may not take that away is told so instead."""
    owners = [one.user.id for one in await _members(call, project) if role_of(one.actions) == OWNER]
    may = all(call.principal.may(action, project.id) for action in ROLES[OWNER])
    if owners == [user] and role != OWNER and may:
        raise WrongState("an organization keeps one Owner at least", field="userId")
