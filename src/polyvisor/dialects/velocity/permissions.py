"""Permissions by name and number, and the actions that each of them stands for (velocity.md §2).

One is held by who holds all of its actions, and actions that belong to none of them are not shown here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from polyvisor.model.principal import Action


@dataclass(frozen=True, slots=True)
class Permission:
    """As it is listed: its number, its name, what it is for; and what it lets one do."""

    pid: int
    name: str
    description: str
    actions: frozenset[Action]


_ROWS: tuple[tuple[str, str, tuple[Action, ...]], ...] = (
    ("user.create", "Create new users", (Action.USER_CREATE,)),
    ("user.remove", "Remove users", (Action.USER_DELETE,)),
    ("user.assign", "Assign permissions to users", (Action.GRANT_ASSIGN,)),
    ("user.revoke", "Revoke permissions from users", (Action.GRANT_REVOKE,)),
    ("user.view", "View other users", (Action.USER_VIEW,)),
    ("user.list", "List all users", (Action.USER_LIST,)),
    ("group.create", "Create groups", (Action.PROJECT_CREATE,)),
    ("group.remove", "Remove groups", (Action.PROJECT_DELETE,)),
    ("group.view", "View groups", (Action.PROJECT_VIEW,)),
    ("pool.list", "List media pools", (Action.POOL_VIEW,)),
    ("pool.assign", "Assign media pools to groups", (Action.POOL_ASSIGN,)),
    ("pool.revoke", "Revoke media pools from groups", (Action.POOL_REVOKE,)),
    ("media.create", "Create media", (Action.VOLUME_CREATE,)),
    ("media.list", "List media", (Action.VOLUME_VIEW,)),
    ("media.remove", "Remove media", (Action.VOLUME_DELETE,)),
    ("vm.create", "Create virtual machines", (Action.INSTANCE_CREATE, Action.VOLUME_USE)),
    ("vm.remove", "Remove virtual machines", (Action.INSTANCE_DELETE,)),
    ("vm.alter", "Alter virtual machines", (Action.INSTANCE_ALTER,)),
    ("vm.view", "View virtual machines", (Action.INSTANCE_VIEW,)),
    ("vm.interact", "Interact with virtual machines", (Action.INSTANCE_INTERACT,)),
    ("vm.state", "Change the state of virtual machines", (Action.INSTANCE_OPERATE,)),
    ("nic.list", "List the NICs of the host", (Action.NIC_VIEW,)),
)
PERMISSIONS: Mapping[str, Permission] = {
    f"velocity.{name}": Permission(number, f"velocity.{name}", text, frozenset(actions))
    for number, (name, text, actions) in enumerate(_ROWS, 1)
}
"""Every permission, by its whole name."""


def held(actions: Collection[Action]) -> list[dict[str, object]]:
    """The permissions that these actions amount to, as they are listed."""
    return [
        {"pid": one.pid, "name": one.name, "description": one.description}
        for one in PERMISSIONS.values()
        if one.actions <= frozenset(actions)
    ]
