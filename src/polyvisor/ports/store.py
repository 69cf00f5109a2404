"""The store port: units of work over repositories.

A write unit takes the write lock up front and commits when its block ends without an exception. After the
commit it publishes topics on the bulletin: `wish:<id>` when an intent changed, `fact:<id>` when anything else
of an instance or an operation of it did, `over:<id>` when an operation of it was closed, `events`.

Whatever names one row raises `NotFound`, with its `subject`, when that row or one that it refers to is
missing. A unit in which `Exists`, `NotFound` or `Busy` was raised can go on; one in which the database itself
failed cannot, and raises that fault at its end whatever the caller does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Literal, Protocol

from polyvisor.model.compression import Packed
from polyvisor.model.event import Event
from polyvisor.model.foreign import Foreign, Row
from polyvisor.model.identity import ApiKey, AuditEntry, AuditFilter, Grant, Project, Session, Usage, User
from polyvisor.model.ids import (
    Digest,
    HostId,
    IngressId,
    InstanceId,
    KeyId,
    OperationId,
    ProjectId,
    SnapshotId,
    TaskId,
    UserId,
    VolumeId,
)
from polyvisor.model.image import Image
from polyvisor.model.ingress import Ingress
from polyvisor.model.instance import Address, Instance, Intent, Mount, MountState, Observed
from polyvisor.model.operation import Operation
from polyvisor.model.principal import Action
from polyvisor.model.query import Page
from polyvisor.model.snapshot import Schedule, Snapshot, SnapshotState
from polyvisor.model.spec import Spec
from polyvisor.model.ssh import SshKey
from polyvisor.model.task import Task
from polyvisor.model.units import Bytes
from polyvisor.model.volume import PoolRights, Volume, VolumeState
from polyvisor.ports.vaults import VaultRecords


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

    async def numbered(self, number: int) -> Instance:
        """By the number that it was given. :raise NotFound: also of a spare."""

    async def page(
        self,
        projects: Collection[ProjectId] | None,
        cursor: str | None,
        limit: int,
        labels: Sequence[tuple[str, str]] = (),
        prefix: str = "",
        name: str = "",
    ) -> Page[Instance]:
        """Those with all of the labels, whose id begins with `prefix`, and of that name if there is one, oldest first.
        `projects` None: all.

        :raise Invalid: a cursor that is not ours.
        """

    async def all(self) -> Sequence[Instance]:
        """Every instance: for start-up and the periodic scan."""

    async def spares(self) -> Sequence[Instance]:
        """Those that nobody has asked for yet, oldest first; they are in no page and count for no project."""

    async def having(self, policy: Literal["health", "standby"]) -> Sequence[Instance]:
        """Those whose spec has that policy, oldest first."""

    async def claim(self, instance: Instance) -> None:
        """A spare becomes this instance: its project, name, spec, intent and time.

        :raise NotFound: it is none any more. :raise Exists: the name is taken.
        """

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

    async def usage(self, projects: Collection[ProjectId] | None) -> Usage:
        """Sums over what these projects have, or all; spares are nobody's and count for all only."""

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

    async def about(self, subject: str) -> Sequence[Operation]:
        """The open ones about a volume or snapshot."""

    async def save(self, operation: Operation) -> None:
        """Write journal and progress and, unless it is closed, outcome and fault (reconciler only)."""

    async def page(
        self, projects: Collection[ProjectId] | None, instance: InstanceId | None, limit: int
    ) -> Sequence[Operation]:
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

    async def page(self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int) -> Page[Volume]:
        """Oldest first."""

    async def all(self) -> Sequence[Volume]:
        """Every volume."""

    async def save(self, id: VolumeId, state: VolumeState, size: Bytes) -> None:
        """Write state and size."""

    async def forget(self, id: VolumeId) -> None:
        """Delete the record. :raise Busy: it is attached."""


