"""What permissions mean: one table from tables and verbs to actions, and the grants that follow from rows.

Pure. A permission counts in the project that its row belongs to, and below it (vergeos.md §1.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from polyvisor.dialects.vergeos.sources import data_of
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId, UserId
from polyvisor.model.principal import Action

KINDS = ("users", "groups", "members", "permissions")
"""The tables that say who may do what."""
VERBS = ("list", "read", "create", "modify", "delete")
Verbs = Mapping[str, frozenset[Action]]


def _verbs(see: str = "", create: str = "", modify: str = "", delete: str = "", listed: str = "") -> Verbs:
    """Of names of actions, by blanks. Who may `list` sees as much as who may `read`, unless it is said."""
    told = {"list": listed or see, "read": see, "create": create, "modify": modify, "delete": delete}
    return {verb: frozenset(map(Action, words.split())) for verb, words in told.items()}


def _everything() -> Verbs:
    """By what an action's own verb is."""
    names = {"view": ("list", "read"), "list": ("list",), "create": ("create",), "delete": ("delete",)}
    found: dict[str, set[Action]] = {verb: set() for verb in VERBS}
    for action in Action:
        for verb in names.get(action.partition(".")[2], ("modify",)):
            found[verb].add(action)
    return {verb: frozenset(actions) for verb, actions in found.items()}


_USERS = _verbs("user.view", "user.create", "user.alter", "user.delete", listed="user.view user.list")
MEANINGS: Mapping[str, Verbs] = {
    "/": _everything(),
    "all": _everything(),
    "vms": _verbs(
        "instance.view", "instance.create", "instance.alter instance.operate instance.interact", "instance.delete"
    ),
    "machine_drives": _verbs(
        "instance.view", "volume.create volume.use", "volume.alter volume.use", "volume.delete"
    ),
    "machine_snapshots": _verbs("snapshot.view", "snapshot.create", "instance.operate", "snapshot.delete"),
    "files": _verbs("volume.view", "volume.create", "volume.alter volume.use", "volume.delete"),
    "users": _USERS,
    "groups": _USERS,
    "members": _verbs("user.view", "user.alter", "user.alter", "user.alter"),
    "permissions": _verbs("user.view", "grant.assign", "grant.assign grant.revoke", "grant.revoke"),
    "user_api_keys": _verbs(create="key.create"),
    "vnets": _verbs("nic.view"),
    "storage_tiers": _verbs("pool.view"),
    "system": _verbs("host.view", modify="host.alter"),
    "nodes": _verbs("host.view", modify="host.alter"),
    "clusters": _verbs("host.view", modify="host.alter"),
    "logs": _verbs("audit.view event.view"),
}  # fmt: skip
"""A table that is not here has permissions that are kept and mean nothing."""


def actions_of(permission: Mapping[str, Any]) -> frozenset[Action]:
    """What one lets somebody do. On a row of its own it lets nobody do more: users may alter themselves anyway."""
    meant = MEANINGS.get(str(permission.get("table")), {})
    if permission.get("row"):
        return frozenset()
    return frozenset(action for verb, some in meant.items() if permission.get(verb) for action in some)


def rule(rows: Sequence[Row]) -> Iterator[tuple[UserId, ProjectId, Action]]:
    """The grants that follow from rows of KINDS, each perhaps more than once."""
    users = {row.key: UserId(row.subject) for row in rows if row.kind == "users"}
    enabled = {row.key for row in rows if row.kind == "groups" and data_of(row).get("enabled", True)}
    within = _within(rows)
    for row in rows:
        if row.kind != "permissions" or not (actions := actions_of(data := data_of(row))):
            continue
        for key in _holders(data.get("identity"), enabled, within):
            if key in users:
                yield from ((users[key], row.project, action) for action in actions)


def _within(rows: Iterable[Row]) -> Mapping[object, Sequence[int]]:
    """The keys of the members of each group: of users and of groups, which have none in common."""
    found: dict[object, list[int]] = {}
    for row in rows:
        if row.kind == "members":
            data = data_of(row)
            key = str(data.get("member")).rpartition("/")[2]
            found.setdefault(data.get("parent_group"), []).append(int(key) if key.isdecimal() else 0)
    return found


def _holders(identity: object, enabled: set[int], within: Mapping[object, Sequence[int]]) -> set[object]:
    """An identity and all that is in it, however deep. A group that is not enabled lends nothing."""
    seen: set[object] = set()
    waiting = [identity]
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            if key in enabled:
                waiting += within.get(key, ())
    return seen


def leads_to(rows: Sequence[Row], group: object, sought: object) -> bool:
    """Whether one group is in another, or is it."""
    return sought in _holders(group, {row.key for row in rows if row.kind == "groups"}, _within(rows))
