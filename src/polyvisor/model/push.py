"""`Push`: an image of ours on its way to a registry."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from polyvisor.model.ids import Digest, ProjectId, PushId
from polyvisor.model.units import Bytes


class PushState(StrEnum):
    """Where it stands; the last two are for good."""

    QUEUED = "queued"
    PUSHING = "pushing"
    PUSHED = "pushed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Login:
    """Borrowed for one push: in memory alone, and nowhere once that is over."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a registry was given: compressed layers, and their size."""

    layers: int
    size: Bytes


@dataclass(frozen=True, slots=True)
class Push:
    """`image` is the name that it was asked for by, `position` its place among those that wait, from 1."""

    id: PushId
    project: ProjectId
    image: str
    digest: Digest
    target: str
    created: datetime
    state: PushState = PushState.QUEUED
    error: str = ""
    sent: Sent | None = None
    completed: datetime | None = None
    position: int | None = None