class Snapshots(Protocol):
    """Snapshots of instances, which may be gone."""

    async def add(self, snapshot: Snapshot) -> None:
        """:raise Exists:"""

    async def get(self, id: SnapshotId) -> Snapshot:
        """:raise NotFound:"""

    async def named(self, project: ProjectId, name: str) -> Snapshot:
        """One that is listed. :raise NotFound:"""

    async def page(
        self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int, source: InstanceId | None = None
    ) -> Page[Snapshot]:
        """Those that are listed, of one instance or of all, oldest first."""

    async def all(self) -> Sequence[Snapshot]:
        """Every snapshot, those too that are not listed."""

    async def of(self, source: InstanceId) -> Sequence[Snapshot]:
        """Every one that was taken of an instance, oldest first."""

    async def templates(self, image: Digest | None = None) -> Sequence[Snapshot]:
        """The templates, of one image or of all, oldest first. They are in no page and not found by name."""

    async def save(self, id: SnapshotId, state: SnapshotState, size: Bytes) -> None:
        """Write state and size."""

    async def packing(self) -> Sequence[Snapshot]:
        """Those whose memory is being compressed, as far as is written down, oldest first."""

    async def packed(self, id: SnapshotId, packed: Packed, size: Bytes) -> None:
        """Write what has become of its memory's compression, and its size."""

    async def forget(self, id: SnapshotId) -> None:
        """Delete the record."""

    async def using(self, digest: Digest) -> Sequence[SnapshotId]:
        """Those that need an image; a template does not, it goes with it."""

    async def held(self, projects: Collection[ProjectId] | None) -> Bytes:
        """What they take on disk together."""


class Schedules(Protocol):
    """Snapshot schedules, at most one for an instance, gone with it."""

    async def put(self, schedule: Schedule) -> None:
        """Insert or replace. :raise NotFound: there is no such instance."""

    async def get(self, instance: InstanceId) -> Schedule:
        """:raise NotFound:"""

    async def remove(self, instance: InstanceId) -> None:
        """:raise NotFound:"""

    async def due(self, now: datetime) -> Sequence[Schedule]:
        """Those whose time has come, and those that wait for an operation; the longest due first."""

    async def all(self) -> Sequence[Schedule]:
        """Every schedule."""


class Tasks(Protocol):
    """What is done to instances when its time has come; gone with its instance."""

    async def add(self, task: Task) -> None:
        """Insert. :raise Exists: the name is taken in its project. :raise NotFound: there is no such instance."""

    async def get(self, id: TaskId) -> Task:
        """:raise NotFound:"""

    async def named(self, project: ProjectId, name: str) -> Task:
        """:raise NotFound:"""

    async def of(self, projects: Collection[ProjectId] | None) -> Sequence[Task]:
        """Those of these projects, or all, oldest first."""

    async def due(self, now: datetime) -> Sequence[Task]:
        """Those whose time has come, and those whose last run is not known to be over."""

    async def save(self, task: Task) -> None:
        """Write it, but for its project, instance and time of creation. :raise Exists: :raise NotFound:"""

    async def remove(self, id: TaskId) -> None:
        """:raise NotFound:"""


class Ingresses(Protocol):
    """Ingresses with their rules. A rule whose instance is forgotten is pinned to none any more."""

    async def add(self, ingress: Ingress) -> None:
        """Insert. :raise Exists: `field` (name, or site: a host name at a port) is taken. :raise NotFound: the project,
        or an instance that a rule is pinned to, is gone."""

    async def get(self, id: IngressId) -> Ingress:
        """:raise NotFound:"""

    async def named(self, project: ProjectId, name: str) -> Ingress:
        """:raise NotFound:"""

    async def page(self, projects: Collection[ProjectId] | None, cursor: str | None, limit: int) -> Page[Ingress]:
        """Oldest first."""

    async def all(self) -> Sequence[Ingress]:
        """Every ingress, oldest first."""

    async def forget(self, id: IngressId) -> None:
        """Delete the record with its rules. :raise NotFound:"""


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

    async def after(self, seq: int, projects: Collection[ProjectId] | None, limit: int) -> Sequence[Event]:
        """Those later than `seq`, oldest first."""

    async def last(self) -> int:
        """The highest number so far."""

    async def prune(self, keep: int) -> int:
        """Delete all but the newest `keep`."""


