"""Who asks, and what may be asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from polyvisor.model.ids import KeyId, ProjectId


class Action(StrEnum):
    """What a grant can allow. One table for every dialect."""

    VIEW = "view"
    OPERATE = "operate"  # power, exec, console
    CREATE = "create"
    DELETE = "delete"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller and the project it acts in; `operator` may do everything everywhere."""

    name: str
    project: ProjectId
    actions: frozenset[Action]
    operator: bool = False


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored: a hash, never the key. `prefix` is what lists show."""

    id: KeyId
    name: str
    project: ProjectId
    prefix: str
    digest: str
    created: datetime
    operator: bool = False
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """An owner of things. Quotas of 0 mean no limit."""

    id: ProjectId
    name: str
    created: datetime
    max_instances: int = 0
    max_vcpus: int = 0
    max_memory: int = 0
    max_disk: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """A person; `password` is an argon2 hash."""

    name: str
    password: str
    project: ProjectId
    operator: bool
    created: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """What a dialect found in a request: a key, or a name and password. Never shown, not even by `repr`."""

    key: str = ""
    name: str = ""
    password: str = ""
