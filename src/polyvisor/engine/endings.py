"""How instances end: at once, or not before a snapshot of them is taken, or not at all but in standby.

What an ending would keep is never lost to its failing: an instance whose snapshot cannot be taken, or that cannot go
into standby, is stopped at the end of its lifetime, and stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime

from polyvisor.engine.instances import Asked, InstancesEngine, Until
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.streams import StreamsEngine
from polyvisor.model.face import Face, face
from polyvisor.model.faults import Exists, Fault, NotFound
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Instance
from polyvisor.model.principal import SYSTEM, Action, Principal
from polyvisor.model.units import Seconds
from polyvisor.ports.store import Store

log = logging.getLogger("polyvisor.engine")
_LIMIT = 300.0  # seconds for a snapshot, or for memory to be saved
_FOREVER = Seconds(0.0)


def name_beside(name: str, id: InstanceId) -> str:
    """What the last snapshot of that instance is called where the name that it was to have is another's."""
    return f"{name[:50]}-{id[:12]}"


class EndingsEngine:
    """A verb, and what the keeper asks for when lifetimes are over."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime], instances: InstancesEngine, power: PowerEngine,
        snapshots: SnapshotsEngine, streams: StreamsEngine,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._instances = instances
        self._power = power
        self._snapshots = snapshots
        self._streams = streams
        self._under_way: dict[InstanceId, asyncio.Task[None]] = {}

    async def end(self, principal: Principal, key: str) -> Asked:
        """Delete it, whatever it is doing; where its ending wants a snapshot, that is there by then.

        :raise NotFound: :raise Fault: the snapshot cannot be taken, and nothing is deleted.
        """
        instance = await self._instances.get(principal, key, Action.INSTANCE_DELETE)
        if not instance.intent.deleted:
            if _leaves_something(instance):
                await self._streams.sync(SYSTEM, instance.id)
            if instance.spec.ending.snapshot:
                await self._keep(instance)
        return await self._power.delete(principal, instance.id)

    async def _keep(self, instance: Instance) -> None:
        """Its snapshot, once, however often it is tried."""
        owner = SYSTEM.in_project(instance.project)
        receipt, name = f"ending {instance.id} {instance.intent.generation}", instance.spec.ending.name
        try:
            taken = await self._snapshots.create(owner, instance.id, name, receipt=receipt)
        except NotFound:  # it was tried, and failed; or the instance is gone, which the next one says, too
            taken = await self._snapshots.create(owner, instance.id, name)
        except Exists:
            other = name_beside(name, instance.id)
            taken = await self._snapshots.create(owner, instance.id, other, receipt=receipt)
        await self._snapshots.settle(taken, Until.LAUNCHED, _LIMIT)

    async def expire(self) -> int:
        """End every instance whose lifetime is over; how many are begun now."""
        async with self._store.read() as unit:
            due = [id for id in await unit.instances.expired(self._clock()) if id not in self._under_way]
            found = []
            for id in due:
                with contextlib.suppress(NotFound):
                    found.append(await unit.instances.get(id))
        for instance in found:
            if not instance.spec.ending.suspend and not _leaves_something(instance):
                with contextlib.suppress(NotFound):  # somebody else deleted it
                    await self._power.delete(SYSTEM, instance.id)
                continue
            task = asyncio.create_task(self._over(instance), name=f"the end of {instance.id}")
            self._under_way[instance.id] = task
            task.add_done_callback(lambda _, id=instance.id: self._under_way.pop(id, None))  # type: ignore[misc]  # the one of this round
        return len(found)

    async def _over(self, instance: Instance) -> None:
        """Its lifetime is over: what its ending says, or, if that cannot be, it rests."""
        try:
            if instance.spec.ending.suspend:
                await self._suspend(instance)
            else:
                await self.end(SYSTEM, instance.id)
        except NotFound:
            return
        except Fault as fault:
            log.warning("%s: its lifetime is over, and it is stopped instead of lost: %s", instance.id, fault.public)
            with contextlib.suppress(Fault):
                await self._power.stop(SYSTEM, instance.id, force=True)
                await self._instances.update(SYSTEM, instance.id, lifetime=_FOREVER)

    async def _suspend(self, instance: Instance) -> None:
        """Into standby; from there on it has no end until somebody gives it another."""
        if face(instance) is not Face.STOPPED:
            await self._instances.settle(await self._power.suspend(SYSTEM, instance.id), Until.LAUNCHED, _LIMIT)
        await self._instances.update(SYSTEM, instance.id, lifetime=_FOREVER)

    async def close(self) -> None:
        """Stop; the next start begins it again."""
        for task in list(self._under_way.values()):
            task.cancel()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)


def _leaves_something(instance: Instance) -> bool:
    """Whether what its guest has not written yet would be missed: in its snapshot, or on a volume that stays."""
    return instance.spec.ending.snapshot or any(not mount.read_only for mount in instance.mounts)