class Identities(Protocol):
    """Projects, users, grants, API keys, sessions."""

    async def add_project(self, project: Project) -> Project:
        """Insert; gives the number, 0 to the first. :raise Exists: :raise NotFound: the parent."""

    async def project(self, id: ProjectId) -> Project:
        """:raise NotFound:"""

    async def projects(self) -> Sequence[Project]:
        """Every project, oldest first."""

    async def path(self, id: ProjectId) -> Sequence[Project]:
        """The project and those above it, the root last; nothing for one that is not there."""

    async def below(self, ids: Iterable[ProjectId]) -> Sequence[tuple[ProjectId, ProjectId | None]]:
        """These projects and all below them, each with its parent."""

    async def save_project(self, project: Project) -> None:
        """Write name and quotas. :raise Exists: :raise NotFound:"""

    async def remove_project(self, id: ProjectId) -> None:
        """Delete, with what was granted on it and its keys. :raise NotFound: it is gone, or something is in it."""

    async def add_user(self, user: User) -> User:
        """Insert; gives the number, 0 to the first. :raise Exists:"""

    async def save_user(self, user: User) -> None:
        """Write password, project, whether it is an operator and whether it is disabled. :raise NotFound:"""

    async def remove_user(self, id: UserId, at: datetime) -> None:
        """Delete, with what was granted to it, its keys and sessions, and the rows about it and its keys; its name is
        remembered. :raise NotFound:
        """

    async def removed_user(self, name: str) -> datetime | None:
        """When the last user of that name was removed; None: there was none."""

    async def user(self, id: UserId) -> User:
        """:raise NotFound:"""

    async def user_named(self, name: str) -> User | None:
        """By name."""

    async def users(self) -> Sequence[User]:
        """Every user, oldest first."""

    async def put_grant(self, grant: Grant) -> bool:
        """Insert; False: it is there already. :raise NotFound: :raise Exists: a derived one is there."""

    async def remove_grants(self, user: UserId, project: ProjectId, actions: Iterable[Action] | None = None) -> int:
        """Delete those, or all of the user's on the project, but for derived ones; how many there were."""

    async def grants(self, user: UserId | None = None, project: ProjectId | None = None) -> Sequence[Grant]:
        """Those of a user, on a project, or all, derived ones too; what is inherited is not among them."""

    async def derived(self, origin: str) -> Sequence[Grant]:
        """Those of that origin."""

    async def remove_derived(self, grant: Grant) -> None:
        """Delete one that has an origin, if it is there."""

    async def add_key(self, key: ApiKey) -> None:
        """Insert."""

    async def key_by_digest(self, digest: str) -> ApiKey | None:
        """The key with that hash."""

    async def keys(self) -> Sequence[ApiKey]:
        """Every key, oldest first."""

    async def used_key(self, id: KeyId, at: datetime) -> None:
        """Write when it was used last."""

    async def save_key(self, key: ApiKey) -> None:
        """Write name, when it expires, scopes and fence. :raise NotFound:"""

    async def remove_key(self, id: KeyId) -> None:
        """Delete, with the rows about it. :raise NotFound:"""

    async def add_session(self, session: Session) -> None:
        """Insert."""

    async def session_by_digest(self, digest: str) -> Session | None:
        """The session with that hash, expired or not."""

    async def remove_session(self, digest: str) -> bool:
        """Delete; False: there was none."""

    async def end_sessions(self, *, before: datetime | None = None, of: UserId | None = None) -> int:
        """Delete those that expired before then, and all of a user; how many there were."""


class Pools(Protocol):
    """What projects may do with pools."""

    async def put(self, rights: PoolRights) -> None:
        """Insert or replace. :raise NotFound: there is no such project."""

    async def remove(self, project: ProjectId, pool: str) -> bool:
        """Delete; False: there were none."""

    async def of(self, project: ProjectId) -> Sequence[PoolRights]:
        """Those of one project, by pool."""

    async def held(self, project: ProjectId, pool: str) -> int:
        """The sizes, in bytes together, of the volumes there of a project and those below it."""


class SshKeys(Protocol):
    """SSH keys. They go with their users and projects."""

    async def add(self, key: SshKey) -> int:
        """Insert; the number that it is given. :raise NotFound: its owner is gone."""

    async def all(self) -> Sequence[SshKey]:
        """Every one, oldest first."""

    async def called(self, fingerprint: str) -> Sequence[SshKey]:
        """Those with that fingerprint, oldest first."""

    async def remove(self, number: int) -> None:
        """Delete. :raise NotFound:"""


