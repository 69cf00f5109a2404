"""Tasks in a store: kept whole, found when they are due, gone with their instance."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contract.store.things import NOBODY, NOW, P, Q, an_instance, projects, put
from polyvisor.model.faults import Exists, NotFound
from polyvisor.model.ids import InstanceId, OperationId, TaskId, mint
from polyvisor.model.principal import Action
from polyvisor.model.task import Deed, Outcome, Owner, Run, Task
from polyvisor.model.timetable import Every, Timetable
from polyvisor.store import SqlStore

SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
async def _projects(store: SqlStore) -> None:
    await projects(store)


def a_task(instance: InstanceId, name: str, after: int = 0, **given: Any) -> Task:
    """One that was made `after` microseconds past now."""
    owner = Owner("key", P, actions=frozenset({Action.INSTANCE_OPERATE}))
    created = NOW + timedelta(microseconds=after)
    return replace(Task(TaskId(mint()), P, name, instance, Deed.START, owner, created), **given)


async def names(store: SqlStore, seconds: int) -> list[str]:
    """Of those that are due then."""
    async with store.read() as unit:
        return [task.name for task in await unit.tasks.due(NOW + seconds * SECOND)]


async def test_a_task_is_kept_as_it_is(store: SqlStore) -> None:
    vm = an_instance()
    await put(store, vm)
    run = Run(NOW, NOW + SECOND, Outcome.FAILED, OperationId("o"), "the disk is full\0", NOW + 2 * SECOND, by_hand=True)
    weekly = Timetable(Every.WEEK, NOW.date())
    task = a_task(vm.id, "ü", timetables=(weekly,), next_run=NOW, last=run, hand="x", settings='{"a":1}', once=True)
    async with store.write() as unit:
        await unit.tasks.add(task)
        assert await unit.tasks.get(task.id) == task == await unit.tasks.named(P, "ü")
        changed = replace(task, name="other", deed=Deed.STOP, enabled=False, next_run=None, last=None)
        await unit.tasks.save(changed)
    async with store.read() as unit:
        assert list(await unit.tasks.of([P])) == [changed] == list(await unit.tasks.of(None))
        assert list(await unit.tasks.of([Q])) == []
        with pytest.raises(NotFound):
            await unit.tasks.named(P, "ü")


async def test_those_are_due_whose_time_has_come_or_that_run(store: SqlStore) -> None:
    vm = an_instance()
    await put(store, vm)
    runs = Run(NOW, NOW, Outcome.RUNNING)
    some = [
        a_task(vm.id, "later", 0, next_run=NOW + 5 * SECOND), a_task(vm.id, "soon", 1, next_run=NOW + SECOND),
        a_task(vm.id, "never", 2), a_task(vm.id, "runs", 3, next_run=NOW + 60 * SECOND, last=runs),
        a_task(vm.id, "was", 4, last=replace(runs, outcome=Outcome.DONE)),
    ]  # fmt: skip
    async with store.write() as unit:
        for task in some:
            await unit.tasks.add(task)
    assert await names(store, 0) == ["runs"]
    assert await names(store, 1) == ["soon", "runs"]
    assert await names(store, 9) == ["soon", "later", "runs"]
    async with store.write() as unit:
        await unit.tasks.save(replace(some[3], last=None))
        await unit.tasks.remove(some[1].id)
    assert await names(store, 9) == ["later"]


async def test_what_cannot_be_kept_is_said(store: SqlStore) -> None:
    vm, other = an_instance(), an_instance()
    await put(store, vm, other)
    one, two = a_task(vm.id, "one"), a_task(vm.id, "two")
    async with store.write() as unit:
        await unit.tasks.add(one)
        await unit.tasks.add(two)
        with pytest.raises(Exists):
            await unit.tasks.add(a_task(other.id, "one"))
        with pytest.raises(Exists):
            await unit.tasks.save(replace(two, name="one"))
        with pytest.raises(NotFound):
            await unit.tasks.add(a_task(NOBODY, "three"))
        for gone in (a_task(vm.id, "four"), replace(two, id=TaskId(mint()), name="five")):
            with pytest.raises(NotFound):
                await unit.tasks.save(gone)
            with pytest.raises(NotFound):
                await unit.tasks.remove(gone.id)
    async with store.read() as unit:
        assert {task.name for task in await unit.tasks.of(None)} == {"one", "two"}


async def test_a_task_goes_with_its_instance(store: SqlStore) -> None:
    vm, other = an_instance(), an_instance()
    await put(store, vm, other)
    async with store.write() as unit:
        await unit.tasks.add(a_task(vm.id, "gone"))
        await unit.tasks.add(a_task(other.id, "stays"))
        await unit.instances.forget(vm.id)
    async with store.read() as unit:
        assert [task.name for task in await unit.tasks.of(None)] == ["stays"]
