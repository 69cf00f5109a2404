"""The records behind a principal: projects in a tree, users, what was granted to them, keys and sessions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from polyvisor.model.faults import Invalid
from polyvisor.model.fence import NO_FENCE, Fence
from polyvisor.model.ids import KeyId, ProjectId, UserId
from polyvisor.model.principal import Action

MAX_DEPTH = 32
MIN_PASSWORD, MAX_PASSWORD = 1, 1024
_MOST_NAME = 255


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a project and all below it may hold together; 0: no limit. Memory and disk are bytes."""

    instances: int = 0
    vcpus: int = 0
    memory: int = 0
    disk: int = 0
    snapshots: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What projects hold now. `disk` is of instances and volumes, in bytes; `snapshots` are counted."""

    instances: int
    vcpus: int
    memory: int
    disk: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class Project:
    """An owner of things; `parent` None: the root of the tree, which is number 0. A name is unique below its parent."""

    id: ProjectId
    name: str
    created: datetime
    parent: ProjectId | None = None
    quotas: Quotas = Quotas()
    number: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """A person; `password` is an argon2 hash, `project` where it acts unless told otherwise.

    Who is `disabled` is let in nowhere, and keeps all that it was granted.
    """

    id: UserId
    name: str
    password: str
    project: ProjectId
    operator: bool
    created: datetime
    number: int = 0
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """A user may do this in a project and all below it.

    `origin` is the dialect whose rows say so; "": somebody granted it himself.
    """

    user: UserId
    project: ProjectId
    action: Action
    origin: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored: a hash, never the key. `prefix` is what lists show.

    It acts as its `user` or, without one, as the whole of its project. `scopes` None: everything that one may do.
    From outside its `fence` it is no key.
    """

    id: KeyId
    name: str
    project: ProjectId
    prefix: str
    digest: str
    created: datetime
    operator: bool = False
    expires: datetime | None = None
    user: UserId | None = None
    scopes: frozenset[Action] | None = None
    used: datetime | None = None
    fence: Fence = NO_FENCE


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who logged in, until it expires. As with keys, only a hash of the token is kept."""

    id: KeyId
    user: UserId
    digest: str
    created: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, from where, and what came of it. `outcome` is `ok` or the kind of a fault."""

    at: datetime
    who: str
    source: str
    action: str
    project: str
    subject: str
    outcome: str
    detail: str = ""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What a reader of the log looks for; empty: anything."""

    who: str = ""
    action: str = ""
    subject: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None


def check_user_name(name: str) -> str:
    """`name`, if a user can be called so: no control characters, nothing that a header could not carry.

    :raise Invalid:
    """
    if not 1 <= len(name) <= _MOST_NAME or not name.isprintable() or ":" in name or name != name.strip():
        raise Invalid(f"name: must be 1 to {_MOST_NAME} printable characters without ':'", field="name")
    return name


def check_password(password: str) -> str:
    """:raise Invalid: it is empty, or so long that hashing it is an attack."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise Invalid(f"password: must be {MIN_PASSWORD} to {MAX_PASSWORD} characters", field="password")
    return password
