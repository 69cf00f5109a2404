"""Users, groups, their members and what they may do, as rows of this dialect.

A user is the engine's; its row gives it a key and keeps what only this API knows of it. Groups and permissions are
nothing but rows, and `meaning` says what is granted by them. A user's key is its identity's, too, and so is a group's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from polyvisor.dialects.vergeos.language.errors import invalid_field
from polyvisor.dialects.vergeos.meaning import KINDS, rule
from polyvisor.dialects.vergeos.resource import Call
from polyvisor.dialects.vergeos.sources import DIALECT, Kept, OfRow
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine.derived import Edit
from polyvisor.model.foreign import Row
from polyvisor.model.identity import Project, User
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import SYSTEM, Action, Principal


@dataclass(frozen=True)
class Person(OfRow):
    """A user."""

    user: User

    @property
    def name(self) -> str:
        """What it logs in as."""
        return self.user.name


async def people(world: World) -> Sequence[Person]:
    """The users that the caller may see: every one, or itself."""
    found: Sequence[Person] = await world.once("people", lambda: _people(world))
    return found


async def _people(world: World) -> Sequence[Person]:
    who = world.principal
    if who.may_somewhere(Action.USER_LIST):
        users = list(await world.core.users.list(who))
    elif who.user is not None:
        users = [await world.core.users.get(who, who.user)]
    else:
        users = []
    known, root = await world.named("users"), await world.root()
    await world.ensure([Row(DIALECT, "users", one.id, root, one.id) for one in users if one.id not in known])
    known = await world.named("users")
    return [Person(known[one.id], one) for one in users if one.id in known]


async def person(world: World, key: object) -> Person | None:
    """The user with that key, if the caller may see it."""
    return next((one for one in await people(world) if one.key == key), None)


async def myself(world: World) -> int | None:
    """The caller's own key; None: its credential is no user's."""
    return next((one.key for one in await people(world) if one.user.id == world.principal.user), None)


async def groups(world: World) -> Sequence[Kept]:
    """Those of projects whose users the caller may see."""
    return [Kept(row) for row in await world.rows("groups") if world.principal.may(Action.USER_VIEW, row.project)]


async def members(world: World) -> Sequence[Kept]:
    """Of the groups that the caller sees; who is gone is no member."""
    seen = {one.key for one in await groups(world)}
    known = {f"users/{row.key}" for row in await world.rows("users")}
    known |= {f"groups/{row.key}" for row in await world.rows("groups")}
    found = [Kept(row) for row in await world.rows("members")]
    return [one for one in found if one.data.get("parent_group") in seen and plain(one.data.get("member")) in known]


async def change(call: Call, edit: Edit) -> Sequence[Row]:
    """Write rows that say who may do what, and what follows from them. What was added."""
    made = await call.core.derived.change(call.principal, DIALECT, KINDS, edit, rule)
    call.world.forget()
    return made


def plain(reference: object) -> str:
    """`users/7`, as which `/v4/users/7` is known, too."""
    return str(reference).removeprefix("/v4/")


def in_the_name_of(principal: Principal) -> Principal:
    """Who may write a row of what the engine has just let the caller change."""
    return replace(SYSTEM, name=principal.name, source=principal.source, project=principal.project)


def where(principal: Principal, action: Action) -> ProjectId:
    """A project in which the caller may do that: the one that it acts in, if it may do so there."""
    if principal.may(action, principal.project):
        return principal.project
    return next((id for id in sorted(principal.reach) if principal.may(action, id)), principal.project)


async def check_above(call: Call, above: ProjectId, below: ProjectId, field: str) -> None:
    """What a group lends others goes no later than the group: its project is theirs, or above it.

    :raise Refusal:
    """
    tree: Mapping[ProjectId, Project] = {one.id: one for one in await call.core.projects.tree()}
    here: ProjectId | None = below
    while here is not None and here != above:
        here = tree[here].parent if here in tree else None
    if here is None:
        raise invalid_field(field, "belongs to another project")
