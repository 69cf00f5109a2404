"""Tasks: what is done to an instance when its time has come, in the name of whom it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from polyvisor.access.grants import permit, scope
from polyvisor.engine.instances import Asked, InstancesEngine
from polyvisor.engine.owners import owner_now, owner_of
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.model.faults import Busy, Fault, NotFound, Unavailable
from polyvisor.model.ids import OperationId, TaskId, is_id, mint
from polyvisor.model.operation import Outcome as Ended
from polyvisor.model.principal import Action, Principal
from polyvisor.model.task import GRACE, Deed, Outcome, Run, Task, check_task, planned
from polyvisor.model.timetable import Timetable
from polyvisor.ports.store import Store, Unit

log = logging.getLogger("polyvisor.engine")
_FAILED = frozenset({Outcome.FAILED, Outcome.MISSED, Outcome.INTERRUPTED})
_PATIENCE = timedelta(seconds=60)  # so long a run waits for another operation to end
Hand = Callable[[Principal, Task], Awaitable[OperationId | None]]
"""Does what a task says, for its owner as he is now; the operation that it asked for, if it did."""


class TasksEngine:
    """Create, read, change, remove, run, and run those that are due.

    The next run is written in the transaction that claims one, so no run is made twice. A claim whose server ended
    before it had asked for anything is found by the next one, and said to have been interrupted.
    """

    def __init__(
        self, store: Store, clock: Callable[[], datetime], instances: InstancesEngine, power: PowerEngine,
        snapshots: SnapshotsEngine,
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._instances = instances
        self._power = power
        self._snapshots = snapshots
        self._claimed: set[TaskId] = set()  # by this process
        self._waiting: dict[TaskId, Principal | None] = {}  # until another operation is over; in whose name
        self.hands: dict[str, Hand] = {"": self._by_verb}
        self.tell: Callable[[Task], None] = lambda task: None  # of a run that came to nothing

    async def create(  # noqa: PLR0913 - what a task says
        self, principal: Principal, key: str, name: str, deed: Deed, timetables: Sequence[Timetable] = (), *,
        enabled: bool = True, once: bool = False, description: str = "", hand: str = "", settings: str = "{}",
    ) -> Task:  # fmt: skip
        """A task for an instance; without a name its id is its name.

        :raise Invalid, Exists, NotFound, Forbidden: the caller may not do now what it is to do.
        """
        now, id = self._clock(), TaskId(mint())
        async with self._store.write() as unit:
            instance = await self._instances.find(unit, principal, key, Action.INSTANCE_OPERATE)
            if deed is Deed.SNAPSHOT:
                permit(principal, Action.SNAPSHOT_CREATE, instance.project, key)
            task = Task(
                id, instance.project, name or id, instance.id, deed, owner_of(principal), now, tuple(timetables),
                enabled, once, description, hand=hand, settings=settings,
            )  # fmt: skip
            task = planned(check_task(task), now)
            await unit.tasks.add(task)
        return task

    async def list(self, principal: Principal) -> Sequence[Task]:
        """Those of instances that the caller sees, oldest first."""
        async with self._store.read() as unit:
            found = await unit.tasks.of(scope(principal, Action.INSTANCE_VIEW))
            return [await _told(unit, task, self._clock()) for task in found]

    async def get(self, principal: Principal, key: str) -> Task:
        """By id, or by its name in the project that the caller acts in. :raise NotFound:"""
        async with self._store.read() as unit:
            task = await self._find(unit, principal, key, Action.INSTANCE_VIEW)
            return await _told(unit, task, self._clock())

    async def update(  # noqa: PLR0913 - what may be changed
        self, principal: Principal, key: str, *, name: str | None = None, description: str | None = None,
        timetables: Sequence[Timetable] | None = None, enabled: bool | None = None, once: bool | None = None,
        settings: str | None = None,
    ) -> Task:  # fmt: skip
        """Change what is given; who changes a task becomes its owner. Its next run is reckoned from now.

        :raise Invalid, Exists, NotFound, Forbidden:
        """
        now = self._clock()
        wanted: dict[str, Any] = {
            "name": name, "description": description, "enabled": enabled, "once": once, "settings": settings,
            "timetables": None if timetables is None else tuple(timetables),
        }  # fmt: skip
        given = {field: value for field, value in wanted.items() if value is not None}
        async with self._store.write() as unit:
            was = await self._find(unit, principal, key, Action.INSTANCE_OPERATE)
            if was.deed is Deed.SNAPSHOT:
                permit(principal, Action.SNAPSHOT_CREATE, was.project, key)
            task = check_task(replace(was, **given, owner=owner_of(principal)))
            if (task.timetables, task.enabled) != (was.timetables, was.enabled):
                task = planned(task, now)
            await unit.tasks.save(task)
        return task

    async def remove(self, principal: Principal, key: str) -> None:
        """It is not done any more. :raise NotFound:"""
        async with self._store.write() as unit:
            task = await self._find(unit, principal, key, Action.INSTANCE_OPERATE)
            await unit.tasks.remove(task.id)

    async def run(self, principal: Principal, key: str) -> Task:
        """Do it now, in the caller's name, enabled or not; its timetables stay as they are.

        :raise Busy: its last run is not over. What becomes of this one is told by the task.
        """
        now = self._clock()
        async with self._store.write() as unit:
            task = await _told(unit, await self._find(unit, principal, key, Action.INSTANCE_OPERATE), now)
            if task.last is not None and task.last.outcome is Outcome.RUNNING:
                raise Busy(f"task {task.name} is running", subject=task.id)
            task = await self._claim(unit, task, now, now, by_hand=True)
        return await self._do(task, principal)

    # -- by the clock --------------------------------------------------------------------------------------------------

    async def tick(self) -> int:
        """Run what is due, and write down what became of what was asked for; how many there were."""
        async with self._store.read() as unit:
            due = await unit.tasks.due(self._clock())
        await asyncio.gather(*(self._try(task) for task in due))  # of what hangs, the others know nothing
        return len(due)

    async def _try(self, task: Task) -> None:
        try:
            await self._see_to(task.id)
        except NotFound:
            return  # it was removed meanwhile
        except Fault as fault:
            log.warning("task %s: %s %s", task.name, fault.public, fault.private)
        except Exception:
            log.exception("task %s stumbled; the others go on", task.name)

    async def _see_to(self, id: TaskId) -> None:
        now = self._clock()
        async with self._store.write() as unit:
            was = await unit.tasks.get(id)
            task = await _told(unit, was, now)
            if self._abandoned(task):
                task = _closed(task, Outcome.INTERRUPTED, "the server ended before it was done", now)
            if task != was:
                await unit.tasks.save(task)
            again = task.id in self._waiting
            if task.last is not None and task.last.outcome is Outcome.RUNNING and not again:
                return  # its turn comes when that is over
            if was.last != task.last and await _over(unit, task):
                return
            if not again:
                if task.next_run is None or task.next_run > now:
                    return
                task = await self._claim(unit, task, task.next_run, now)
        self._say(was, task)
        if task.last is not None and task.last.outcome is Outcome.RUNNING:
            await self._do(task, self._waiting.pop(task.id, None))

    def _abandoned(self, task: Task) -> bool:
        """Whether it was claimed by a server that ended before it had asked for what was to be done."""
        here = task.last
        return (
            here is not None and here.outcome is Outcome.RUNNING and not here.operation and task.id not in self._claimed
        )

    async def _claim(self, unit: Unit, task: Task, due: datetime, now: datetime, *, by_hand: bool = False) -> Task:
        """Nobody else makes this run: the next one is written down with it."""
        late = now - due > GRACE
        outcome = Outcome.MISSED if late else Outcome.RUNNING
        run = Run(due, now, outcome, detail="no server was there at its time" if late else "", by_hand=by_hand)
        task = replace(task, last=replace(run, ended=now) if late else run)
        if task.next_run is not None and task.next_run <= now:
            task = planned(task, now)
        await unit.tasks.save(task)
        if not late:
            self._claimed.add(task.id)
        return task

    async def _do(self, task: Task, principal: Principal | None) -> Task:
        """What was claimed. `principal` None: its owner. Where another operation is under way, it waits its turn."""
        assert task.last is not None
        try:
            try:
                hand = self.hands.get(task.hand)
                if hand is None:
                    raise Unavailable(f"no {task.hand} API is there to do it")
                operation = await hand(principal or await self._owner_now(task), task)
            except Fault as fault:
                if isinstance(fault, Busy) and self._clock() - task.last.began < _PATIENCE:
                    self._waiting[task.id] = principal
                    return task
                return await self._wrote(task, _closed(task, Outcome.FAILED, fault.public, self._clock()))
            except Exception as error:
                log.exception("task %s stumbled", task.name)
                return await self._wrote(task, _closed(task, Outcome.FAILED, type(error).__name__, self._clock()))
            if operation is None:
                return await self._wrote(task, _closed(task, Outcome.DONE, "", self._clock()))
            return await self._wrote(task, replace(task, last=replace(task.last, operation=operation)))
        finally:
            if task.id not in self._waiting:
                self._claimed.discard(task.id)

    async def _wrote(self, was: Task, now: Task) -> Task:
        """What became of the run, into the record as others may have changed it meanwhile."""
        async with self._store.write() as unit:
            try:
                task = replace(await unit.tasks.get(was.id), last=now.last)
            except NotFound:
                return now  # it was removed, or has removed its own instance
            await unit.tasks.save(task)
            await _over(unit, task)
        self._say(was, task)
        return task

    def _say(self, was: Task, now: Task) -> None:
        if now.last is not None and now.last != was.last and now.last.outcome in _FAILED:
            self.tell(now)

    async def _owner_now(self, task: Task) -> Principal:
        """:raise Unauthenticated: he is not there any more."""
        async with self._store.read() as unit:
            return await owner_now(unit, task.owner, self._clock())

    async def _by_verb(self, principal: Principal, task: Task) -> OperationId | None:
        """Done by the engine's own verbs."""
        key = task.instance
        asked: Asked | None = None
        if task.deed is Deed.START:
            asked = await self._power.start(principal, key)
        elif task.deed is Deed.STOP:
            await self._power.press(principal, key)
        elif task.deed is Deed.FORCE_STOP:
            asked = await self._power.stop(principal, key, force=True)
        elif task.deed is Deed.RESET:
            asked = await self._power.reset(principal, key)
        elif task.deed is Deed.RESTART:
            asked = await self._power.restart(principal, key)
        elif task.deed is Deed.SUSPEND:
            asked = await self._power.suspend(principal, key)
        else:
            asked = (await self._snapshots.create(principal.in_project(task.project), key)).asked
        return asked.operation if asked is not None else None

    async def _find(self, unit: Unit, principal: Principal, key: str, action: Action) -> Task:
        try:
            task = await unit.tasks.get(TaskId(key)) if is_id(key) else await unit.tasks.named(principal.project, key)
            permit(principal, action, task.project, key)
        except NotFound as error:
            raise NotFound(f"no task {key[:80]!r}", field="task", subject=key) from error
        return task


def _closed(task: Task, outcome: Outcome, detail: str, now: datetime) -> Task:
    assert task.last is not None
    return replace(task, last=replace(task.last, outcome=outcome, detail=detail, ended=now))


async def _told(unit: Unit, task: Task, now: datetime) -> Task:
    """What became of its last run, once its operation is over."""
    if task.last is None or task.last.outcome is not Outcome.RUNNING or task.last.operation is None:
        return task
    try:
        operation = await unit.operations.get(task.last.operation)
    except NotFound:
        return _closed(task, Outcome.DONE, "", now)  # it is long over
    if operation.outcome is Ended.OPEN:
        return task
    if operation.outcome is Ended.DONE:
        return _closed(task, Outcome.DONE, "", operation.finished or now)
    detail = "a later request took its place" if operation.outcome is Ended.SUPERSEDED else operation.fault
    return _closed(task, Outcome.FAILED, detail, operation.finished or now)


async def _over(unit: Unit, task: Task) -> bool:
    """Remove a task that was to go when it had run by the clock, and did; whether it is gone."""
    done = task.last is not None and task.last.outcome is Outcome.DONE and not task.last.by_hand
    if not (task.once and done):
        return False
    await unit.tasks.remove(task.id)
    return True
