"""NICs of the host: the operator's own networks that machines may be put into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyvisor.access.grants import require_somewhere
from polyvisor.engine.addresses import give_address, require_nics
from polyvisor.engine.instances import InstancesEngine
from polyvisor.model.blueprint import blueprint_of
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Invalid, NotFound, WrongState
from polyvisor.model.instance import Instance
from polyvisor.model.network import HostNic
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import Spec, check_spec
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store


class NicsEngine:
    """Read; plug in and out."""

    def __init__(self, store: Store, host: Host, instances: InstancesEngine) -> None:
        self._store = store
        self._host = host
        self._instances = instances

    async def list(self, principal: Principal) -> Sequence[HostNic]:
        """By number. Which device of the host it is, is for operators."""
        require_somewhere(principal, Action.NIC_VIEW)
        found = sorted(self._host.nics(), key=lambda nic: nic.number)
        return found if principal.operator else [replace(nic, bridge="") for nic in found]

    def numbered(self, number: int) -> str:
        """The name of the NIC of that number. :raise NotFound:"""
        for nic in self._host.nics():
            if nic.number == number:
                return nic.name
        raise NotFound(f"nics: the host has no NIC {number}", field="nics", subject=str(number))

    async def plug(self, principal: Principal, key: str, nic: str, mac: str = "") -> Instance:
        """A running instance gets a NIC on that network of the host's, "" for the one that we make.

        :raise WrongState: it does not run. :raise Invalid: it has that one. :raise NotFound, Unsupported, Unavailable:
        """
        instance = await self._running(principal, key)
        spec = instance.spec
        if nic:
            require_nics(self._host, [nic])
        if not nic and spec.network:
            raise Invalid("nics: it is in that network already", field="nics")
        first = 1 if spec.network else 0
        macs = [*spec.macs, *[""] * (first + len(spec.bridged) - len(spec.macs))]
        index = first + len(spec.bridged) if nic else 0
        macs.insert(index, mac)
        bridged = (*spec.bridged, nic) if nic else spec.bridged
        changed = check_spec(replace(spec, network=spec.network or not nic, bridged=bridged, macs=tuple(macs)))
        async with self._store.write() as unit:
            instance = await give_address(unit, self._instances.network, replace(instance, spec=changed))
        await self._host.plug_nic(blueprint_of(instance), index)
        return await self._keep(instance, changed)

    async def unplug(self, principal: Principal, key: str, index: int) -> Instance:
        """A running instance loses a NIC that it got while it ran; counted as the spec's `macs` are.

        :raise WrongState: it does not run. :raise Unsupported, TimedOut: it keeps it.
        """
        instance = await self._running(principal, key)
        spec = instance.spec
        first = 1 if spec.network else 0
        if not 0 <= index < first + len(spec.bridged):
            raise NotFound(f"nics: it has no NIC {index}", field="nics")
        await self._host.unplug_nic(blueprint_of(instance), index)
        macs = [mac for place, mac in enumerate(spec.macs) if place != index]
        bridged = tuple(name for place, name in enumerate(spec.bridged, start=first) if place != index)
        network = spec.network and not (first and index == 0)
        return await self._keep(instance, replace(spec, network=network, bridged=bridged, macs=tuple(macs)))

    async def _running(self, principal: Principal, key: str) -> Instance:
        instance = await self._instances.get(principal, key, Action.INSTANCE_ALTER)
        if face(instance) is not Face.RUNNING or instance.operation is not None:
            raise WrongState(f"the instance is {face(instance)}")
        return instance

    async def _keep(self, instance: Instance, spec: Spec) -> Instance:
        """What it has now is what it is; a change that was to come with its next start may have come."""
        async with self._store.write() as unit:
            now = await unit.instances.get(instance.id)
            later = now.spec.later
            kept = replace(now.spec, network=spec.network, bridged=spec.bridged, macs=spec.macs)
            if later is not None and replace(kept, later=later).then == replace(kept, later=None):
                kept = replace(kept, later=None)
            await unit.instances.rename(now.id, now.name, kept)
        return replace(now, spec=kept)
