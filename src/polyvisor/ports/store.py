"""The store port: units of work over repositories.

A write unit takes the write lock up front and commits when its block ends without an exception. After the
commit it publishes topics on the bulletin: `wish:<id>` when an intent changed, `fact:<id>` when anything else
of an instance or an operation of it did, `events`.

Whatever names one row raises `NotFound`, with its `subject`, when that row or one that it refers to is
missing. A unit in which `Exists`, `NotFound` or `Busy` was raised can go on; one in which the database itself
failed cannot, and raises that fault at its end whatever the caller does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from polyvisor.model.event import Event
from polyvisor.model.ids import Digest, HostId, InstanceId, KeyId, OperationId, ProjectId, VolumeId
from polyvisor.model.image import Image
from polyvisor.model.instance import Address, Instance, Intent, Mount, MountState, Observed
from polyvisor.model.operation import Operation
from polyvisor.model.principal import ApiKey, Project, User
from polyvisor.model.query import Page
from polyvisor.model.spec import Spec
from polyvisor.model.units import Bytes
from polyvisor.model.volume import Volume, VolumeState


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project, or all of them, hold now."""

    instances: int
    vcpus: int
    memory: int
    disk: int


class Instances(Protocol):
    """Instances with their mounts and open operation."""

    async def add(self, instance: Instance) -> Instance:
        """Insert, with its mounts; gives the number. :raise Exists: `field` (name, id, ip) is taken."""

    async def give(self, id: InstanceId, address: Address, *, unique: bool) -> None:
        """Write the address. `unique`: no other instance may have it. :raise Exists: one has."""

    async def get(self, id: InstanceId) -> Instance:
        """:raise NotFound:"""

    async def named(self, project: ProjectId, name: str) -> Instance:
        """:raise NotFound:"""

    async def page(
        self,
        project: ProjectId | None,
        cursor: str | None,
        limit: int,
        labels: Sequence[tuple[str, str]] = (),
    ) -> Page[Instance]:
        """Oldest first. `project` None: all. :raise Invalid: a cursor that is not ours."""

    async def all(self) -> Sequence[Instance]:
        """Every instance: for start-up and the periodic scan."""

    async def expired(self, now: datetime) -> Sequence[InstanceId]:
        """Instances whose lifetime is over and that are not being deleted."""

    async def want(self, id: InstanceId, intent: Intent) -> None:
        """Write the intent (engine only)."""

    async def rename(self, id: InstanceId, name: str, spec: Spec) -> None:
        """Write name and spec (engine only). :raise Exists:"""

    async def saw(self, id: InstanceId, observed: Observed) -> None:
        """Write the observation (reconciler only)."""

    async def forget(self, id: InstanceId) -> None:
        """Delete the record and its mounts."""

    async def addresses(self) -> Sequence[str]:
        """Every address given out."""

    async def usage(self, project: ProjectId | None) -> Usage:
        """Sums over instances that are not deleted."""

    async def mount(self, id: InstanceId, mount: Mount) -> None:
        """Claim a volume. :raise Busy: it is attached elsewhere, and either side can write."""

    async def mounted(self, id: InstanceId, volume: VolumeId, state: MountState) -> None:
        """Move an attachment to another state."""

    async def unmount(self, id: InstanceId, volume: VolumeId) -> None:
        """Give the claim up."""

    async def using(self, digest: Digest) -> Sequence[InstanceId]:
        """The instances made from an image."""


class Operations(Protocol):
    """Operations, newest first where listed."""

    async def open(self, operation: Operation) -> None:
        """Insert; any open one of the instance is superseded."""

    async def get(self, id: OperationId) -> Operation:
        """:raise NotFound:"""

    async def current(self, id: InstanceId) -> Operation | None:
        """The open one of an instance."""

    async def save(self, operation: Operation) -> None:
        """Write journal and progress and, unless it is closed, outcome and fault (reconciler only)."""

    async def page(self, project: ProjectId | None, instance: InstanceId | None, limit: int) -> Sequence[Operation]:
        """The latest ones."""

    async def prune(self, before: datetime) -> int:
        """Delete finished ones older than that."""


