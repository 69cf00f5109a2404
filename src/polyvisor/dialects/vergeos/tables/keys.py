"""`user_api_keys`: API keys of users (vergeos.md §1.2). The engine has the key, its end and its fence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import in_the_name_of, people, person
from polyvisor.dialects.vergeos.language.columns import Column, Kind
from polyvisor.dialects.vergeos.language.errors import Refusal, invalid_field
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, OfRow, seconds
from polyvisor.dialects.vergeos.tables.declare import constant, kept, key, told, words
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine.keys import KeyRequest
from polyvisor.model.faults import Invalid
from polyvisor.model.fence import Fence, fence, shown
from polyvisor.model.foreign import Row
from polyvisor.model.identity import ApiKey
from polyvisor.model.ids import check_name
from polyvisor.model.principal import Action

KIND = "user_api_keys"
_TAKEN = "This name is already in use"
_NAMELESS = "key"
_LAST = 253402300799  # the end of the year 9999, in Unix seconds


@dataclass(frozen=True)
class Key(OfRow):
    """A key, whose own opens nothing; `user` is its user's."""

    record: ApiKey
    user: int

    @property
    def name(self) -> str:
        """What it is called: ours may have to do without a name that ours cannot be."""
        return str(self.kept.get("name") or self.record.name)


TABLE = Table(
    KIND,
    (
        key(),
        Column("user", Kind.FK, lambda one: one.user, refers="users", required=True, summary=True),
        Column("name", Kind.STRING, lambda one: one.name, required=True, shortest=1, longest=128, summary=True),
        kept("description", Kind.TEXT, longest=2048),
        told("created", Kind.TIME, lambda one: seconds(one.record.created)),
        Column("expires_type", Kind.CHOICE, lambda one: "date" if one.record.expires else "never",
               choices=words("never", "date")),
        Column("expires", Kind.TIME, lambda one: seconds(one.record.expires)),
        told("lastlogin_stamp", Kind.TIME, lambda one: seconds(one.record.used)),
        constant("lastlogin_ip", Kind.STRING, ""),
        Column("ip_allow_list", Kind.TEXT, lambda one: ",".join(map(shown, one.record.fence.allow)), longest=8192),
        Column("ip_deny_list", Kind.TEXT, lambda one: ",".join(map(shown, one.record.fence.deny)), longest=8192),
    ),
    short=("$key", "user", "name"),
)  # fmt: skip


async def _load(world: World) -> Sequence[Key]:
    """The caller's own, and those of users whom it may alter."""
    if Action.KEY_CREATE not in world.principal.actions:
        return ()
    users = {one.user.id: one.key for one in await people(world)}
    seen = [one for one in await world.core.keys.list(world.principal) if one.user in users]
    known = await world.named(KIND)
    await world.ensure([Row(DIALECT, KIND, one.id, one.project, one.id) for one in seen if one.id not in known])
    known = await world.named(KIND)
    return [Key(known[one.id], one, users[one.user]) for one in seen if one.user is not None and one.id in known]


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """The receipt tells the key, this once. :raise Refusal: its user has one of that name."""
    owner = await person(call.world, values["user"])
    if owner is None:
        raise errors.unset("user")
    async with call.locks.of(f"keys/{owner.key}"):
        await _check_name(call, owner.key, values["name"])
        asked = KeyRequest(
            _ours(values["name"]), expires=_end(values), user=owner.user.id, fence=_fence(values, Fence())
        )
        secret, record = await call.core.keys.create(call.principal, asked)
        told = json.dumps({"name": values["name"], "description": values.get("description", "")})
        await call.core.rows.ensure([Row(DIALECT, KIND, record.id, record.project, record.id, told)])
    row = (await call.core.rows.of(DIALECT, [KIND], [record.id]))[0]
    return Made(row.key, {"private_key": secret})


async def _check_name(call: Call, user: int, name: str) -> None:
    call.world.forget()
    if any(one.user == user and one.name == name for one in await _load(call.world)):
        raise Refusal(422, _TAKEN)


def _ours(name: str) -> str:
    try:
        return check_name(name)
    except Invalid:
        return _NAMELESS


def _end(values: Mapping[str, Any]) -> datetime | None:
    """:raise Refusal: it is to have an end, and none is given."""
    expires = values.get("expires") or 0
    if values.get("expires_type") == "never":
        return None
    if not expires:
        if values.get("expires_type") == "date":
            raise invalid_field("expires", "is required")
        return None
    return datetime.fromtimestamp(min(expires, _LAST), UTC)


def _fence(values: Mapping[str, Any], now: Fence) -> Fence:
    """Lists by commas, blanks or lines; one that is not given stays. :raise Refusal:"""
    allow = values.get("ip_allow_list", ",".join(map(shown, now.allow)))
    deny = values.get("ip_deny_list", ",".join(map(shown, now.deny)))
    try:
        return fence(allow.replace(",", " ").split(), deny.replace(",", " ").split())
    except Invalid as error:
        raise invalid_field(f"ip_{error.field}_list", error.public.partition(": ")[2]) from error


async def _change(call: Call, one: Key, values: dict[str, Any]) -> None:
    """All but the key itself and whose it is."""
    if values.get("user", one.user) != one.user:
        raise invalid_field("user", "cannot be changed")
    name = values.get("name", one.name)
    async with call.locks.of(f"keys/{one.user}"):
        if name != one.name:
            await _check_name(call, one.user, name)
        end = one.record.expires
        if "expires" in values or "expires_type" in values:
            end = _end({"expires": seconds(end), **values})
        await call.core.keys.update(
            call.principal, one.record.id, name=_ours(name), expires=end, fence=_fence(values, one.record.fence)
        )
        told = {**one.kept, "name": name}
        if "description" in values:
            told["description"] = values["description"]
        row = replace(one.row, data=json.dumps(told))
        await call.core.rows.save(in_the_name_of(call.principal), [row], Action.KEY_CREATE)


async def _remove(call: Call, one: Key) -> None:
    """It opens nothing any more, from now on."""
    await call.core.keys.delete(call.principal, one.record.id)


RESOURCES = (Resource(TABLE, _load, _create, _change, _remove),)
