"""Users, and what is granted to them. Nobody gives what he does not hold, nor rules over who holds more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from polyvisor.access.credentials import find_project, principal_of
from polyvisor.access.grants import permit, require, require_operator, require_somewhere
from polyvisor.access.passwords import hash_password
from polyvisor.model.faults import Exists, Forbidden, NotFound, WrongState
from polyvisor.model.identity import Grant, Project, User, check_password, check_user_name
from polyvisor.model.ids import ProjectId, UserId, is_id, mint
from polyvisor.model.principal import Action, Principal
from polyvisor.ports.store import Store, Unit


@dataclass(frozen=True, slots=True)
class Membership:
    """What a user was granted on one project itself."""

    user: User
    project: Project
    actions: frozenset[Action]


async def find_user(unit: Unit, key: str) -> User:
    """By id or name. :raise NotFound:"""
    user = None
    if is_id(key):
        try:
            user = await unit.identities.user(UserId(key))
        except NotFound:
            user = None
    if user is None and "\0" not in key:
        user = await unit.identities.user_named(key)
    if user is None:
        raise NotFound(f"no user {key[:80]!r}", field="user", subject=key)
    return user


async def rule_over(unit: Unit, principal: Principal, user: User, action: Action) -> None:
    """Let pass who may do that to a user, and holds all that the user holds.

    :raise NotFound: the caller may not know of the user. :raise Forbidden: it may not do that to this one.
    """
    if not principal.may_somewhere(Action.USER_VIEW) and not principal.may_somewhere(action):
        raise NotFound(f"no user {user.name[:80]!r}", field="user", subject=user.name)
    require_somewhere(principal, action)
    if principal.operator and principal.whole:
        return
    other = await principal_of(unit, user)
    for project, held in other.reach.items():
        if other.operator or not all(principal.may(one, project) for one in {action, *held}):
            raise Forbidden("the user may do what this credential may not")
    if other.operator:
        raise Forbidden("the user is an operator")


class UsersEngine:
    """Create, read, change, delete users."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self, principal: Principal, name: str, password: str, *, project: str = "", operator: bool = False,
        disabled: bool = False,
    ) -> User:  # fmt: skip
        """A user who acts in that project, by default the caller's, and may do nothing yet.

        :raise Forbidden: also to make an operator without being one. :raise Invalid, Exists, NotFound:
        """
        require_somewhere(principal, Action.USER_CREATE)
        if operator:
            require_operator(principal)
        check_user_name(name)
        check_password(password)
        hashed = await asyncio.to_thread(hash_password, password)
        async with self._store.write() as unit:
            home = await find_project(unit, project or principal.project)
            if not principal.operator and not principal.reach.get(home.id):
                raise NotFound(f"no project {project[:80]!r}", field="project", subject=project)
            require(principal, Action.USER_CREATE, home.id)
            user = User(UserId(mint()), name, hashed, home.id, operator, self._clock(), disabled=disabled)
            try:
                return await unit.identities.add_user(user)
            except Exists as error:
                raise Exists(f"name: there is a user {name}", field="name", subject=name) from error

    async def get(self, principal: Principal, key: str) -> User:
        """Oneself, or whoever may see users somewhere sees any. :raise NotFound:"""
        async with self._store.read() as unit:
            user = await find_user(unit, key)
        if user.id != principal.user and not principal.may_somewhere(Action.USER_VIEW):
            raise NotFound(f"no user {key[:80]!r}", field="user", subject=key)
        return user

    async def list(self, principal: Principal) -> Sequence[User]:
        """Every user, oldest first. :raise Forbidden:"""
        require_somewhere(principal, Action.USER_LIST)
        async with self._store.read() as unit:
            return await unit.identities.users()

    async def operators(self) -> Sequence[User]:
        """Those who may do everything, oldest first."""
        async with self._store.read() as unit:
            return [user for user in await unit.identities.users() if user.operator]

    async def update(
        self, principal: Principal, key: str, *, password: str | None = None, project: str | None = None,
        operator: bool | None = None, disabled: bool | None = None,
    ) -> User:  # fmt: skip
        """Another password, which ends the user's sessions; another project to act in; an operator or one no more;
        disabled, which ends the sessions too, or let in again.

        One may do that to oneself, but for the last; to others who may alter users and holds all that they hold.
        :raise NotFound, Forbidden, Invalid:
        """
        async with self._store.read() as unit:  # who may not does not have us hash either
            await self._alterable(unit, principal, key)
        hashed = await asyncio.to_thread(hash_password, check_password(password)) if password is not None else ""
        async with self._store.write() as unit:
            user = await self._alterable(unit, principal, key)
            if operator is not None:
                require_operator(principal)
                await self._keep_one(unit, user, still=operator)
                user = replace(user, operator=operator)
            if disabled is not None:
                await self._keep_one(unit, user, still=not disabled)
                user = replace(user, disabled=disabled)
            if project is not None:
                home = await find_project(unit, project)
                if not user.operator and not (await principal_of(unit, user)).reach.get(home.id):
                    raise NotFound(f"no project {project[:80]!r}", field="project", subject=project)
                user = replace(user, project=home.id)
            await unit.identities.save_user(replace(user, password=hashed or user.password))
            if hashed or disabled:
                await unit.identities.end_sessions(of=user.id)
        return user

    async def _alterable(self, unit: Unit, principal: Principal, key: str) -> User:
        """:raise NotFound: :raise Forbidden:"""
        user = await find_user(unit, key)
        if user.id != principal.user:
            await rule_over(unit, principal, user, Action.USER_ALTER)
        elif not principal.whole:  # a key with less than all must not become its user
            raise Forbidden("this credential may not alter users")
        return user

    async def delete(self, principal: Principal, key: str) -> None:
        """With what was granted to it, its keys and its sessions. What it made stays.

        :raise NotFound, Forbidden: :raise WrongState: it is the last operator.
        """
        async with self._store.write() as unit:
            user = await find_user(unit, key)
            await rule_over(unit, principal, user, Action.USER_DELETE)
            await self._keep_one(unit, user, still=False)
            await unit.identities.remove_user(user.id, self._clock())

    async def _keep_one(self, unit: Unit, user: User, *, still: bool) -> None:
        if not user.operator or user.disabled or still:
            return
        if sum(one.operator and not one.disabled for one in await unit.identities.users()) == 1:
            raise WrongState("operator: this is the last one", field="operator", subject=user.name)