class AuditLog(Protocol):
    """Who did what. There is no way to change or delete an entry."""

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Insert; numbers are given here."""

    async def page(
        self, projects: Collection[ProjectId] | None, wanted: AuditFilter, before: int | None, limit: int
    ) -> Sequence[AuditEntry]:
        """The latest ones with a number below `before`, newest first. `projects` None: all, those too of none."""


class Receipts(Protocol):
    """Idempotency keys: which request made which thing."""

    async def find(self, project: ProjectId, key: str) -> tuple[str, str] | None:
        """(hash of the request, id of what it made)."""

    async def add(self, project: ProjectId, key: str, digest: str, made: str, at: datetime) -> None:
        """Insert. :raise Exists: the key was used before."""

    async def prune(self, before: datetime) -> int:
        """Delete those older than that."""


class Foreigners(Protocol):
    """Aliases and remainders of things of ours, gone with them."""

    async def put(self, project: ProjectId, subject: str, foreign: Foreign) -> None:
        """Write the remainder, and the alias, in the places of earlier ones. :raise Exists: `alias` is taken."""

    async def find(self, projects: Collection[ProjectId] | None, dialect: str, kind: str, alias: str) -> Sequence[str]:
        """The things an alias stands for: one at most in a project; `projects` None asks in all of them."""

    async def anywhere(self, projects: Collection[ProjectId] | None, alias: str) -> Sequence[str]:
        """The things it stands for in whatever dialect, of whatever kind; `projects` as above."""

    async def aliases(self, dialect: str, kind: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """The aliases of these things, by thing; those that have none are left out."""

    async def remainders(self, dialect: str, subjects: Sequence[str]) -> Mapping[str, str]:
        """What the dialect keeps with these things, by thing; those that have none are left out."""


class Rows(Protocol):
    """Rows of tables that only a dialect has. Those about a thing go with it, as remainders do."""

    async def add(self, row: Row) -> Row:
        """Insert; gives the key. :raise Exists: the name is taken in that table. :raise NotFound: the project."""

    async def of(self, dialect: str, kinds: Collection[str], subjects: Collection[str] | None = None) -> Sequence[Row]:
        """Those of some tables, oldest first; about a few things, where these are named."""

    async def get(self, dialect: str, key: int) -> Row:
        """:raise NotFound:"""

    async def ensure(self, wanted: Sequence[Row]) -> None:
        """Insert those whose names are not there yet in their tables."""

    async def save(self, row: Row) -> None:
        """Write name, subject and data of the row with that key. :raise Exists: :raise NotFound:"""

    async def remove(self, key: int) -> None:
        """:raise NotFound:"""


class Unit(Protocol):
    """One transaction."""

    def wake(self, id: InstanceId) -> None:
        """Publish `wish:<id>` after the commit, when no intent changed but there is something to do."""

    instances: Instances
    operations: Operations
    volumes: Volumes
    snapshots: Snapshots
    schedules: Schedules
    tasks: Tasks
    ingresses: Ingresses
    images: ImageNames
    events: Events
    identities: Identities
    receipts: Receipts
    foreigners: Foreigners
    rows: Rows
    audit: AuditLog
    pools: Pools
    ssh_keys: SshKeys
    vaults: VaultRecords


class Store(Protocol):
    """Where records live."""

    def read(self) -> AbstractAsyncContextManager[Unit]:
        """A consistent view; writing in it is an error."""

    def write(self, *, lasting: bool = True) -> AbstractAsyncContextManager[Unit]:
        """All or nothing; one writer at a time, so a task must not open one inside another.

        Without `lasting` it outlives this process at once, and the host a moment later: for what is seen again then, or
        is of no use. A lasting one makes all before it last.
        """

    def follow(self, *topics: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Topics published from now on, of those named; `*` at an end matches any. Repeats may be merged.

        Who is far behind gets the topic with its `*`, once: anything that it matches may have changed.
        """

    async def host_id(self) -> HostId:
        """The id of this installation's own host, made once."""

    async def close(self) -> None:
        """Release connections."""
