"""Running steps and writing facts: the only code that writes `Observed` or closes an operation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from polyvisor.model.blueprint import blueprint_of, disk_of
from polyvisor.model.event import Event
from polyvisor.model.faults import Fault, Internal, NotFound
from polyvisor.model.host import Observation, Sight
from polyvisor.model.ids import InstanceId, SnapshotId, VolumeId
from polyvisor.model.instance import Instance, MountState, Observed, Phase, Power, advance, timed
from polyvisor.model.operation import Operation, Outcome, Verb
from polyvisor.model.units import Bytes
from polyvisor.ports.host import Host
from polyvisor.ports.store import Store, Unit
from polyvisor.reconcile import facts, journal, snapshots
from polyvisor.reconcile.plan import LIVE, Act, Settled, plan, proven
from polyvisor.reconcile.steps import STEPS, StepName, Work

log = logging.getLogger("polyvisor.reconcile")
AT_ONCE = 8  # launches and the like that run side by side; more would only make each of them slower
_HEAVY = {StepName.MAKE_DISKS, StepName.LAUNCH, StepName.RELAUNCH, StepName.RESTORE, StepName.SNAPSHOT}
_FORWARD = {StepName.REAP, StepName.UNPLUG, StepName.DISCARD}  # clearing away is never given up
# After the host's own end, which no machine outlives, what these came to is seen again. That a snapshot is there has to
# last, for one: or it would be taken anew, of another moment.
_SEEN_AGAIN = {Verb.CREATE, Verb.START, Verb.STOP, Verb.RESTART, Verb.SUSPEND, Verb.RESUME, Verb.PAUSE}
# Safe to repeat, but a guest would notice: that they are done is written at once.
_NOT_TWICE = set(LIVE.values()) - {StepName.SNAPSHOT}


class Crash(BaseException):
    """Raised by a test's hook to end the manager right there, as a kill -9 would."""


