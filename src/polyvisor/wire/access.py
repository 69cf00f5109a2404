"""JSON bodies of `/api/v1` about who may do what. As in `native`: times are RFC 3339 in UTC, sizes bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from polyvisor.wire.native import Duration, Name, SizeOrNone, Text, _Reply, _Request

UserName = Annotated[Text, Field(min_length=1, max_length=255)]
Password = Annotated[Text, Field(min_length=1, max_length=1024)]
ProjectKey = Annotated[Text, Field(max_length=2048, description="An id, or names from below the root: `team/ci`.")]
ActionName = Annotated[
    Text,
    Field(
        max_length=64, pattern=r"^([a-z]+|\*)\.([a-z]+|\*)$|^\*$", description="Such as `instance.view`, `*.view`, `*`."
    ),
]
Actions = Annotated[list[ActionName], Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(ge=0, le=2**62 - 1)]


class Login(_Request):
    """A name and its password."""

    name: UserName
    password: Password
    lifetime: Duration = 43200.0


class LoggedIn(_Reply):
    """`token` is told this once; it goes where an API key does."""

    token: str
    user: str
    expires: datetime


class QuotasRequest(_Request):
    """What a project and those below it may hold together; 0: no limit; left out: as it is."""

    instances: Count | None = None
    vcpus: Count | None = None
    memory: SizeOrNone | None = None
    disk: SizeOrNone | None = None
    snapshots: Count | None = None


class Amounts(_Reply):
    """Counts, and bytes of memory and disk."""

    instances: int
    vcpus: int
    memory: int
    disk: int
    snapshots: int


class CreateProject(_Request):
    """`parent` empty: the project that the caller acts in."""

    name: Name
    parent: ProjectKey = ""
    quotas: QuotasRequest | None = None


class UpdateProject(_Request):
    """What is left out stays."""

    name: Name | None = None
    quotas: QuotasRequest | None = None


class Project(_Reply):
    """`path` is what it can be called by. `usage`, of one project: what it and those below it hold."""

    id: str
    name: str
    path: str
    parent: str | None
    quotas: Amounts
    usage: Amounts | None = None
    created: datetime


class ProjectList(_Reply):
    """Those that the caller may see."""

    items: list[Project]


class CreateUser(_Request):
    """`project` is where the user acts unless told otherwise; empty: where the caller does."""

    name: UserName
    password: Password
    project: ProjectKey = ""
    operator: bool = False


class UpdateUser(_Request):
    """What is left out stays. Another password ends the user's sessions, and so does being disabled: who is that is let
    in nowhere."""

    password: Password | None = None
    project: ProjectKey | None = None
    operator: bool | None = None
    disabled: bool | None = None


class User(_Reply):
    """A person or a program that logs in."""

    id: str
    name: str
    project: str
    operator: bool
    disabled: bool = False
    created: datetime


class UserList(_Reply):
    """Every user."""

    items: list[User]


class GrantRequest(_Request):
    """Let a user do that in a project and all below it."""

    user: UserName
    project: ProjectKey
    actions: Actions


class Membership(_Reply):
    """What a user was granted on a project itself; on those below it, it may do that too."""

    user: str
    project: str
    actions: list[str]


class MembershipList(_Reply):
    """Of a user, or on a project."""

    items: list[Membership]


class CreateKey(_Request):
    """A key that acts in a project and may do `scopes`, without them whatever its user may, for so long or for ever."""

    name: Name
    project: ProjectKey = ""
    scopes: Actions | None = None
    lifetime: Duration | None = None


class AddSshKey(_Request):
    """A public key in one line, as OpenSSH writes it. `comment` takes the place of the one that is in it."""

    public_key: Text = Field(max_length=16384)
    comment: Text = Field(default="", max_length=255)


class SshKey(_Reply):
    """A key by which its owner comes into instances. `owner` is a user's name, or an API key's."""

    id: int
    fingerprint: str
    comment: str
    owner: str
    public_key: str
    created: datetime


class SshKeyList(_Reply):
    """Keys."""

    items: list[SshKey]


class ApiKey(_Reply):
    """`prefix` is how the key begins. `scopes` null: whatever its user may."""

    id: str
    name: str
    project: str
    user: str | None
    prefix: str
    scopes: list[str] | None
    created: datetime
    expires: datetime | None
    used: datetime | None


class CreatedKey(_Reply):
    """`key` is told this once."""

    key: str
    record: ApiKey


class ApiKeyList(_Reply):
    """The caller's; for an operator all."""

    items: list[ApiKey]


class AuditEntry(_Reply):
    """`outcome` is `ok` or the kind of the error."""

    seq: int
    at: datetime
    who: str
    source: str
    action: str
    project: str
    subject: str
    outcome: str
    detail: str


class AuditPage(_Reply):
    """Newest first; `next` is the `before` of the page after it."""

    items: list[AuditEntry]
    next: int | None
