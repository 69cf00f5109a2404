"""`users`, `groups`, `members` and their `identities` (vergeos.md §2.15).

Passwords go to the engine and are kept nowhere else. What an account has that the engine knows nothing of is kept and
given back: names, addresses, what is said of a second factor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import (
    Person,
    change,
    check_above,
    groups,
    in_the_name_of,
    members,
    people,
    person,
    plain,
    where,
)
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field, read_only
from polyvisor.dialects.vergeos.language.tables import Children, Table
from polyvisor.dialects.vergeos.meaning import leads_to
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Kept, seconds
from polyvisor.dialects.vergeos.tables.declare import constant, data, kept, key, told, words
from polyvisor.dialects.vergeos.tables.permissions import own_account
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine.derived import Edit
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action

TAKEN = "This name is already in use"
_TYPES = words("normal", "vdi", api="API", site_sync="Site Sync", site_user="Site User")
_FACTORS = words("email", authenticator="Authenticator (TOTP)")

USERS = Table(
    "users",
    (
        key(),
        Column("name", Kind.STRING, lambda one: one.name, required=True, shortest=1, longest=128, forbidden="/",
               summary=True),
        Column("password", Kind.TEXT, lambda one: None, required=True, hidden=True),
        kept("displayname", Kind.STRING, longest=256, summary=True),
        kept("email", Kind.STRING, longest=256, summary=True),
        kept("type", Kind.CHOICE, "normal", choices=_TYPES, summary=True),
        Column("enabled", Kind.BOOL, lambda one: not one.user.disabled, default=True, summary=True),
        told("created", Kind.TIME, lambda one: seconds(one.user.created)),
        constant("last_login", Kind.TIME, 0),
        kept("change_password", Kind.BOOL),
        kept("physical_access", Kind.BOOL),
        kept("two_factor_authentication", Kind.BOOL),
        kept("two_factor_type", Kind.CHOICE, "email", choices=_FACTORS),
        Column("two_factor_setup_next_login", Kind.BOOL, lambda one: False, hidden=True),
        constant("account_locked", Kind.TIME, 0),
        constant("failed_attempts", Kind.INT, 0),
        constant("auth_source", Kind.FK, None, refers="auth_sources"),
        constant("remote_name", Kind.STRING, ""),
        told("identity", Kind.FK, lambda one: one.key, refers="identities"),
        told("creator", Kind.STRING, lambda one: one.kept.get("creator", "")),
        kept("ssh_keys", Kind.TEXT, longest=65536),
    ),
    short=("$key", "name", "displayname"),
    children={"memberships": Children("members", "member"), "api_keys": Children("user_api_keys", "user")},
)  # fmt: skip
_ENGINES = frozenset({"name", "password", "enabled", "two_factor_setup_next_login"})
"""What is not merely kept."""


# -- users -------------------------------------------------------------------------------------------------------------


def _no_second_factor(values: dict[str, Any]) -> None:
    """Whoever turns it on would believe that nobody gets in by his password alone. :raise Refusal:"""
    if values.get("two_factor_authentication"):
        raise invalid_field("two_factor_authentication", "there is no second factor here")


async def _create_user(call: Call, values: dict[str, Any]) -> Made:
    """A user who may do nothing yet but alter itself."""
    _no_second_factor(values)
    home = where(call.principal, Action.USER_CREATE)
    try:
        user = await call.core.users.create(
            call.principal, values["name"], values["password"], project=home, disabled=not values["enabled"]
        )
    except Exists as error:
        raise Refusal(422, TAKEN) from error
    told = {name: value for name, value in values.items() if name not in _ENGINES}
    row = Row(DIALECT, "users", user.id, await call.world.root(), user.id)
    await call.core.rows.ensure([row])
    row = next(one for one in await call.core.rows.of(DIALECT, ["users"], [user.id]) if one.name == user.id)
    behalf = in_the_name_of(call.principal)
    row = replace(row, data=json.dumps({**told, "creator": call.principal.name}))
    await call.core.rows.save(behalf, [row], Action.USER_CREATE)
    await call.core.rows.add(behalf, [own_account(row, user.name)], Action.USER_CREATE)
    return Made(row.key)


async def _change_user(call: Call, one: Person, values: dict[str, Any]) -> None:
    """Oneself, or who holds no more than the caller."""
    _no_second_factor(values)
    if values.get("name", one.name) != one.name:
        raise read_only("name")
    disabled = None if "enabled" not in values else not values["enabled"]
    await call.core.users.update(
        call.principal, one.user.id, password=values.get("password"),
        disabled=None if disabled == one.user.disabled else disabled,
    )  # fmt: skip
    rest = {name: value for name, value in values.items() if name not in _ENGINES}
    if rest:
        row = replace(one.row, data=json.dumps({**one.kept, **rest}))
        await call.core.rows.save(in_the_name_of(call.principal), [row], Action.USER_ALTER)


async def _remove_user(call: Call, one: Person) -> None:
    """With its keys, its memberships and what it may do."""
    await call.core.users.delete(call.principal, one.user.id)


async def _enable(call: Call, one: Person, params: Mapping[str, Any]) -> Mapping[str, Any]:
    await _change_user(call, one, {"enabled": True})
    return {}


async def _disable(call: Call, one: Person, params: Mapping[str, Any]) -> Mapping[str, Any]:
    await _change_user(call, one, {"enabled": False})
    return {}


# -- groups ------------------------------------------------------------------------------------------------------------

GROUPS = Table(
    "groups",
    (
        key(),
        data("name", Kind.STRING, required=True, shortest=1, longest=128, summary=True),
        data("description", Kind.TEXT, longest=2048, summary=True),
        data("enabled", Kind.BOOL, True, summary=True),
        told("created", Kind.TIME, lambda one: one.data.get("created", 0)),
        data("email", Kind.STRING, longest=256),
        data("id", Kind.STRING, longest=256),
        told("identity", Kind.FK, lambda one: one.key, refers="identities"),
        constant("system_group", Kind.BOOL, False),
        told("creator", Kind.STRING, lambda one: one.data.get("creator", "")),
    ),
    short=("$key", "name"),
    children={"members": Children("members", "parent_group"), "memberships": Children("members", "member")},
)


async def _create_group(call: Call, values: dict[str, Any]) -> Made:
    """A group of the project that the caller acts in."""
    project = where(call.principal, Action.USER_CREATE)
    told = json.dumps({**values, "creator": call.principal.name, "created": call.now})
    row = Row(DIALECT, "groups", f"{project}/{values['name']}", project, "", told)
    try:
        return Made((await change(call, Edit(Action.USER_CREATE, added=[row])))[0].key)
    except Exists as error:
        raise Refusal(422, TAKEN) from error


async def _change_group(call: Call, group: Kept, values: dict[str, Any]) -> None:
    """Of one that is not enabled, nobody has what it may do."""
    told = {**group.data, **values}
    row = replace(group.row, name=f"{group.row.project}/{told['name']}", data=json.dumps(told))
    try:
        await change(call, Edit(Action.USER_ALTER, changed=[row]))
    except Exists as error:
        raise Refusal(422, TAKEN) from error


async def _remove_group(call: Call, group: Kept) -> None:
    """With its memberships, those in it and those of it, and what it may do."""
    reference = f"groups/{group.key}"
    gone = [group.row]
    gone += [
        one.row for one in map(Kept, await call.world.rows("members"))
        if one.data.get("parent_group") == group.key or plain(one.data.get("member")) == reference
    ]  # fmt: skip
    gone += [row for row in await call.world.rows("permissions") if Kept(row).data.get("identity") == group.key]
    await change(call, Edit(Action.USER_DELETE, gone=gone))


async def _enable_group(call: Call, group: Kept, params: Mapping[str, Any]) -> Mapping[str, Any]:
    await _change_group(call, group, {"enabled": True})
    return {}


async def _disable_group(call: Call, group: Kept, params: Mapping[str, Any]) -> Mapping[str, Any]:
    await _change_group(call, group, {"enabled": False})
    return {}


# -- members -----------------------------------------------------------------------------------------------------------

MEMBERS = Table(
    "members",
    (
        key(),
        data("parent_group", Kind.FK, refers="groups", required=True),
        data("member", Kind.REF, refers="users,groups", required=True, as_written=True),
        told("creator", Kind.STRING, lambda one: one.data.get("creator", "")),
    ),
    display="member#$display",
    short=("$key", "parent_group", "member"),
)


async def _create_member(call: Call, values: dict[str, Any]) -> Made:
    """:raise Refusal: 409, it is one already. 422: a group would be in itself."""
    parent = next((one for one in await groups(call.world) if one.key == values["parent_group"]), None)
    if parent is None:
        raise errors.unset("parent_group")
    reference = plain(values["member"])
    table, _, word = reference.partition("/")
    async with call.locks.of("members"):
        subject = await _member(call, parent, table, int(word) if word.isdecimal() else 0)
        told = json.dumps({**values, "creator": call.principal.name})
        row = Row(DIALECT, "members", f"{parent.key}/{reference}", parent.row.project, subject, told)
        try:
            return Made((await change(call, Edit(Action.USER_ALTER, added=[row])))[0].key)
        except Exists as error:
            raise errors.taken() from error


async def _member(call: Call, parent: Kept, table: str, key: int) -> str:
    """Whose row it is: the user's. :raise Refusal:"""
    if table == "users":
        found = await person(call.world, key)
        if found is None:
            raise errors.unset("member")
        return found.user.id
    child = next((one for one in await groups(call.world) if one.key == key), None)
    if child is None:
        raise errors.unset("member")
    await check_above(call, child.row.project, parent.row.project, "member")
    rows = await call.core.rows.of(DIALECT, ["groups", "members"])
    if leads_to(rows, child.key, parent.key):
        raise invalid_field("member", "would be a member of itself")
    return ""


async def _remove_member(call: Call, one: Kept) -> None:
    await change(call, Edit(Action.USER_ALTER, gone=[one.row]))


# -- identities --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """Whom a permission is for, `owner` as `users/7` or `groups/8`."""

    key: int
    owner: str


IDENTITIES = Table(
    "identities",
    (key(), told("owner", Kind.REF, lambda one: one.owner, refers="users,groups")),
    display="owner#$display",
    short=("$key", "owner"),
)


async def _identities(world: World) -> Sequence[Identity]:
    users = [Identity(one.key, f"users/{one.key}") for one in await people(world)]
    return users + [Identity(one.key, f"groups/{one.key}") for one in await groups(world)]


RESOURCES = (
    Resource(USERS, people, _create_user, _change_user, _remove_user, {"enable": _enable, "disable": _disable}),
    Resource(
        GROUPS, groups, _create_group, _change_group, _remove_group,
        {"enable": _enable_group, "disable": _disable_group},
    ),
    Resource(MEMBERS, members, _create_member, None, _remove_member),
    Resource(IDENTITIES, _identities),
)  # fmt: skip