class Volumes(Protocol):
    """Volumes with the instances that hold them."""

    async def add(self, volume: Volume) -> None:
        """:raise Exists:"""

    async def get(self, id: VolumeId) -> Volume:
        """:raise NotFound:"""

    async def named(self, project: ProjectId, name: str) -> Volume:
        """:raise NotFound:"""

    async def page(self, project: ProjectId | None, cursor: str | None, limit: int) -> Page[Volume]:
        """Oldest first."""

    async def all(self) -> Sequence[Volume]:
        """Every volume."""

    async def save(self, id: VolumeId, state: VolumeState, size: Bytes) -> None:
        """Write state and size."""

    async def forget(self, id: VolumeId) -> None:
        """Delete the record. :raise Busy: it is attached."""


class ImageNames(Protocol):
    """Which images there are and what each project calls them. Project "" is the operator's: seen by all."""

    async def put(self, image: Image, project: ProjectId) -> None:
        """Insert or replace by digest; the project's names for it become those given."""

    async def find(self, name: str, project: ProjectId) -> Image:
        """By name or digest. :raise NotFound:"""

    async def all(self, project: ProjectId | None) -> Sequence[Image]:
        """Those the project may use; None: every one."""

    async def forget(self, digest: Digest) -> None:
        """Delete the record and its names."""


class Events(Protocol):
    """The numbered event log."""

    async def append(self, event: Event) -> None:
        """Insert; the number is given here."""

    async def after(self, seq: int, project: ProjectId | None, limit: int) -> Sequence[Event]:
        """Those later than `seq`, oldest first."""

    async def last(self) -> int:
        """The highest number so far."""

    async def prune(self, keep: int) -> int:
        """Delete all but the newest `keep`."""


class Identities(Protocol):
    """Projects, users, API keys."""

    async def add_project(self, project: Project) -> None:
        """:raise Exists:"""

    async def project(self, id: ProjectId) -> Project:
        """:raise NotFound:"""

    async def projects(self) -> Sequence[Project]:
        """Every project."""

    async def add_key(self, key: ApiKey) -> None:
        """Insert."""

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        """The key with that hash."""

    async def keys(self) -> Sequence[ApiKey]:
        """Every key."""

    async def remove_key(self, id: KeyId) -> None:
        """Delete."""

    async def put_user(self, user: User) -> None:
        """Insert or replace."""

    async def user(self, name: str) -> User | None:
        """By name."""


class Receipts(Protocol):
    """Idempotency keys: which request made which thing."""

    async def find(self, project: ProjectId, key: str) -> tuple[str, str] | None:
        """(hash of the request, id of what it made)."""

    async def add(self, project: ProjectId, key: str, digest: str, made: str, at: datetime) -> None:
        """Insert. :raise Exists: the key was used before."""

    async def prune(self, before: datetime) -> int:
        """Delete those older than that."""


class Unit(Protocol):
    """One transaction."""

    def wake(self, id: InstanceId) -> None:
        """Publish `wish:<id>` after the commit, when no intent changed but there is something to do."""

    instances: Instances
    operations: Operations
    volumes: Volumes
    images: ImageNames
    events: Events
    identities: Identities
    receipts: Receipts


class Store(Protocol):
    """Where records live."""

    def read(self) -> AbstractAsyncContextManager[Unit]:
        """A consistent view; writing in it is an error."""

    def write(self) -> AbstractAsyncContextManager[Unit]:
        """All or nothing; one writer at a time, so a task must not open one inside another."""

    def follow(self, *topics: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Topics published from now on, of those named; `*` at an end matches any. Repeats may be merged.

        Who is far behind gets the topic with its `*`, once: anything that it matches may have changed.
        """

    async def host_id(self) -> HostId:
        """The id of this installation's own host, made once."""

    async def close(self) -> None:
        """Release connections."""
