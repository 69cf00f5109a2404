"""Instances: create, read, wait, change what is not power."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic

from polyvisor.access.credentials import as_now
from polyvisor.access.grants import permit, require, require_somewhere, scope
from polyvisor.access.quotas import admit_more
from polyvisor.engine.addresses import give_address, require_nics
from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.origins import find_snapshot, find_template, require_ready
from polyvisor.engine.packing import CompressionPolicy
from polyvisor.engine.resolve import bare_spec, blank_spec, fork_spec, resolve_spec
from polyvisor.engine.vaults import find_vault
from polyvisor.engine.waits import Waits
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.ending import Ending
from polyvisor.model.event import Event
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Invalid, NoCapacity, NotFound, Stale, revive
from polyvisor.model.health import HealthCheck, Probe
from polyvisor.model.identity import Quotas
from polyvisor.model.ids import InstanceId, OperationId, ProjectId, SnapshotId, check_name, is_id, mint
from polyvisor.model.instance import Instance, Intent, Mount, Observed, Power
from polyvisor.model.network import Network
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot
from polyvisor.model.spec import RestartPolicy, Shape, Spec, check_spec
from polyvisor.model.standby import StandbyPolicy
from polyvisor.model.units import Seconds
from polyvisor.model.volume import VolumeState
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.scheduler.place import place

_WAITS_FOR_NOTHING = frozenset({Face.STOPPED, Face.FAILED, Face.PAUSED, Face.SUSPENDED, Face.DELETING})
MAX_LIFETIME = Seconds(10 * 365 * 86400.0)


class Until(StrEnum):
    """How long a caller wants to wait for what it asked."""

    ACCEPTED = "accepted"  # written down
    LAUNCHED = "launched"  # the operation is closed
    READY = "ready"  # the agent inside says so, or the instance has ended


@dataclass(frozen=True, slots=True)
class Asked:
    """What a verb answers: the instance as it is now and the operation that was opened, if any."""

    instance: Instance
    operation: OperationId | None


class InstancesEngine:
    """Verbs on the record of an instance."""

    def __init__(
        self,
        store: Store,
        host: Host,
        network: Network,
        clock: Callable[[], datetime],
        images: ImagesEngine,
        waits: Waits,
    ) -> None:
        self._store = store
        self._host = host
        self.network = network
        self._clock = clock
        self._images = images
        self._waits = waits

    async def create(
        self, principal: Principal, wanted: Create, receipt: str = "", digest: str = "", *, bare: bool = False
    ) -> Asked:
        """A new instance, made from an image or a snapshot, accepted.

        `receipt` is an idempotency key: a repeat answers with the first one's instance. `digest` stands for what was
        asked, where that is not all in `wanted`. `bare`: only to become a template.

        :raise Invalid, NotFound, Exists, OverQuota, NoCapacity, Unsupported: with nothing written.
        """
        require(principal, Action.INSTANCE_CREATE)
        name = check_name(wanted.name) if wanted.name else ""
        digest = digest or hashlib.sha256(repr(astuple(wanted)).encode()).hexdigest()
        if (earlier := await self.earlier(principal, receipt, digest)) is not None:
            return earlier
        if wanted.lifetime is not None and not 0 < wanted.lifetime <= MAX_LIFETIME:
            raise Invalid("lifetime: must be more than 0 seconds", field="lifetime")
        origin = await self._origin(principal, wanted, bare=bare) if wanted.snapshot else None
        spec = fork_spec(wanted, origin) if origin is not None else await self.resolve(principal, wanted)
        if origin is not None and origin.mounts:  # its memory knows of them
            wanted = replace(wanted, mounts=origin.mounts)
        instance = self._draft(principal, wanted, bare_spec(spec) if bare else spec, name)
        parked = wanted.parked and wanted.power is Power.OFF
        with contextlib.suppress(*([NoCapacity] if parked else [])):
            await self._host.check(blueprint_of(instance))
        report = await self._host.report()
        async with self._store.write() as unit:
            if receipt:
                earlier = await self._repeated(unit, principal, receipt, digest)
                if earlier is not None:  # a repeat came in between
                    return earlier
            if not wanted.snapshot:
                instance = await _or_booted(unit, instance)
            await self._admit(unit, principal, instance)
            if not parked:
                usage = await unit.instances.usage(None)
                place(instance.spec, [report], {report.id: usage.memory})
            instance = await self._claimed(unit, instance) or await give_address(
                unit, self.network, await unit.instances.add(instance)
            )
            if wanted.foreign is not None:
                await unit.foreigners.put(instance.project, instance.id, wanted.foreign.of(instance.id))
            operation = await self.open(unit, instance, Verb.CREATE, instance.spec.origin)
            if receipt:
                await unit.receipts.add(principal.project, receipt, digest, instance.id, self._clock())
        return Asked(instance, operation.id)

    async def _claimed(self, unit: Unit, instance: Instance) -> Instance | None:
        """A spare of its template that runs, taken over; there are things that none has."""
        spec = instance.spec
        if not spec.origin or spec.bare or _has_more(spec):
            return None
        for spare in await unit.instances.spares():
            if spare.spec.origin == spec.origin and spare.observed.ready and spare.settled and spare.operation is None:
                name = spare.id if instance.name == instance.id else instance.name
                intent = replace(instance.intent, generation=spare.intent.generation + 1)
                claimed = replace(
                    spare, project=instance.project, name=name, spec=spec, intent=intent, created=instance.created
                )
                await unit.instances.claim(claimed)
                return claimed
        return None

    async def earlier(self, principal: Principal, receipt: str, digest: str) -> Asked | None:
        """What this idempotency key made before. :raise Invalid: it was used for another request. :raise NotFound:"""
        if not receipt:
            return None
        async with self._store.read() as unit:
            return await self._repeated(unit, principal, receipt, digest)

    async def _repeated(self, unit: Unit, principal: Principal, receipt: str, digest: str) -> Asked | None:
        found = await unit.receipts.find(principal.project, receipt)
        if found is None:
            return None
        if found[0] != digest:
            raise Invalid("the idempotency key was used for another request", field="Idempotency-Key")
        try:
            instance = await unit.instances.get(InstanceId(found[1]))
        except NotFound as error:
            raise NotFound("the instance that this idempotency key made was deleted", subject=found[1]) from error
        return Asked(instance, instance.operation)

    async def _origin(self, principal: Principal, wanted: Create, *, bare: bool) -> Snapshot:
        """The snapshot that is named; only a `bare` instance is made of a template so: a spare, which is nobody's.

        :raise Invalid: an image is named as well. :raise NotFound, Busy:
        """
        if wanted.image:
            raise Invalid("snapshot: it has an image already, name one of the two", field="snapshot")
        async with self._store.read() as unit:
            snapshot = await find_snapshot(unit, principal, wanted.snapshot, Action.SNAPSHOT_VIEW)
            if snapshot.project != principal.project and not bare:  # what is in its memory and disk, to be taken away
                permit(principal, Action.INSTANCE_INTERACT, snapshot.project, wanted.snapshot)
            for mount in snapshot.mounts:
                await admit_mount(unit, principal, principal.project, mount)
        if snapshot.template and not bare:
            raise NotFound(f"no snapshot {wanted.snapshot[:80]!r}", field="snapshot", subject=wanted.snapshot)
        return require_ready(snapshot)

    async def resolve(self, principal: Principal, wanted: Create) -> Spec:
        """What an instance of an image would be. :raise Invalid: also when none is named. :raise NotFound, Busy:"""
        if wanted.blank:
            if wanted.image:
                raise Invalid("image: a blank machine has none", field="image")
            return self._connected(blank_spec(wanted))
        if not wanted.image:
            raise Invalid("image: an image, or a snapshot, must be named", field="image")
        spec = self._connected(resolve_spec(wanted, await self._images.resolve(principal, wanted.image)))
        if (
            wanted.cold
            or wanted.bridged
            or wanted.mounts
            or wanted.power is not Power.ON
            or spec.shape is not Shape.MICRO
        ):
            return spec
        async with self._store.read() as unit:
            template = await find_template(unit, principal, spec)
        return spec if template is None else replace(spec, origin=template.id)

    def _connected(self, spec: Spec) -> Spec:
        require_nics(self._host, spec.bridged)
        return spec

    def _draft(self, principal: Principal, wanted: Create, spec: Spec, name: str) -> Instance:
        now = self._clock()
        id = InstanceId(mint())
        expires = None if wanted.lifetime is None else now + timedelta(seconds=wanted.lifetime)
        wishes = 2 if wanted.resting else 1
        return Instance(
            id=id, number=0, project=principal.project, name=name or id, spec=spec,
            intent=Intent(wanted.power, generation=wishes, expires=expires, grace=spec.grace),
            observed=Observed(since=now, staged=now), host=self._host.id, created=now, mounts=wanted.mounts,
        )  # fmt: skip

    async def _admit(self, unit: Unit, principal: Principal, instance: Instance) -> None:
        spec = instance.spec
        if not instance.spare:
            await admit_more(unit, instance.project, Quotas(1, spec.vcpus, spec.memory, spec.disk))
        try:  # it may have been deleted since it was resolved; from here on it is in use
            if not spec.blank:
                await unit.images.find(spec.image, instance.project)
        except NotFound as error:
            raise NotFound(f"image: no image {spec.image_name[:120]!r}", field="image", subject=spec.image) from error
        if spec.origin:  # as for the image
            try:
                require_ready(await unit.snapshots.get(SnapshotId(spec.origin)))
            except NotFound as error:
                raise NotFound("snapshot: it was deleted", field="snapshot", subject=spec.origin) from error
        for mount in instance.mounts:
            await admit_mount(unit, principal, instance.project, mount)
        for one in instance.spec.vaults:
            await find_vault(unit, principal, one.vault, Action.VAULT_USE, instance.project)

    async def open(self, unit: Unit, instance: Instance, verb: Verb, subject: str = "") -> Operation:
        """Write an operation down, in the caller's transaction, with its event."""
        now = self._clock()
        operation = Operation(
            OperationId(mint()), instance.id, instance.project, verb, instance.intent.generation, Outcome.OPEN, now,
            subject,
        )  # fmt: skip
        await unit.operations.open(operation)
        if instance.spare:
            return operation
        data = {"name": instance.name, "verb": str(verb), "operation": str(operation.id)}
        await unit.events.append(Event("operation.opened", instance.project, instance.id, now, data))
        return operation

    # -- reading -------------------------------------------------------------------------------------------------

    async def find(self, unit: Unit, principal: Principal, key: str, action: Action) -> Instance:
        """By id or by name, in the caller's transaction. :raise NotFound:"""
        instance: Instance | None = None
        if is_id(key):
            try:
                instance = await unit.instances.get(InstanceId(key))
            except NotFound:
                instance = None
        if instance is None:
            try:
                instance = await unit.instances.named(principal.project, key)
            except NotFound as error:
                raise NotFound(f"no instance {key[:80]!r}", subject=key) from error
        try:
            permit(principal, action, instance.project, key)
            if instance.spare and principal is not SYSTEM:  # nobody's yet
                raise NotFound(subject=key)
        except NotFound as error:
            raise NotFound(f"no instance {key[:80]!r}", subject=key) from error
        return instance

    async def get(
        self, principal: Principal, key: str, action: Action = Action.INSTANCE_VIEW, *, anew: bool = False
    ) -> Instance:
        """By id or by name. `anew`: for who was let in a while ago.

        :raise NotFound: also when it is another project's. :raise Unauthenticated: the caller is gone by now.
        """
        async with self._store.read() as unit:
            return await self.find(unit, await as_now(unit, principal) if anew else principal, key, action)

    async def list(
        self,
        principal: Principal,
        cursor: str | None,
        limit: int,
        labels: Sequence[tuple[str, str]] = (),
        prefix: str = "",
        project: ProjectId | None = None,
    ) -> Page[Instance]:
        """A page, oldest first, of one project or all, of those with all of the labels and whose id begins so."""
        if project is not None:
            require(principal, Action.INSTANCE_VIEW, project)
        require_somewhere(principal, Action.INSTANCE_VIEW)
        seen = scope(principal, Action.INSTANCE_VIEW) if project is None else [project]
        async with self._store.read() as unit:
            return await unit.instances.page(seen, cursor, limit, labels, prefix)

    async def operation(self, principal: Principal, id: str) -> Operation:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            found = await unit.operations.get(OperationId(id))
        try:
            permit(principal, Action.INSTANCE_VIEW, found.project, id)
        except NotFound as error:
            raise NotFound("there is no such operation", subject=id) from error
        return found

    async def operations(self, principal: Principal, key: str | None, limit: int) -> Sequence[Operation]:
        """The latest, of one instance or of all."""
        require_somewhere(principal, Action.INSTANCE_VIEW)
        seen = scope(principal, Action.INSTANCE_VIEW)
        async with self._store.read() as unit:
            instance = await self.find(unit, principal, key, Action.INSTANCE_VIEW) if key else None
            return await unit.operations.page(seen, instance.id if instance else None, limit)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def settle(self, asked: Asked, until: Until, limit: float | None) -> Instance:
        """The instance once what was asked is as far as `until`. The work goes on when the caller does not wait.

        :raise Fault: the one the operation failed with. :raise TimedOut:
        :raise Stale: a later request took its place.
        """
        if until is Until.ACCEPTED or (asked.operation is None and until is not Until.READY):
            return asked.instance
        end = None if limit is None else monotonic() + limit
        found: Instance | None = asked.instance
        if asked.operation is not None:
            found = await self._closed(asked.instance.id, asked.operation, limit)
        if found is not None and until is Until.READY and not _is_ready(found):
            left = None if end is None else max(0.0, end - monotonic())
            found = await self._waits.until(asked.instance.id, _is_ready, left)
        return found if found is not None else asked.instance

    async def _closed(self, id: InstanceId, operation: OperationId, limit: float | None) -> Instance | None:
        """The instance as it was when that was closed; None: it was gone by then."""
        done, instance = await self._waits.closed(id, operation, limit)
        if done.outcome is Outcome.FAILED:
            raise revive(done.fault_kind, done.fault)
        if done.outcome is Outcome.SUPERSEDED:
            async with self._store.read() as unit:
                latest = (await unit.operations.page(None, id, 1))[0]
            if latest.verb is not done.verb:
                raise Stale(f"a later request ({latest.verb}) took the place of this one", subject=id)
            return await self._closed(id, latest.id, limit)  # the same, asked again: a stop that became a forced one
        return instance

    async def wait(
        self, principal: Principal, key: str, wanted: Callable[[Instance], bool], limit: float | None
    ) -> Instance | None:
        """Until `wanted` is true; None: it was deleted meanwhile. :raise TimedOut:"""
        instance = await self.get(principal, key)
        found = await self._waits.until(instance.id, wanted, limit)
        return None if found is None else await self.get(principal, found.id, anew=True)

    # -- changing ------------------------------------------------------------------------------------------------

    async def update(  # noqa: PLR0913 - each of which may be told alone
        self, principal: Principal, key: str, *, name: str | None = None, labels: dict[str, str] | None = None,
        lifetime: Seconds | None = None, policy: CompressionPolicy | None = None, restart: RestartPolicy | None = None,
        health: HealthCheck | None = None, unchecked: bool = False, standby: StandbyPolicy | None = None,
        ending: Ending | None = None,
    ) -> Instance:  # fmt: skip
        """New name, labels, policies (restart, standby, compression, ending), or lifetime (seconds from now; 0: none).

        `health` is another check; `unchecked` takes the one there is away.
        """
        async with self._store.write() as unit:
            instance = await self.find(unit, principal, key, Action.INSTANCE_ALTER)
            spec, intent = instance.spec, instance.intent
            if policy is not None:
                spec = check_spec(policy.apply(spec))
            if labels is not None:
                spec = check_spec(replace(spec, labels=tuple(sorted(labels.items()))))
            if restart is not None:
                spec = check_spec(replace(spec, restart=restart))
            if health is not None or unchecked:
                spec = check_spec(replace(spec, health=health))
            if standby is not None:
                spec = check_spec(replace(spec, standby=standby))
            if ending is not None:
                spec = check_spec(replace(spec, ending=ending))
            if lifetime is not None:
                if not 0 <= lifetime <= MAX_LIFETIME:
                    raise Invalid("lifetime: must not be negative", field="lifetime")
                expires = self._clock() + timedelta(seconds=lifetime) if lifetime else None
                intent = replace(intent, expires=expires)
                await unit.instances.want(instance.id, intent)
            new_name = check_name(name) if name is not None else instance.name
            await unit.instances.rename(instance.id, new_name, spec)
            return await unit.instances.get(instance.id)


