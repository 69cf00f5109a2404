"""`/u`: authkeys, users, permissions, groups (velocity.md §1.3)."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import timedelta

from polyvisor.dialects.kit.credentials import source_of
from polyvisor.dialects.velocity import wire
from polyvisor.dialects.velocity.errors import Refusal
from polyvisor.dialects.velocity.permissions import PERMISSIONS, Permission, held
from polyvisor.dialects.velocity.table import Call, Routes
from polyvisor.engine.users import Membership
from polyvisor.model.faults import Busy, Exists, Forbidden, NotFound, Unauthenticated, WrongState
from polyvisor.model.identity import Project, User
from polyvisor.model.principal import EVERYTHING, Action, Credential, Principal

routes = Routes()


def _fresh() -> str:
    return str(uuid.uuid4()).upper()


# -- authkeys ------------------------------------------------------------------------------------------------------


@routes.add("POST /u/auth", wire.Authenticate, {Unauthenticated: 1100}, open=True)
async def authenticate(call: Call) -> object:
    """A new authkey."""
    given = Credential(name=call.body.username, password=call.body.password, source=source_of(call.request))
    key, session, _ = await call.core.sessions.login(given, timedelta(seconds=call.lifetime), token=_fresh())
    return {"authkey": key, "expires": int(session.expires.timestamp())}


@routes.add("DELETE /u/auth", wire.Authkey, open=True)
async def deauthenticate(call: Call) -> object:
    """The key holds no more; one that never did is well, too."""
    await call.core.sessions.logout(call.body.authkey)
    return None


@routes.add("PATCH /u/auth", wire.Authkey, {NotFound: 1400, Unauthenticated: 1401}, open=True)
async def renew(call: Call) -> object:
    """Another key; the old one is gone at once."""
    lifetime = timedelta(seconds=call.lifetime)
    key, session = await call.core.sessions.renew(call.body.authkey, lifetime, fresh=_fresh())
    return {"authkey": key, "expires": int(session.expires.timestamp())}


# -- users ---------------------------------------------------------------------------------------------------------


async def _user(call: Call, uid: int, code: int) -> User:
    """:raise Refusal: there is none of that number."""
    try:
        return await call.core.numbers.user(uid)
    except NotFound as fault:
        raise Refusal(code) from fault


def _need(call: Call, action: Action, code: int, project: Project | None = None) -> None:
    """:raise Refusal: the caller may not do that there; or, without a project, anywhere."""
    who = call.principal
    if not (who.may_somewhere(action) if project is None else who.may(action, project.id)):
        raise Refusal(code)


@routes.add("POST /u/user", wire.OneUser)
async def get_user(call: Call) -> object:
    """A user with what was granted to it; oneself without a number."""
    if call.body.uid is None:
        if call.principal.user is None:
            raise Refusal(2110, "this key is no user's")
        user = await call.core.users.get(call.principal, call.principal.user)
    else:
        _need(call, Action.USER_VIEW, 2100)
        user = await _user(call, call.body.uid, 2110)
    tree = {one.id: one for one in await call.core.projects.tree()}
    found = await call.core.grants.of(call.principal, user.id)
    shown = [(one.project, one.actions) for one in found]
    if user.operator:
        shown = [(next(one for one in tree.values() if one.parent is None), EVERYTHING)]
    memberships = [
        {**_group(project, tree.values()), "permissions": held(actions)} for project, actions in shown if held(actions)
    ]
    return {"uid": user.number, "name": user.name, "memberships": memberships}


@routes.add("PUT /u/user", wire.NewUser, {Forbidden: 2200, Exists: 2220})
async def create_user(call: Call) -> object:
    """A user who may do nothing yet."""
    _need(call, Action.USER_CREATE, 2200)
    home = _where(call.principal, Action.USER_CREATE)
    user = await call.core.users.create(call.principal, call.body.name, call.body.password, project=home)
    return {"uid": user.number, "name": user.name}


def _where(who: Principal, action: Action) -> str:
    """A project in which the caller may do that."""
    return next((id for id in who.reach if who.may(action, id)), who.project)


@routes.add("DELETE /u/user", wire.ThisUser, {Forbidden: 2300, WrongState: 2300, NotFound: 2310})
async def remove_user(call: Call) -> object:
    """With all that it was granted; who holds more than the caller stays."""
    _need(call, Action.USER_DELETE, 2300)
    user = await _user(call, call.body.uid, 2310)
    await call.core.users.delete(call.principal, user.id)
    return None


@routes.add("POST /u/user/list", None, {Forbidden: 3100})
async def list_users(call: Call) -> object:
    """Every user."""
    found = await call.core.users.list(call.principal)
    return {"users": [{"uid": one.number, "name": one.name} for one in found]}


# -- permissions ---------------------------------------------------------------------------------------------------


async def _both(call: Call, user_code: int, group_code: int, action: Action, code: int) -> tuple[User, Project]:
    if not call.principal.may_somewhere(action):
        raise Refusal(code)
    user = await _user(call, call.body.uid, user_code)
    group = await _project(call, call.body.gid, group_code)
    _need(call, action, code, group)
    return user, group


def _permission(name: str, code: int) -> Permission:
    if name not in PERMISSIONS:
        raise Refusal(code)
    return PERMISSIONS[name]


@routes.add("PUT /u/user/permission", wire.Assign, {Forbidden: 4220})
async def assign(call: Call) -> object:
    """Pass on what one has oneself."""
    user, group = await _both(call, 4210, 4211, Action.GRANT_ASSIGN, 4200)
    permission = _permission(call.body.permission, 4212)
    await call.core.grants.assign(call.principal, user.id, group.id, permission.actions)
    return None


@routes.add("DELETE /u/user/permission", wire.Revoke, {Forbidden: 4301})
async def revoke(call: Call) -> object:
    """Take one away, or all of them; one that is not held is gone already."""
    user, group = await _both(call, 4310, 4311, Action.GRANT_REVOKE, 4300)
    name = call.body.permission
    actions = None if name is None else _permission(name, 4312).actions
    await call.core.grants.revoke(call.principal, user.id, group.id, actions)
    return None


# -- groups --------------------------------------------------------------------------------------------------------


async def _project(call: Call, gid: int, code: int) -> Project:
    """:raise Refusal: there is none of that number."""
    try:
        return await call.core.numbers.project(gid)
    except NotFound as fault:
        raise Refusal(code) from fault


def _group(project: Project, tree: Iterable[Project]) -> dict[str, object]:
    parent = next((one.number for one in tree if one.id == project.parent), 0)
    return {"gid": project.number, "parent_gid": parent, "name": project.name}


def _member(one: Membership) -> dict[str, object]:
    return {"uid": one.user.number, "name": one.user.name, "permissions": held(one.actions)}


@routes.add("POST /u/group", wire.ThisGroup)
async def get_group(call: Call) -> object:
    """A group with those who have permissions on it itself."""
    group = await _project(call, call.body.gid, 5110)
    _need(call, Action.PROJECT_VIEW, 5100, group)
    members = [_member(one) for one in await call.core.grants.on(call.principal, group.id)]
    if group.parent is None:
        operators = await call.core.users.operators()  # who may do everything, whatever else was granted to them
        others = [one for one in members if one["uid"] not in {o.number for o in operators}]
        members = [{"uid": o.number, "name": o.name, "permissions": held(EVERYTHING)} for o in operators] + others
    return {**_group(group, await call.core.projects.tree()), "memberships": [m for m in members if m["permissions"]]}


@routes.add("PUT /u/group", wire.NewGroup, {Exists: 5220, Forbidden: 5200})
async def create_group(call: Call) -> object:
    """A group in another."""
    parent = await _project(call, call.body.parent_gid, 5210)
    _need(call, Action.PROJECT_CREATE, 5200, parent)
    made = await call.core.projects.create(call.principal, call.body.name, parent.id)
    return _group(made, await call.core.projects.tree())


@routes.add("DELETE /u/group", wire.ThisGroup, {Forbidden: 5300, WrongState: 5320, Busy: 5320})
async def remove_group(call: Call) -> object:
    """With its machines and media. Groups in it are in the way."""
    group = await _project(call, call.body.gid, 5310)
    _need(call, Action.PROJECT_DELETE, 5300, group)
    await call.core.projects.delete(call.principal, group.id, force=True)
    return None


@routes.add("POST /u/group/list", None)
async def list_groups(call: Call) -> object:
    """Groups on which one has a permission, those in them, and those that they are in."""
    tree = {one.id: one for one in await call.core.projects.tree()}
    who = call.principal
    own: dict[str, frozenset[Action]] = {}
    if who.user is not None and not who.operator:
        own = {one.project.id: one.actions for one in await call.core.grants.of(who, who.user)}
    seen = set(tree) if who.operator else {id for id in who.reach if id in tree}
    for id in list(seen):
        here = tree[id].parent
        while here is not None:
            seen.add(here)
            here = tree[here].parent
    root = EVERYTHING if who.operator else frozenset[Action]()
    return {
        "groups": [
            {
                **_group(one, tree.values()),
                "permissions": held(root if one.parent is None and who.operator else own.get(one.id, frozenset())),
            }
            for one in tree.values()
            if one.id in seen
        ]
    }