class GrantsEngine:
    """Give and take what users may do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def assign(self, principal: Principal, user: str, project: str, actions: Iterable[Action]) -> Membership:
        """Let a user do that in a project and all below it. What it may do already stays.

        :raise NotFound: :raise Forbidden: the caller may not assign there, or does not hold one of the actions there.
        """
        async with self._store.write() as unit:
            subject, place = await self._both(unit, principal, user, project, Action.GRANT_ASSIGN)
            for action in sorted(actions):
                if not principal.may(action, place.id):
                    raise Forbidden(f"nobody passes on what he does not hold: {action}", field="actions")
                await unit.identities.put_grant(Grant(subject.id, place.id, action))
            return await _membership(unit, subject, place)

    async def revoke(
        self, principal: Principal, user: str, project: str, actions: Iterable[Action] | None = None
    ) -> Membership:
        """Take that away again, or all that was granted on the project itself; what is inherited stays.

        :raise NotFound: :raise Forbidden: the caller may not revoke there, or does not hold one of the actions there.
        """
        async with self._store.write() as unit:
            subject, place = await self._both(unit, principal, user, project, Action.GRANT_REVOKE)
            held = (await _membership(unit, subject, place)).actions
            taken = held if actions is None else held & frozenset(actions)
            if any(not principal.may(action, place.id) for action in taken):
                raise Forbidden("nobody takes away what he does not hold", field="actions")
            await unit.identities.remove_grants(subject.id, place.id, taken)
            return await _membership(unit, subject, place)

    async def put(self, principal: Principal, user: str, project: str, actions: Collection[Action]) -> Membership:
        """Let a user do exactly that on the project itself, whatever was granted to it there before.

        :raise NotFound: :raise Forbidden: as `assign` and `revoke` for what changes.
        """
        async with self._store.write() as unit:
            subject, place = await self._both(unit, principal, user, project, Action.GRANT_ASSIGN)
            held = (await _membership(unit, subject, place)).actions
            more, less = frozenset(actions) - held, held - frozenset(actions)
            if less:
                require(principal, Action.GRANT_REVOKE, place.id)
            for action in sorted(more | less):
                if not principal.may(action, place.id):
                    raise Forbidden(f"nobody gives or takes what he does not hold: {action}", field="actions")
            await unit.identities.remove_grants(subject.id, place.id, less)
            for action in sorted(more):
                await unit.identities.put_grant(Grant(subject.id, place.id, action))
            return await _membership(unit, subject, place)

    async def of(self, principal: Principal, user: str) -> Sequence[Membership]:
        """What was granted to a user, by project; of others what the caller may see. :raise NotFound:"""
        async with self._store.read() as unit:
            subject = await find_user(unit, user)
            seen = subject.id == principal.user
            if not seen and not principal.may_somewhere(Action.USER_VIEW):
                raise NotFound(f"no user {user[:80]!r}", field="user", subject=user)
            projects = {one.id: one for one in await unit.identities.projects()}
            granted: dict[ProjectId, set[Action]] = {}
            for grant in await unit.identities.grants(subject.id):
                granted.setdefault(grant.project, set()).add(grant.action)
        return [
            Membership(subject, projects[id], frozenset(actions))
            for id, actions in granted.items()
            if seen or principal.may(Action.USER_VIEW, id) or principal.may(Action.PROJECT_VIEW, id)
        ]

    async def on(self, principal: Principal, project: str) -> Sequence[Membership]:
        """Who was granted what on a project itself. :raise NotFound:"""
        async with self._store.read() as unit:
            place = await find_project(unit, project)
            try:
                permit(principal, Action.PROJECT_VIEW, place.id, project)
            except NotFound as error:
                raise NotFound(f"no project {project[:80]!r}", field="project", subject=project) from error
            granted: dict[UserId, set[Action]] = {}
            for grant in await unit.identities.grants(project=place.id):
                granted.setdefault(grant.user, set()).add(grant.action)
            users = {one.id: one for one in await unit.identities.users()}
        return [Membership(users[id], place, frozenset(actions)) for id, actions in granted.items()]

    async def _both(
        self, unit: Unit, principal: Principal, user: str, project: str, action: Action
    ) -> tuple[User, Project]:
        place = await find_project(unit, project)
        if not principal.operator and not principal.reach.get(place.id):
            raise NotFound(f"no project {project[:80]!r}", field="project", subject=project)
        require(principal, action, place.id)
        return await find_user(unit, user), place


async def _membership(unit: Unit, user: User, project: Project) -> Membership:
    held = await unit.identities.grants(user.id, project.id)
    return Membership(user, project, frozenset(grant.action for grant in held))
