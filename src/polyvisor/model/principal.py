"""Who asks, and what may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from polyvisor.model.fence import NO_FENCE, Fence
from polyvisor.model.ids import ProjectId, UserId


class Action(StrEnum):
    """What a grant can allow, as noun and verb: one table for every dialect.

    Who may `interact` runs commands, moves files and sees the screen; who may `operate` works the power. `use` of a
    volume is to attach it. A `grant.assign` lets somebody pass on what he holds himself.
    """

    INSTANCE_VIEW = "instance.view"
    INSTANCE_CREATE = "instance.create"
    INSTANCE_ALTER = "instance.alter"
    INSTANCE_OPERATE = "instance.operate"
    INSTANCE_INTERACT = "instance.interact"
    INSTANCE_DELETE = "instance.delete"
    VOLUME_VIEW = "volume.view"
    VOLUME_CREATE = "volume.create"
    VOLUME_ALTER = "volume.alter"
    VOLUME_USE = "volume.use"
    VOLUME_DELETE = "volume.delete"
    SNAPSHOT_VIEW = "snapshot.view"
    SNAPSHOT_CREATE = "snapshot.create"
    SNAPSHOT_DELETE = "snapshot.delete"
    IMAGE_VIEW = "image.view"
    IMAGE_CREATE = "image.create"
    IMAGE_DELETE = "image.delete"
    INGRESS_VIEW = "ingress.view"
    INGRESS_CREATE = "ingress.create"
    INGRESS_DELETE = "ingress.delete"
    VAULT_VIEW = "vault.view"
    VAULT_CREATE = "vault.create"
    VAULT_ALTER = "vault.alter"
    VAULT_USE = "vault.use"
    VAULT_DELETE = "vault.delete"
    POOL_VIEW = "pool.view"
    POOL_ASSIGN = "pool.assign"
    POOL_REVOKE = "pool.revoke"
    NIC_VIEW = "nic.view"
    HOST_VIEW = "host.view"
    HOST_ALTER = "host.alter"
    EVENT_VIEW = "event.view"
    AUDIT_VIEW = "audit.view"
    PROJECT_VIEW = "project.view"
    PROJECT_CREATE = "project.create"
    PROJECT_ALTER = "project.alter"
    PROJECT_DELETE = "project.delete"
    USER_VIEW = "user.view"
    USER_LIST = "user.list"
    USER_CREATE = "user.create"
    USER_ALTER = "user.alter"
    USER_DELETE = "user.delete"
    GRANT_ASSIGN = "grant.assign"
    GRANT_REVOKE = "grant.revoke"
    KEY_CREATE = "key.create"

    @property
    def view(self) -> Action | None:
        """What lets one know of the thing that this is done to; None: it is no thing of a project."""
        return _VIEWS.get(self.partition(".")[0])


_VIEWS = {action.partition(".")[0]: action for action in Action if action.endswith(".view")}
EVERYTHING = frozenset(Action)
Reach = Mapping[ProjectId, frozenset[Action]]
"""What one may do in which projects, those below them too."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    It acts in `project` unless it says otherwise. `actions` is what its credential lets through at all, `reach` what it
    was granted where; an `operator` may do everything everywhere. `source` is the network address it called from.
    After `until` its credential holds no more, nor from outside its `fence`.
    """

    name: str
    project: ProjectId
    actions: frozenset[Action]
    operator: bool = False
    reach: Reach = field(default_factory=dict)
    user: UserId | None = None
    source: str = ""
    until: datetime | None = None
    fence: Fence = NO_FENCE

    @property
    def whole(self) -> bool:
        """Whether its credential lets through all that it may do: one that does not must not get at one that does."""
        return self.actions == EVERYTHING

    def may(self, action: Action, project: ProjectId) -> bool:
        """Whether this may be done to what is that project's."""
        return action in self.actions and (self.operator or action in self.reach.get(project, ()))

    def may_somewhere(self, action: Action) -> bool:
        """Whether this may be done in any project."""
        return action in self.actions and (self.operator or any(action in held for held in self.reach.values()))

    def limited(self, actions: frozenset[Action]) -> Principal:
        """The same caller with a credential that lets no more through than these."""
        return replace(self, actions=self.actions & actions)

    def in_project(self, project: ProjectId) -> Principal:
        """The same caller, acting there."""
        return replace(self, project=project)


def member(name: str, project: ProjectId, actions: frozenset[Action] = EVERYTHING) -> Principal:
    """Who may do this in one project and nothing elsewhere."""
    return Principal(name, project, actions, reach={project: actions})


SYSTEM = Principal("system", ProjectId(""), EVERYTHING, operator=True)
"""In whose name the server asks what time asks for."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a signed token names, and what else it says: that is for a dialect to read, which may only take away."""

    principal: Principal
    claims: Mapping[str, object]


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """What a dialect found in a request: a key or session token, or a name and password; and where it came from.

    Never shown, not even by `repr`.
    """

    key: str = ""
    name: str = ""
    password: str = ""
    source: str = ""
