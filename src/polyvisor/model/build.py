"""`Build`: an image that is made of somebody's instructions. `Builder`: a disk that builds keep their layers on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from polyvisor.model.faults import Invalid
from polyvisor.model.ids import InstanceId, ProjectId, VolumeId
from polyvisor.model.units import MIB, Bytes, Seconds

BuildId = NewType("BuildId", str)
MAX_TIMEOUT = Seconds(86400.0)
LEAST_MEMORY = Bytes(512 * MIB)
LONGEST_DOCKERFILE = 1 * MIB
MOST_SECRETS = 32
_BUILDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SECRET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class BuildState(StrEnum):
    """Where it stands; the last three are for good."""

    QUEUED = "queued"
    BUILDING = "building"
    PUSHING = "pushing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing more becomes of it."""
        return self in (BuildState.READY, BuildState.FAILED, BuildState.CANCELLED)


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret by its id, which the instructions call it by, and the variable that carries it to who follows them."""

    id: str
    variable: str = ""


@dataclass(frozen=True, slots=True)
class BuildAsk:
    """What is asked for. `dockerfile` empty: it is in the source. `image` empty: the build's id is its name.

    `base` is the digest that one of the images it begins from must have; `builder` whose disk keeps its layers.
    """

    dockerfile: str = ""
    image: str = ""
    base: str = ""
    builder: str = ""
    vcpus: int = 2
    memory: Bytes = Bytes(2048 * MIB)
    timeout: Seconds = Seconds(600.0)
    secrets: tuple[SecretRef, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """What it was made of: digests of the source, of the files in it that pin versions, and of the base image."""

    source: str = ""
    locks: Mapping[str, str] = field(default_factory=dict)
    base: str = ""


@dataclass(frozen=True, slots=True)
class Build:
    """`instance` is the machine that it is or was made in, `position` its place among those that wait, from 1."""

    id: BuildId
    project: ProjectId
    image: str
    created: datetime
    state: BuildState = BuildState.QUEUED
    builder: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    provenance: Provenance = Provenance()
    digest: str = ""
    error: str = ""
    instance: InstanceId | None = None
    started: datetime | None = None
    completed: datetime | None = None
    position: int | None = None
    key: int = 0


@dataclass(frozen=True, slots=True)
class BuildNews:
    """A line of what a build said, or what has become of it; neither: nothing has for a while."""

    at: datetime
    line: str | None = None
    state: BuildState | None = None


class BuilderState(StrEnum):
    """`error`: its disk is gone, or could not be made anew."""

    READY = "ready"
    PRUNING = "pruning"
    DELETING = "deleting"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Builder:
    """`volume` is its disk. `active` is the build that runs on it, `queued` those that wait for it, oldest first."""

    id: str
    project: ProjectId
    name: str
    size: Bytes
    created: datetime
    state: BuilderState = BuilderState.READY
    labels: tuple[tuple[str, str], ...] = ()
    volume: VolumeId | None = None
    used: datetime | None = None
    active: BuildId | None = None
    queued: tuple[BuildId, ...] = ()
    key: int = 0


def check_build(ask: BuildAsk) -> None:
    """:raise Invalid: naming the field that is wrong."""
    if not 0 < ask.timeout <= MAX_TIMEOUT:
        raise Invalid(f"timeout: must be more than 0 and at most {MAX_TIMEOUT:.0f} seconds", field="timeout")
    if ask.vcpus < 1:
        raise Invalid("cpus: must be 1 or more", field="cpus")
    if ask.memory < LEAST_MEMORY:
        raise Invalid(f"memory: must be {LEAST_MEMORY // MIB} MiB or more", field="memory")
    if len(ask.dockerfile.encode()) > LONGEST_DOCKERFILE or "\0" in ask.dockerfile:
        raise Invalid(f"dockerfile: must be text of at most {LONGEST_DOCKERFILE} bytes", field="dockerfile")
    ids = [one.id for one in ask.secrets]
    if len(ids) > MOST_SECRETS or len(set(ids)) != len(ids):
        raise Invalid(f"secrets: at most {MOST_SECRETS}, each once", field="secrets")
    variables = [one.variable for one in ask.secrets if one.variable]
    if len(set(variables)) != len(variables):
        raise Invalid("secrets: a variable is named twice", field="secrets")
    for one in ask.secrets:
        if not _SECRET.fullmatch(one.id):
            raise Invalid(f"secrets: {one.id[:80]!r} cannot be a secret's id", field="secrets")
        if one.variable and (not _VARIABLE.fullmatch(one.variable) or one.variable in _OURS):
            raise Invalid(f"secrets: {one.variable[:80]!r} cannot be a secret's variable", field="secrets")


_OURS = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "LD_PRELOAD", "LD_LIBRARY_PATH"})


def check_builder_id(id: str) -> str:
    """:raise Invalid:"""
    if not _BUILDER.fullmatch(id):
        raise Invalid("id: must be 1 to 64 letters, digits, '_' or '-', a letter or digit first", field="id")
    return id
