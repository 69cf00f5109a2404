"""What an instance is left of its memory while it runs: less than it was started with, or all of it again (ADR 53)."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from time import monotonic

from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.reclaim import ReclaimEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Fault, Invalid, Unsupported, WrongState
from polyvisor.model.instance import Instance
from polyvisor.model.principal import Action, Principal
from polyvisor.model.spec import MIN_MEMORY, Reshape, Spec, check_spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_PATIENCE = 10.0  # seconds for a guest to begin to obey
_POLL = 0.1


class AllowanceEngine:
    """Change what a machine may use of its memory."""

    def __init__(self, store: Store, host: Host, instances: InstancesEngine, reclaim: ReclaimEngine) -> None:
        self._store = store
        self._host = host
        self._instances = instances
        self._reclaim = reclaim

    async def allow(self, principal: Principal, key: str, memory: Bytes) -> Instance:
        """So much from now on, and from its next start on as well. A guest that is up has begun to obey then.

        :raise Invalid: it is more than the machine was started with. :raise Unsupported: its machine has no balloon.
        :raise WrongState: its guest does not obey, and has what it had.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_ALTER)
        runs = face(instance) is Face.RUNNING
        before = await self._has(instance) if runs else Bytes(0)
        was, instance = instance.spec, await self._write(principal, key, memory)
        if not runs:
            return instance  # it is asked when it has begun
        try:
            aim = await self._reclaim.allow(instance)
            if instance.observed.ready:
                await self._follows(instance, before, aim)
        except BaseException:
            await self._put_back(principal, instance, was)
            raise
        return instance

    async def _has(self, instance: Instance) -> Bytes:
        try:
            return await self._host.guest_memory(instance.id)
        except Unsupported as fault:
            raise Unsupported(f"memory: {fault.public}", field="memory") from fault

    async def _write(self, principal: Principal, key: str, memory: Bytes) -> Instance:
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_ALTER)
            spec = instance.spec
            if not MIN_MEMORY <= memory <= spec.memory:
                most = f"{MIN_MEMORY // MIB} to {spec.memory // MIB} MiB, which it was started with"
                raise Invalid(f"memory: while it is {face(instance)} it can be left {most}", field="memory")
            later = replace(spec.later or Reshape(), memory=memory)
            left = Bytes(0) if memory == spec.memory else memory
            changed = replace(instance, spec=check_spec(replace(spec, later=later, allowance=left)))
            await unit.instances.rename(changed.id, changed.name, changed.spec)
        return changed

    async def _follows(self, instance: Instance, before: Bytes, aim: Bytes) -> None:
        """:raise WrongState: there is nothing in the guest that gives memory back, or none that it could do without."""
        end = monotonic() + _PATIENCE
        while (now := await self._host.guest_memory(instance.id)) != aim:
            if monotonic() >= end:
                if now == before:
                    raise WrongState("memory: the guest does not give any back", field="memory")
                return  # it goes on with it
            await asyncio.sleep(_POLL)

    async def _put_back(self, principal: Principal, instance: Instance, was: Spec) -> None:
        """What is said of its memory is as it was, whatever else has changed since."""
        try:
            async with self._store.write() as unit:
                now = await self._instances.find(unit, principal, instance.id, Action.INSTANCE_ALTER)
                later = replace(now.spec.later or Reshape(), memory=was.later.memory if was.later else None)
                spec = replace(now.spec, later=later if later.told() else None, allowance=was.allowance)
                await unit.instances.rename(now.id, now.name, spec)
            await self._reclaim.allow(replace(now, spec=spec))
        except Fault as fault:
            log.warning("%s: is not asked for the memory that it had: %s", instance.id, fault.public)
