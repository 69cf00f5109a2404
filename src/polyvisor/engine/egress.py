"""What instances may reach: read, and changed while they run."""

from __future__ import annotations

from dataclasses import replace

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.waits import Waits
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.egress import EgressPolicy, mark_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Busy, NotFound
from polyvisor.model.instance import Instance, Phase
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import check_spec
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

_LIMIT = 60.0
_UP = (Phase.RUNNING, Phase.PAUSED)
_BEGINNING = frozenset({Face.CREATING, Face.STARTING, Face.RESUMING})


class EgressEngine:
    """The policy of an instance."""

    def __init__(self, store: Store, host: Host, instances: InstancesEngine, waits: Waits) -> None:
        self._store = store
        self._host = host
        self._instances = instances
        self._waits = waits

    async def get(self, principal: Principal, key: str) -> EgressPolicy | None:
        """What it may reach; None: what its network reaches."""
        return (await self._instances.get(principal, key)).spec.egress

    async def set(self, principal: Principal, key: str, policy: EgressPolicy | None) -> Instance:
        """It may reach something else, from now on: answered when that holds, or at once for one that does not run.

        :raise WrongState: it runs, and was started without a policy in a network that cannot be told otherwise.
        :raise Busy: it is being started so. :raise TimedOut: it is on record, and holds a little later.
        """
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            spec = check_spec(replace(instance.spec, egress=policy))
            if instance.spec.egress is None and policy is not None:
                self._admit(instance)
            await unit.instances.rename(instance.id, instance.name, spec)
            unit.wake(instance.id)
        there = await self._waits.until(instance.id, lambda now: _holds(now, policy), _LIMIT)
        if there is None:
            raise NotFound("the instance was deleted", subject=instance.id)
        return there

    def _admit(self, instance: Instance) -> None:
        """:raise WrongState, Busy:"""
        if instance.address is None or not instance.spec.network:
            return
        if face(instance) in _BEGINNING:
            raise Busy("egress: the instance is being started without a policy", field="egress", retry_after=1.0)
        if instance.observed.phase in (*_UP, Phase.LOST):
            self._host.require_enforceable(blueprint_of(instance))


def _holds(instance: Instance, policy: EgressPolicy | None) -> bool:
    """Whether the policy is in force, or another has taken its place, or there is nothing that it could hold for."""
    return instance.spec.egress != policy or in_force(instance)


def in_force(instance: Instance) -> bool:
    """Whether what it reaches is what its spec says, as far as it runs."""
    spec = instance.spec
    up = instance.observed.phase in _UP and spec.network and instance.address is not None
    return not up or instance.observed.egress == mark_of(spec.egress, opened=bool(spec.vaults))
