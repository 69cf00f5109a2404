"""Another machine for an instance: what only a start can give it, at once while it is off, else kept until then."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from polyvisor.access.quotas import admit_more
from polyvisor.engine.addresses import give_address, require_nics
from polyvisor.engine.instances import InstancesEngine
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Invalid, NoCapacity
from polyvisor.model.identity import Quotas
from polyvisor.model.instance import Instance
from polyvisor.model.network import Network
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import Reshape, Shape, Spec, check_spec
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit

_MICRO = frozenset({"vcpus", "memory", "autostart"})


class ReshapeEngine:
    """Change what a machine is."""

    def __init__(self, store: Store, host: Host, instances: InstancesEngine) -> None:
        self._store = store
        self._host = host
        self._instances = instances

    async def reshape(self, principal: Principal, key: str, change: Callable[[Spec], Reshape]) -> Instance:
        """`change` is asked what is to be different from what the instance will be at its next start, in the
        transaction that writes it down.

        :raise Invalid, NotFound, OverQuota, Unsupported, Unavailable: with nothing changed.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_ALTER)
        await self._check(instance, change(instance.spec.then))
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            wanted = change(instance.spec.then)
            later = replace(instance.spec.later or Reshape(), **wanted.told())
            off = face(instance) in (Face.STOPPED, Face.FAILED) and instance.operation is None
            changed = replace(instance, spec=replace(instance.spec, later=later))
            check_spec(changed.spec.then)
            if off:
                return await apply_later(unit, self._instances.network, changed)
            await unit.instances.rename(changed.id, changed.name, changed.spec)
        return changed

    async def _check(self, instance: Instance, wanted: Reshape) -> None:
        """What the host has to say to it."""
        told = wanted.told()
        if instance.spec.shape is Shape.MICRO and (more := set(told) - _MICRO):
            raise Invalid(f"{min(more)}: a root file system's machine cannot have another", field=min(more))
        spec = check_spec(replace(instance.spec, later=replace(instance.spec.later or Reshape(), **told)).then)
        require_nics(self._host, spec.bridged)
        with contextlib.suppress(NoCapacity):  # that is asked when it is started
            await self._host.check(blueprint_of(replace(instance, spec=spec)))


async def apply_later(unit: Unit, network: Network, instance: Instance) -> Instance:
    """The instance, which is off, as it is to be from now on. :raise OverQuota:"""
    spec, old = instance.spec.then, instance.spec
    more = Quotas(0, max(0, spec.vcpus - old.vcpus), max(0, spec.memory - old.memory))
    await admit_more(unit, instance.project, more)
    await unit.instances.rename(instance.id, instance.name, spec)
    return await give_address(unit, network, replace(instance, spec=spec))
