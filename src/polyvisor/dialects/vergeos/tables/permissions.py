"""`permissions`: who may do what to which table (vergeos.md §2.15). `meaning` says what they are in our actions.

Beside those that were given, there is one for each operator, who may do everything, and one of each user made here for
its own account. One for another single row is refused: what is granted here is granted in a whole project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from polyvisor.dialects.vergeos import errors
from polyvisor.dialects.vergeos.directory import change, check_above, groups, myself, people, person, where
from polyvisor.dialects.vergeos.language.columns import Kind
from polyvisor.dialects.vergeos.language.errors import invalid_field
from polyvisor.dialects.vergeos.language.tables import Table
from polyvisor.dialects.vergeos.meaning import VERBS
from polyvisor.dialects.vergeos.resource import Call, Made, Resource
from polyvisor.dialects.vergeos.sources import DIALECT, Kept
from polyvisor.dialects.vergeos.tables.declare import data, key, told
from polyvisor.dialects.vergeos.world import World
from polyvisor.engine.derived import Edit
from polyvisor.model.faults import Exists
from polyvisor.model.foreign import Row
from polyvisor.model.principal import Action

_OPERATOR = "operator/"
TABLE = Table(
    "permissions",
    (
        key(),
        data("identity", Kind.FK, refers="identities", required=True),
        data("table", Kind.STRING, required=True, shortest=1, longest=64),
        data("row", Kind.INT, 0, low=0),
        told("rowdisplay", Kind.STRING, lambda one: one.data.get("rowdisplay", "")),
        *(data(verb, Kind.BOOL, False) for verb in VERBS),
        told("creator", Kind.STRING, lambda one: one.data.get("creator", "")),
    ),
    display="table",
    short=("$key", "identity", "table", "row"),
)


def own_account(row: Row, name: str) -> Row:
    """What a user may do to its own account, whose row that is: see and alter it."""
    told = {"identity": row.key, "table": "users", "row": row.key, "rowdisplay": name}
    may = {"list": True, "read": True, "modify": True}
    return Row(DIALECT, "permissions", f"{row.key}/users/{row.key}", row.project, row.subject, json.dumps(told | may))


def _operators(row: Row, subject: str) -> Row:
    told = {"identity": row.key, "table": "/", "row": 0, **dict.fromkeys(VERBS, True)}
    return Row(DIALECT, "permissions", f"{_OPERATOR}{subject}", row.project, subject, json.dumps(told))


async def _load(world: World) -> Sequence[Kept]:
    """The caller's own, and those in projects whose users it may see."""
    operators = {f"{_OPERATOR}{one.user.id}": one for one in await people(world) if one.user.operator}
    known = await world.named("permissions")
    await world.ensure([_operators(one.row, one.user.id) for name, one in operators.items() if name not in known])
    mine = await myself(world)
    found = []
    for one in map(Kept, await world.rows("permissions")):
        if one.row.name.startswith(_OPERATOR) and one.row.name not in operators:
            continue  # it was an operator once
        if world.principal.may(Action.USER_VIEW, one.row.project) or one.data.get("identity") == mine:
            found.append(one)
    return found


async def _create(call: Call, values: dict[str, Any]) -> Made:
    """In the project that the caller acts in. :raise Refusal: 409, there is one. 422: it is for a single row."""
    project = where(call.principal, Action.GRANT_ASSIGN)
    subject = await _subject(call, values["identity"], project)
    if values["row"]:
        raise invalid_field("row", "must be 0: what is granted is granted on all rows of a table")
    told = json.dumps({**values, "creator": call.principal.name})
    name = f"{values['identity']}/{values['table']}/{project}"
    row = Row(DIALECT, "permissions", name, project, subject, told)
    try:
        return Made((await change(call, Edit(Action.GRANT_ASSIGN, added=[row])))[0].key)
    except Exists as error:
        raise errors.taken() from error


async def _subject(call: Call, identity: object, project: Any) -> str:
    """The user that it goes with, if it is one. :raise Refusal: nobody has that identity."""
    found = await person(call.world, identity)
    if found is not None:
        return found.user.id
    group = next((one for one in await groups(call.world) if one.key == identity), None)
    if group is None:
        raise errors.unset("identity")
    await check_above(call, group.row.project, project, "identity")
    return ""


async def _change(call: Call, one: Kept, values: dict[str, Any]) -> None:
    """More or less of it."""
    for name in ("identity", "table", "row"):
        if values.get(name, one.data.get(name)) != one.data.get(name):
            raise invalid_field(name, "cannot be changed")
    if one.row.name.startswith(_OPERATOR):
        raise errors.conflict("An operator may do everything; the permission can only be revoked")
    row = replace(one.row, data=json.dumps({**one.data, **values}))
    await change(call, Edit(Action.GRANT_ASSIGN, changed=[row]))


async def _remove(call: Call, one: Kept) -> None:
    """It holds no more, from now on; who was an operator is a user like others."""
    if one.row.name.startswith(_OPERATOR):
        await call.core.users.update(call.principal, one.row.subject, operator=False)
        return
    await change(call, Edit(Action.GRANT_REVOKE, gone=[one.row]))


RESOURCES = (Resource(TABLE, _load, _create, _change, _remove),)
