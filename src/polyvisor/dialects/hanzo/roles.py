"""Roles and scopes as sets of our actions (hanzo.md §1.4, §1.0): each holds all that the next one does.

Viewers see machines, Billing sees the organization alone: that is the documents' rule, for all that they list Billing
above Viewer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from polyvisor.model.principal import Action

_BILLING = frozenset({Action.PROJECT_VIEW})
_VIEWER = _BILLING | {
    Action.INSTANCE_VIEW, Action.VOLUME_VIEW, Action.SNAPSHOT_VIEW, Action.IMAGE_VIEW, Action.INGRESS_VIEW,
    Action.EVENT_VIEW, Action.POOL_VIEW, Action.NIC_VIEW,
}  # fmt: skip
_DEVELOPER = _VIEWER | {
    Action.INSTANCE_CREATE, Action.INSTANCE_ALTER, Action.INSTANCE_OPERATE, Action.INSTANCE_INTERACT,
    Action.INSTANCE_DELETE, Action.VOLUME_CREATE, Action.VOLUME_ALTER, Action.VOLUME_USE, Action.VOLUME_DELETE,
    Action.SNAPSHOT_CREATE, Action.SNAPSHOT_DELETE, Action.IMAGE_CREATE, Action.INGRESS_CREATE, Action.INGRESS_DELETE,
}  # fmt: skip
_ADMIN = _DEVELOPER | {
    Action.PROJECT_ALTER, Action.USER_VIEW, Action.GRANT_ASSIGN, Action.GRANT_REVOKE, Action.AUDIT_VIEW,
    Action.KEY_CREATE,
}  # fmt: skip
_OWNER = _ADMIN | {Action.PROJECT_CREATE, Action.PROJECT_DELETE, Action.IMAGE_DELETE}

OWNER = "Owner"
ROLES: Mapping[str, frozenset[Action]] = {
    OWNER: _OWNER,
    "Admin": _ADMIN,
    "Developer": _DEVELOPER,
    "Viewer": _VIEWER,
    "Billing": _BILLING,
}
"""The one that holds most first."""
SCOPES: Mapping[str, frozenset[Action]] = {"read:*": _VIEWER, "deploy:*": _DEVELOPER, "admin:*": _OWNER}
"""Of tokens; `*` is everything, which is no set."""
EVERYTHING = "*"


def role_of(held: Collection[Action]) -> str | None:
    """The first role all of whose actions are held; None: not even the last."""
    return next((name for name, actions in ROLES.items() if actions <= frozenset(held)), None)


def scopes_of(actions: frozenset[Action] | None) -> list[str]:
    """What a key's actions are called; what no scope stands for is told by its own name."""
    if actions is None:
        return [EVERYTHING]
    named = [name for name, held in SCOPES.items() if held <= actions]
    covered = frozenset().union(*(SCOPES[name] for name in named)) if named else frozenset()
    return named[-1:] + sorted(str(action) for action in actions - covered)