class Runner:
    """Executes what `plan` decided. `hook` is called around every step: fault tests fail or crash there.

    `_ahead` holds operations whose journal says more than the store does, to spare a commit per step. What is lost
    with it in a crash is only that a step is over, and then it is run again.
    """

    def __init__(self, store: Store, host: Host, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._host = host
        self._clock = clock
        self._ahead: dict[InstanceId, Operation] = {}
        self._heavy = asyncio.Semaphore(AT_ONCE)
        self.hook: Callable[[str, StepName], None] = lambda when, step: None

    async def load(self, id: InstanceId) -> tuple[Instance, Operation | None] | None:
        """The record and its open operation; None: it is gone."""
        async with self._store.read() as unit:
            try:
                instance = await unit.instances.get(id)
            except NotFound:
                self._ahead.pop(id, None)
                return None
            operation = await unit.operations.current(id)
        ahead = self._ahead.get(id)
        if ahead is None:
            return instance, operation
        if operation is None or operation.id != ahead.id:
            del self._ahead[id]
            return instance, operation
        return instance, replace(operation, journal=ahead.journal, progress=ahead.progress)

    def work(self, instance: Instance, operation: Operation | None) -> Work:
        """What the steps of this instance act on."""
        mount = next((m for m in instance.mounts if operation and m.volume == operation.subject), None)
        disk = disk_of(mount, instance.spec) if mount else None
        was_paused = instance.observed.phase is Phase.PAUSED
        on = instance.intent.power is Power.ON
        return Work(
            self._host, blueprint_of(instance), disk, snapshots.subject(operation), None, was_paused, on,
            instance.intent.packing,
        )  # fmt: skip

    async def _whole_work(self, unit: Unit, instance: Instance, operation: Operation | None) -> Work:
        """As `work`, with what only the record of the snapshot says."""
        work = self.work(instance, operation)
        if operation is None or work.snapshot is None:
            return work
        return replace(work, kind=await snapshots.kind(unit, operation))

    # -- steps ---------------------------------------------------------------------------------------------------

    async def act(
        self, instance: Instance, operation: Operation | None, act: Act, seen: Observation
    ) -> Observation | None:
        """Journal the step, run it. What is refused is given up, or tried again later where there is no other way.

        :return: what is to be seen now, where the step itself is proof of it and was the last one of the operation,
            which is closed then; None: it has to be looked at.
        :raise Fault: to be tried again.
        """
        if operation is not None:
            operation = journal.begin(operation, act.step, self._clock(), *act.then)
        work = await self._begun(instance, act.observed or instance.observed, operation)
        results: list[object] = []
        for name in (act.step, *act.then):
            try:
                if isinstance(work, Fault):
                    raise work
                results.append(await self._run(work, name))
            except Exception as error:
                fault = error if isinstance(error, Fault) else Internal(private=repr(error))
                log.warning("%s: %s: %s %s", instance.id, name, fault.public, fault.private, exc_info=error)
                await self._refused(instance, operation, name, fault)
                return None
            operation = None if operation is None else journal.finish(operation, name)
        if operation is None:
            return None
        keeps = not isinstance(work, Work) or work.kind is None or work.kind.keep
        return await self._done(instance, operation, act, seen, results[0], keeps=keeps)

    async def _done(
        self, instance: Instance, operation: Operation, act: Act, seen: Observation, result: object, *, keeps: bool
    ) -> Observation | None:
        proof = proven(instance, act.step, seen, result)
        after = plan(instance, operation, proof, self._clock()) if proof is not None else None
        size = Bytes(result) if act.step is StepName.SNAPSHOT and isinstance(result, int) else None
        if isinstance(after, Settled):
            await self._close(instance, after.observed, operation, after.fault, size, keeps=keeps)
            return proof
        await self._over(operation, act.step, size)
        return None

    async def _begun(self, instance: Instance, observed: Observed, operation: Operation | None) -> Work | Fault:
        """Written down; and what the step acts on, or why there is none."""
        if operation is None:
            await self._write(instance, observed, None)
            return self.work(instance, None)
        async with self._store.write(lasting=False) as unit:
            await self._saw(unit, instance, observed)
            await unit.operations.save(operation)
            try:
                return await self._whole_work(unit, instance, operation)
            except NotFound as fault:
                return fault

    async def _run(self, work: Work, name: StepName) -> object:
        self.hook("before", name)
        if name in _HEAVY:
            async with self._heavy:
                result = await STEPS[name].do(work)
        else:
            result = await STEPS[name].do(work)
        self.hook("after", name)
        return result

    async def _over(self, operation: Operation, name: StepName, size: Bytes | None = None) -> None:
        """`size`: that of the snapshot that was made, which is written with that it was, or it is asked again."""
        if size is not None:
            async with self._store.write(lasting=False) as unit:
                await snapshots.made(unit, operation, size)
        self._ahead[operation.instance] = operation
        if name in _NOT_TWICE:
            await self._save(operation)

    async def _save(self, operation: Operation) -> None:
        async with self._store.write(lasting=False) as unit:
            await unit.operations.save(operation)

    async def _refused(self, instance: Instance, operation: Operation | None, name: StepName, fault: Fault) -> None:
        if operation is None and name is StepName.RELAUNCH:
            undo = STEPS[name].undo
            assert undo is not None
            await undo(self.work(instance, None))
            await self._close(instance, facts.not_restarted(instance, fault, self._clock()), None, None)
        elif operation is None or operation.verb is Verb.DELETE or name in _FORWARD:
            raise fault
        elif _may_fail(operation.verb, name):
            await self._over(journal.finish(operation, name), name)
        else:
            self._ahead[instance.id] = operation = journal.give_up(operation, fault)
            await self._save(operation)

    async def undo(self, instance: Instance, operation: Operation, fault: Fault) -> None:
        """Take back what the operation did, latest first, and close it with `fault`.

        :raise Fault: a step cannot be taken back now; all of it is tried again later, nothing is left out.
        """
        async with self._store.read() as unit:
            work = await self._whole_work(unit, instance, operation)
        seen = await self._host.look(work.blueprint)
        for step in journal.to_undo(operation):
            if step.undo is None or (step.live and seen.sight in (Sight.ENDED, Sight.GONE)):
                continue
            self.hook("undo", step.name)
            try:
                await step.undo(work)
            except Fault:
                if seen.sight is Sight.DEAF:
                    await self.note(instance, None, facts.lost(instance, seen, self._clock()))
                raise
            self.hook("undone", step.name)
        live = operation.verb in LIVE
        seen = await self._host.look(work.blueprint)
        if not live and seen.sight in (Sight.ENDED, Sight.GONE):  # what failed leaves neither process nor NIC
            await STEPS[StepName.REAP].do(work)
            seen = await self._host.look(work.blueprint)
        observed = facts.refused(instance, seen, fault, self._clock(), live=live)
        await self._close(instance, observed, operation, fault)

    # -- facts ---------------------------------------------------------------------------------------------------

    async def settle(self, instance: Instance, operation: Operation | None, settled: Settled) -> None:
        """Write the facts and close the operation."""
        if settled.forget:
            await self._forget(instance, operation)
        elif operation is not None or settled.observed != instance.observed:
            await self._close(instance, settled.observed, operation, settled.fault)

    async def note(self, instance: Instance, operation: Operation | None, observed: Observed) -> None:
        """Write facts, and how far the operation is, while it goes on."""
        ahead = operation if operation is not None and instance.id in self._ahead else None
        await self._write(instance, observed, ahead)
        if ahead is not None:
            del self._ahead[instance.id]

    async def _write(self, instance: Instance, observed: Observed, operation: Operation | None) -> None:
        if operation is None and observed == instance.observed:
            return
        async with self._store.write(lasting=False) as unit:
            await self._saw(unit, instance, observed)
            if operation is not None:
                await unit.operations.save(operation)

    async def _saw(self, unit: Unit, instance: Instance, observed: Observed) -> None:
        advance(instance.observed.phase, observed.phase)
        if observed == instance.observed:
            return
        observed = timed(instance.observed, observed, self._clock())
        await unit.instances.saw(instance.id, observed)
        for event in _events(instance, observed, self._clock()):
            await unit.events.append(event)

    async def _close(
        self, instance: Instance, observed: Observed, operation: Operation | None, fault: Fault | None,
        size: Bytes | None = None, *, keeps: bool = True,
    ) -> None:  # fmt: skip
        """`size`: that of the snapshot which was made, where nobody has written it down yet. `keeps`: it is to stay."""
        left: Sequence[SnapshotId] = ()
        seen_again = operation is None or (fault is None and (operation.verb in _SEEN_AGAIN or not keeps))
        async with self._store.write(lasting=not seen_again) as unit:
            await self._saw(unit, instance, observed)
            if operation is not None:
                current = await unit.operations.current(instance.id)
                if current is not None and current.id == operation.id:
                    await self._finish(unit, instance, operation, fault, size)
                    left = await snapshots.left_behind(unit, instance, operation)
        self._ahead.pop(instance.id, None)
        await self._remove(left)

    async def _finish(
        self, unit: Unit, instance: Instance, operation: Operation, fault: Fault | None, size: Bytes | None = None
    ) -> None:
        now = self._clock()
        outcome = Outcome.FAILED if fault else Outcome.DONE
        await unit.operations.save(
            replace(
                operation, outcome=outcome, finished=now, progress="", fault=fault.public if fault else "",
                fault_kind=fault.kind if fault else "",
            )
        )  # fmt: skip
        await _claims(unit, instance, operation, fault)
        await snapshots.closed(unit, operation, fault, now, size)
        if instance.spare:
            return
        data = {"operation": str(operation.id), "verb": str(operation.verb), "outcome": str(outcome)}
        await unit.events.append(Event("operation.finished", instance.project, instance.id, now, data))

    async def _forget(self, instance: Instance, operation: Operation | None) -> None:
        now = self._clock()
        async with self._store.write() as unit:
            if operation is not None:
                await self._finish(unit, instance, operation, None)
            left = await snapshots.left_behind(unit, instance, None)
            await unit.instances.forget(instance.id)
            await unit.events.append(
                Event("instance.deleted", instance.project, instance.id, now, {"name": instance.name})
            )
        self._ahead.pop(instance.id, None)
        await self._remove(left)

    async def _remove(self, left: Sequence[SnapshotId]) -> None:
        """Snapshots whose operation was superseded. What cannot be removed now is `deleting` and removed later."""
        for id in left:
            try:
                await self._host.remove_snapshot(id)
            except Fault as fault:
                log.warning("snapshot %s: %s %s; it is tried again", id, fault.public, fault.private)
                continue
            async with self._store.write() as unit:
                with contextlib.suppress(NotFound):  # somebody else was quicker
                    await unit.snapshots.forget(id)


def _may_fail(verb: Verb, name: StepName) -> bool:
    """Whether the change goes on without that step: a guest that cannot be asked to stop is ended at the limit."""
    return verb in (Verb.STOP, Verb.RESTART) and name in (StepName.PRESS, StepName.RESUME)


async def _claims(unit: Unit, instance: Instance, operation: Operation, fault: Fault | None) -> None:
    """What a closed operation means for the claims on volumes.

    An attach or detach that was superseded (by a stop) leaves its claim: that is safe whatever became of the disk.
    """
    for mount in instance.mounts:
        mine = mount.volume == VolumeId(operation.subject)
        gone = {Verb.ATTACH: fault is not None, Verb.DETACH: fault is None}.get(operation.verb, False)
        if mine and gone:
            await unit.instances.unmount(instance.id, mount.volume)
        elif mount.state is not MountState.ATTACHED:
            await unit.instances.mounted(instance.id, mount.volume, MountState.ATTACHED)


def _events(instance: Instance, observed: Observed, now: datetime) -> list[Event]:
    was = instance.observed
    found: list[Event] = []
    if instance.spare:  # nobody's, so nobody's business
        return found
    booted = observed.incarnation != was.incarnation and observed.phase in (Phase.RUNNING, Phase.PAUSED)
    if observed.phase is not was.phase or booted:
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