def _has_more(spec: Spec) -> bool:
    """Whether it has what only a launch can give: host ports, one for its health check too, or limits."""
    asked_by_port = spec.health is not None and spec.health.probe is not Probe.EXEC
    return bool(spec.ports or spec.disk_rate or spec.download_rate or spec.upload_rate or asked_by_port)


async def admit_mount(unit: Unit, principal: Principal, project: ProjectId, mount: Mount) -> None:
    """:raise NotFound: it is another project's, or was deleted, maybe since a snapshot was taken. :raise Busy:"""
    try:
        volume = await unit.volumes.get(mount.volume)
        if volume.project != project and not await _is_above(unit, principal, volume.project, project):
            raise NotFound(subject=mount.volume)
        permit(principal, Action.VOLUME_USE, volume.project, mount.volume)
    except NotFound as error:
        raise NotFound(f"volumes: no volume {mount.name}", field="volumes", subject=mount.volume) from error
    if volume.state is not VolumeState.READY:
        raise Busy(f"volumes: {volume.name} is {volume.state}", field="volumes", subject=mount.volume)


async def _is_above(unit: Unit, principal: Principal, volumes: ProjectId, project: ProjectId) -> bool:
    """Whether what is in a project above may be used in this one, by whoever may use it there."""
    above = {one.id for one in await unit.identities.path(project)}
    return volumes in above and principal.may(Action.VOLUME_USE, volumes)


async def _or_booted(unit: Unit, instance: Instance) -> Instance:
    """Its template may have gone since it was found: nobody asked for that one by name, so it boots."""
    if instance.spec.origin:
        try:
            require_ready(await unit.snapshots.get(SnapshotId(instance.spec.origin)))
        except (NotFound, Busy):
            return replace(instance, spec=replace(instance.spec, origin=""))
    return instance


def _is_ready(instance: Instance) -> bool:
    """Ready, or never going to be: nobody but its guest knows whether a blank machine is."""
    now = face(instance)
    return instance.observed.ready or now in _WAITS_FOR_NOTHING or (instance.spec.blank and now is Face.RUNNING)
