"""Running steps and writing facts: the only code that writes `Observed` or closes an operation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from polyvisor.model.event import Event
from polyvisor.model.faults import Fault, Internal
from polyvisor.model.host import Sight
from polyvisor.model.ids import InstanceId, VolumeId
from polyvisor.model.instance import Instance, MountState, Observed, Phase, advance
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.reconcile.blueprint import blueprint_of, disk_of
from polyvisor.reconcile.plan import Settled
from polyvisor.reconcile.steps import STEPS, StepName, Work, entry, to_undo

log = logging.getLogger("polyvisor.reconcile")


class Crash(BaseException):
    """Raised by a test's hook to end the manager right there, as a kill -9 would."""


class Runner:
    """Executes what `plan` decided. `hook` is called around every step: fault tests fail or crash there."""

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self.hook: Callable[[str, StepName], None] = lambda when, step: None

    async def load(self, id: InstanceId) -> tuple[Instance, Operation | None]:
        """The record and its open operation. :raise NotFound:"""
        async with self._store.read() as unit:
            return await unit.instances.get(id), await unit.operations.current(id)

    def work(self, instance: Instance, operation: Operation | None) -> Work:
        """What the steps of this instance act on."""
        mount = next((m for m in instance.mounts if operation and m.volume == operation.subject), None)
        return Work(self._host, blueprint_of(instance), disk_of(mount) if mount else None)

    async def act(self, instance: Instance, operation: Operation | None, name: StepName) -> None:
        """Journal the step, run it; on a fault take back what the operation did and close it."""
        if operation is not None:
            line = entry(name, self._clock())
            operation = replace(operation, journal=(*operation.journal, line), progress=str(name))
            async with self._store.write() as unit:
                await unit.operations.save(operation)
        work = self.work(instance, operation)
        try:
            self.hook("before", name)
            await STEPS[name].do(work)
            self.hook("after", name)
        except Exception as error:
            fault = error if isinstance(error, Fault) else Internal(private=repr(error))
            log.warning(
                "%s: %s failed: %s %s", instance.id, name, fault.public, fault.private, exc_info=error
            )
            await self._failed(instance, operation, name, fault)
            return
        if operation is not None and name in (StepName.ATTACH, StepName.DETACH, StepName.RESET):
            async with self._store.write() as unit:
                await unit.operations.save(replace(operation, journal=(*operation.journal, f"{name}.done")))

    async def _failed(
        self, instance: Instance, operation: Operation | None, name: StepName, fault: Fault
    ) -> None:
        if operation is not None and operation.verb is Verb.DELETE:
            await asyncio.sleep(0.5)  # a delete only goes forward: the same step is tried again
            return
        work = self.work(instance, operation)
        steps = to_undo(operation) if operation is not None else [STEPS[name]]
        for step in steps:
            if step.undo is None:
                continue
            try:
                await step.undo(work)
            except Exception as error:
                log.exception("%s: undo of %s failed: %r", instance.id, step.name, error)
        seen = await self._host.look(work.blueprint)
        phase = {Sight.RUNNING: Phase.RUNNING, Sight.PAUSED: Phase.PAUSED, Sight.DEAF: Phase.LOST}.get(
            seen.sight
        )
        live = operation is not None and operation.verb in (Verb.ATTACH, Verb.DETACH, Verb.RESET)
        was = instance.observed
        observed = replace(
            was,
            phase=was.phase if live else phase or Phase.FAILED,
            generation=instance.intent.generation,
            fault="" if live else fault.public,
            fault_kind="" if live else fault.kind,
            run=seen.run,
            ready=seen.ready,
            restart_at=None,
            since=self._clock(),
        )
        await self._close(instance, observed, operation, fault)

    async def settle(self, instance: Instance, operation: Operation | None, settled: Settled) -> None:
        """Write the facts and close the operation."""
        if settled.forget:
            await self._forget(instance, operation)
            return
        if operation is not None or settled.observed != instance.observed:
            await self._close(instance, settled.observed, operation, None)

    async def note(self, instance: Instance, observed: Observed) -> None:
        """Write facts while an operation goes on."""
        if observed != instance.observed:
            await self._close(instance, observed, None, None)

    async def _close(
        self, instance: Instance, observed: Observed, operation: Operation | None, fault: Fault | None
    ) -> None:
        advance(instance.observed.phase, observed.phase)
        now = self._clock()
        async with self._store.write() as unit:
            if observed != instance.observed:
                await unit.instances.saw(instance.id, observed)
            if operation is not None:
                current = await unit.operations.current(instance.id)
                if current is not None and current.id == operation.id:
                    await self._finish(unit, instance, current, fault, now)
            for event in _events(instance, observed, now):
                await unit.events.append(event)

    async def _finish(
        self, unit: Unit, instance: Instance, operation: Operation, fault: Fault | None, now: datetime
    ) -> None:
        outcome = Outcome.FAILED if fault else Outcome.DONE
        await unit.operations.save(
            replace(
                operation, outcome=outcome, finished=now, progress="", fault=fault.public if fault else "",
                fault_kind=fault.kind if fault else "",
            )
        )  # fmt: skip
        volume = VolumeId(operation.subject)
        if operation.verb is Verb.ATTACH:
            if fault:
                await unit.instances.unmount(instance.id, volume)
            else:
                await unit.instances.mounted(instance.id, volume, MountState.ATTACHED)
        if operation.verb is Verb.DETACH:
            if fault:
                await unit.instances.mounted(instance.id, volume, MountState.ATTACHED)
            else:
                await unit.instances.unmount(instance.id, volume)
        data = {"operation": str(operation.id), "verb": str(operation.verb), "outcome": str(outcome)}
        await unit.events.append(Event("operation.finished", instance.project, instance.id, now, data))

    async def _forget(self, instance: Instance, operation: Operation | None) -> None:
        now = self._clock()
        async with self._store.write() as unit:
            if operation is not None:
                await unit.operations.save(
                    replace(operation, outcome=Outcome.DONE, finished=now, progress="")
                )
            await unit.instances.forget(instance.id)
            await unit.events.append(
                Event("instance.deleted", instance.project, instance.id, now, {"name": instance.name})
            )


def _events(instance: Instance, observed: Observed, now: datetime) -> list[Event]:
    was = instance.observed
    found = []
    if observed.phase is not was.phase or observed.incarnation != was.incarnation:
        data = {"name": instance.name}
        if observed.ended is not None:
            data["reason"] = observed.ended.reason
            if observed.ended.code is not None:
                data["exit_code"] = str(observed.ended.code)
        if observed.fault:
            data["fault"] = observed.fault
        found.append(Event(f"instance.{observed.phase}", instance.project, instance.id, now, data))
    if observed.ready and not was.ready:
        found.append(Event("instance.ready", instance.project, instance.id, now, {"name": instance.name}))
    return found
