"""Instances: create, read, wait, change what is not power."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic

from polyvisor.access.grants import permit, require, scope
from polyvisor.access.quotas import check_quota
from polyvisor.engine.images import ImagesEngine
from polyvisor.engine.resolve import resolve_spec
from polyvisor.engine.waits import Waits
from polyvisor.model.event import Event
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, Invalid, NotFound, Stale, revive
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId, OperationId, check_name, is_id, mint
from polyvisor.model.image import Image
from polyvisor.model.instance import Address, Instance, Intent, Observed
from polyvisor.model.network import Network, NetworkMode, bridge_address, user_address
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.model.principal import Action, Principal
from polyvisor.model.query import Page
from polyvisor.model.request import Create
from polyvisor.model.spec import check_spec
from polyvisor.model.units import Seconds
from polyvisor.model.volume import VolumeState
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.scheduler.place import place

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
        self._network = network
        self._clock = clock
        self._images = images
        self._waits = waits

    async def create(self, principal: Principal, wanted: Create, receipt: str = "") -> Asked:
        """A new instance, accepted. `receipt` is an idempotency key: a repeat answers with the first one's instance.

        :raise Invalid, NotFound, Exists, OverQuota, NoCapacity, Unsupported: with nothing written.
        """
        require(principal, Action.CREATE)
        name = check_name(wanted.name) if wanted.name else ""
        digest = hashlib.sha256(repr(astuple(wanted)).encode()).hexdigest()
        if receipt:
            async with self._store.read() as unit:
                earlier = await self._repeated(unit, principal, receipt, digest)
            if earlier is not None:
                return earlier
        if wanted.lifetime is not None and not 0 < wanted.lifetime <= MAX_LIFETIME:
            raise Invalid("lifetime: must be more than 0 seconds", field="lifetime")
        image = await self._images.resolve(principal, wanted.image)
        instance = self._draft(principal, wanted, image, name)
        await self._host.check(Blueprint(instance.id, 0, instance.project, instance.name, instance.spec, None))
        report = await self._host.report()
        async with self._store.write() as unit:
            if receipt:
                earlier = await self._repeated(unit, principal, receipt, digest)
                if earlier is not None:  # a repeat came in between
                    return earlier
            await self._admit(unit, instance)
            usage = await unit.instances.usage(None)
            place(instance.spec, [report], {report.id: usage.memory})
            instance = await unit.instances.add(instance)
            instance = await self._address(unit, instance)
            operation = await self.open(unit, instance, Verb.CREATE)
            if receipt:
                await unit.receipts.add(principal.project, receipt, digest, instance.id, self._clock())
        return Asked(instance, operation.id)

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

    def _draft(self, principal: Principal, wanted: Create, image: Image, name: str) -> Instance:
        now = self._clock()
        id = InstanceId(mint())
        expires = None if wanted.lifetime is None else now + timedelta(seconds=wanted.lifetime)
        spec = resolve_spec(wanted, image)
        return Instance(
            id=id, number=0, project=principal.project, name=name or id, spec=spec,
            intent=Intent(wanted.power, expires=expires, grace=spec.grace), observed=Observed(since=now),
            host=self._host.id, created=now, mounts=wanted.mounts,
        )  # fmt: skip

    async def _admit(self, unit: Unit, instance: Instance) -> None:
        spec = instance.spec
        project = await unit.identities.project(instance.project)
        usage = await unit.instances.usage(instance.project)
        check_quota(project, usage, instances=1, vcpus=spec.vcpus, memory=spec.memory, disk=spec.disk)
        try:  # it may have been deleted since it was resolved; from here on it is in use
            await unit.images.find(spec.image, instance.project)
        except NotFound as error:
            raise NotFound(f"image: no image {spec.image_name[:120]!r}", field="image", subject=spec.image) from error
        for mount in instance.mounts:
            volume = await unit.volumes.get(mount.volume)
            if volume.project != instance.project:
                raise NotFound(f"volumes: no volume {mount.volume}", field="volumes", subject=mount.volume)
            if volume.state is not VolumeState.READY:
                raise Busy(f"volumes: {volume.name} is {volume.state}", field="volumes", subject=mount.volume)

    async def _address(self, unit: Unit, instance: Instance) -> Instance:
        if not instance.spec.network:
            return instance
        address: Address
        if self._network.mode is NetworkMode.USER:
            address = user_address(self._network, instance.id, instance.number)
        else:
            address = bridge_address(self._network, instance.id, await unit.instances.addresses())
        await unit.instances.give(instance.id, address, unique=self._network.mode is NetworkMode.BRIDGE)
        return replace(instance, address=address)

    async def open(self, unit: Unit, instance: Instance, verb: Verb, subject: str = "") -> Operation:
        """Write an operation down, in the caller's transaction, with its event."""
        now = self._clock()
        operation = Operation(
            OperationId(mint()), instance.id, instance.project, verb, instance.intent.generation, Outcome.OPEN, now,
            subject,
        )  # fmt: skip
        await unit.operations.open(operation)
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
        except NotFound as error:
            raise NotFound(f"no instance {key[:80]!r}", subject=key) from error
        return instance

    async def get(self, principal: Principal, key: str, action: Action = Action.VIEW) -> Instance:
        """By id or by name. :raise NotFound: also when it is another project's."""
        async with self._store.read() as unit:
            return await self.find(unit, principal, key, action)

    async def list(
        self, principal: Principal, cursor: str | None, limit: int, labels: Sequence[tuple[str, str]] = ()
    ) -> Page[Instance]:
        """A page, oldest first."""
        require(principal, Action.VIEW)
        async with self._store.read() as unit:
            return await unit.instances.page(scope(principal), cursor, limit, labels)

    async def operation(self, principal: Principal, id: str) -> Operation:
        """:raise NotFound:"""
        async with self._store.read() as unit:
            found = await unit.operations.get(OperationId(id))
        permit(principal, Action.VIEW, found.project, id)
        return found

    async def operations(self, principal: Principal, key: str | None, limit: int) -> Sequence[Operation]:
        """The latest, of one instance or of all."""
        require(principal, Action.VIEW)
        async with self._store.read() as unit:
            instance = await self.find(unit, principal, key, Action.VIEW) if key else None
            return await unit.operations.page(scope(principal), instance.id if instance else None, limit)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def settle(self, asked: Asked, until: Until, limit: float | None) -> Instance:
        """The instance once what was asked is as far as `until`. The work goes on when the caller does not wait.

        :raise Fault: the one the operation failed with. :raise TimedOut:
        :raise Stale: a later request took its place.
        """
        if until is Until.ACCEPTED or (asked.operation is None and until is not Until.READY):
            return asked.instance
        end = None if limit is None else monotonic() + limit
        if asked.operation is not None:
            await self._closed(asked.instance.id, asked.operation, limit)
        wanted = _is_ready if until is Until.READY else lambda _: True
        left = None if end is None else max(0.0, end - monotonic())
        found = await self._waits.until(asked.instance.id, wanted, left)
        return found if found is not None else asked.instance

    async def _closed(self, id: InstanceId, operation: OperationId, limit: float | None) -> None:
        done = await self._waits.finished(id, operation, limit)
        if done.outcome is Outcome.FAILED:
            raise revive(done.fault_kind, done.fault)
        if done.outcome is Outcome.SUPERSEDED:
            async with self._store.read() as unit:
                latest = (await unit.operations.page(None, id, 1))[0]
            if latest.verb is not done.verb:
                raise Stale(f"a later request ({latest.verb}) took the place of this one", subject=id)
            await self._closed(id, latest.id, limit)  # the same, asked again: a stop that became a forced one

    async def wait(
        self, principal: Principal, key: str, wanted: Callable[[Instance], bool], limit: float | None
    ) -> Instance | None:
        """Until `wanted` is true; None: it was deleted meanwhile. :raise TimedOut:"""
        instance = await self.get(principal, key)
        return await self._waits.until(instance.id, wanted, limit)

    # -- changing ------------------------------------------------------------------------------------------------

    async def update(
        self, principal: Principal, key: str, *, name: str | None = None, labels: dict[str, str] | None = None,
        lifetime: Seconds | None = None,
    ) -> Instance:  # fmt: skip
        """New name, labels or lifetime (seconds from now; 0 takes it away)."""
        async with self._store.write() as unit:
            instance = await self.find(unit, principal, key, Action.OPERATE)
            spec, intent = instance.spec, instance.intent
            if labels is not None:
                spec = check_spec(replace(spec, labels=tuple(sorted(labels.items()))))
            if lifetime is not None:
                if not 0 <= lifetime <= MAX_LIFETIME:
                    raise Invalid("lifetime: must not be negative", field="lifetime")
                expires = self._clock() + timedelta(seconds=lifetime) if lifetime else None
                intent = replace(intent, expires=expires)
                await unit.instances.want(instance.id, intent)
            new_name = check_name(name) if name is not None else instance.name
            await unit.instances.rename(instance.id, new_name, spec)
            return await unit.instances.get(instance.id)


def _is_ready(instance: Instance) -> bool:
    """Ready, or never going to be."""
    return instance.observed.ready or face(instance) in (Face.STOPPED, Face.FAILED, Face.PAUSED, Face.DELETING)
