"""Tasks: power by the clock, which tests drive, over restarts and kills of the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from fault.world import ROOT, World
from polyvisor.access.credentials import new_key
from polyvisor.model.faults import Busy, Exists, Forbidden, Invalid, NotFound
from polyvisor.model.identity import Grant, Project, User
from polyvisor.model.ids import InstanceId, OperationId, ProjectId, UserId, mint
from polyvisor.model.instance import Phase
from polyvisor.model.operation import Verb
from polyvisor.model.principal import SYSTEM, Action, Principal, member
from polyvisor.model.task import Deed, Outcome, Task
from polyvisor.model.timetable import Every, Timetable, once


async def run(world: World, id: InstanceId, task: Task, seconds: float = 0) -> Task:
    """Time passes, and the clock is heeded until nothing is under way."""
    world.offset += timedelta(seconds=seconds)
    await world.engine.tasks.tick()
    await world.settled(id)
    await world.engine.tasks.tick()
    return await world.engine.tasks.get(ROOT, task.id)


async def verbs(world: World, id: InstanceId) -> list[Verb]:
    """What was asked for after its creation, oldest first."""
    return [one.verb for one in reversed(await world.operations(id))][1:]


def weekly(world: World, seconds: int) -> Timetable:
    """The next time in so many seconds, then every week."""
    moment = (world.clock() + timedelta(seconds=seconds)).astimezone(UTC)
    at = moment.hour * 3600 + moment.minute * 60 + moment.second
    return Timetable(Every.WEEK, moment.date(), at=at, days=frozenset({moment.weekday()}))


async def test_weekly_and_once_on_and_off_fire_once_each_across_a_restart(world: World) -> None:
    id = await world.create(name="web")
    tasks = world.engine.tasks
    off = await tasks.create(SYSTEM, id, "off", Deed.FORCE_STOP, [weekly(world, 60)])
    on = await tasks.create(SYSTEM, id, "on", Deed.START, [weekly(world, 120)])
    last = await tasks.create(SYSTEM, id, "last off", Deed.FORCE_STOP, [once(world.clock() + timedelta(seconds=180))])
    assert (await run(world, id, off, 30)).last is None
    await world.again()
    told = await run(world, id, off, 30)
    assert told.last is not None
    assert told.last.outcome is Outcome.DONE
    assert told.next_run == told.last.due + timedelta(days=7)
    await world.phase(id, Phase.STOPPED)
    await world.again()
    assert (await run(world, id, off)).last == told.last
    told = await run(world, id, on, 60)
    await world.phase(id, Phase.RUNNING)
    told = await run(world, id, last, 60)
    await world.phase(id, Phase.STOPPED)
    await world.again()
    assert (await run(world, id, last, 60)).next_run is None
    assert await verbs(world, id) == [Verb.STOP, Verb.START, Verb.STOP]
    for _ in range(2):
        await run(world, id, on, 7 * 86400 / 2)
    assert await verbs(world, id) == [Verb.STOP, Verb.START, Verb.STOP, Verb.START]
    assert told.last is not None
    await world.check(id)


async def test_what_was_missed_for_a_short_time_runs_once_and_later_it_is_said_to_be_missed(world: World) -> None:
    id = await world.create()
    tasks = world.engine.tasks
    soon = await tasks.create(SYSTEM, id, "soon", Deed.RESET, [once(world.clock() + timedelta(seconds=60))])
    often = await tasks.create(SYSTEM, id, "often", Deed.RESET, [Timetable(Every.MINUTE, world.clock().date())])
    await world.end()
    world.offset += timedelta(minutes=30)
    await world.begin()
    for task in (soon, often):
        for _ in range(3):  # one waits for the other
            told = await run(world, id, task)
        assert told.last is not None
        assert told.last.outcome is Outcome.DONE
    assert await verbs(world, id) == [Verb.RESET, Verb.RESET]
    late = await world.engine.tasks.create(
        SYSTEM, id, "late", Deed.RESET, [once(world.clock() + timedelta(seconds=60))], once=True
    )
    await world.engine.tasks.remove(ROOT, often.id)
    await world.end()
    world.offset += timedelta(hours=2)
    await world.begin()
    told = await run(world, id, late)
    assert told.last is not None
    assert (told.last.outcome, told.next_run) == (Outcome.MISSED, None)
    assert told.last.detail
    assert await verbs(world, id) == [Verb.RESET, Verb.RESET]


@pytest.mark.parametrize("asked", [False, True])
async def test_a_kill_after_the_claim_loses_nothing_silently(world: World, asked: bool) -> None:
    id = await world.create()
    task = await world.engine.tasks.create(
        SYSTEM, id, "off", Deed.FORCE_STOP, [once(world.clock() + timedelta(seconds=9))]
    )
    done = world.engine.tasks.hands[""]

    async def killed(principal: Principal, task: Task) -> OperationId | None:
        if asked:
            await done(principal, task)
        raise KeyboardInterrupt

    world.engine.tasks.hands[""] = killed
    world.offset += timedelta(seconds=10)
    async with world.store.write() as unit:
        claimed = await world.engine.tasks._claim(unit, task, world.clock(), world.clock())
    with pytest.raises(KeyboardInterrupt):
        await killed(ROOT, claimed)
    await world.again()
    told = await run(world, id, task)
    assert told.last is not None
    assert (told.last.outcome, told.next_run) == (Outcome.INTERRUPTED, None)
    assert await verbs(world, id) == ([Verb.STOP] if asked else [])


async def test_a_kill_while_it_is_done_leaves_it_to_the_operation(world: World) -> None:
    id = await world.create()
    tasks = world.engine.tasks
    task = await tasks.create(
        SYSTEM, id, "off", Deed.FORCE_STOP, [once(world.clock() + timedelta(seconds=9))], once=True
    )
    world.offset += timedelta(seconds=10)
    await tasks.tick()
    await world.again()
    await world.phase(id, Phase.STOPPED)
    await world.settled(id)
    await world.engine.tasks.tick()
    with pytest.raises(NotFound):  # it was to go when it was done
        await world.engine.tasks.get(ROOT, task.id)
    assert await verbs(world, id) == [Verb.STOP]


async def test_every_deed(world: World) -> None:
    id = await world.create()
    tasks = world.engine.tasks
    outcomes = {}
    for deed in (Deed.RESET, Deed.RESTART, Deed.SNAPSHOT, Deed.SUSPEND, Deed.START, Deed.STOP, Deed.FORCE_STOP):
        task = await tasks.create(SYSTEM, id, str(deed), deed)
        await tasks.run(ROOT, task.id)
        told = await run(world, id, task)
        assert told.last is not None
        outcomes[deed] = told.last.outcome
        if deed is Deed.STOP:
            await world.phase(id, Phase.STOPPED)
    assert set(outcomes.values()) == {Outcome.DONE}
    assert [one.source for one in await world.snapshots()] == [id]


async def test_what_cannot_be_done_says_why_and_stays(world: World) -> None:
    id = await world.create()
    await world.ask(world.engine.power.stop(ROOT, id, force=True))
    await world.phase(id, Phase.STOPPED)
    task = await world.engine.tasks.create(
        SYSTEM, id, "r", Deed.STOP, [once(world.clock() + timedelta(seconds=5))], once=True
    )
    told = await run(world, id, task, 6)
    assert told.last is not None
    assert told.last.outcome is Outcome.FAILED
    assert "stopped" in told.last.detail
    assert (await run(world, id, task, 60)).last == told.last


async def test_it_goes_with_its_instance(world: World) -> None:
    id = await world.create()
    await world.engine.tasks.create(SYSTEM, id, "off", Deed.STOP, [weekly(world, 60)])
    await world.ask(world.engine.power.delete(ROOT, id))
    await world.settled(id)
    assert await world.engine.tasks.list(ROOT) == []


async def test_what_is_disabled_does_not_run_and_begins_anew(world: World) -> None:
    id = await world.create()
    tasks = world.engine.tasks
    table = Timetable(Every.HOUR, world.clock().date())
    task = await tasks.create(SYSTEM, id, "hourly", Deed.RESET, [table], enabled=False)
    assert task.next_run is None
    assert (await run(world, id, task, 7200)).last is None
    task = await tasks.update(SYSTEM, task.id, enabled=True)
    assert task.next_run is not None
    assert task.next_run > world.clock()
    told = await run(world, id, task, 3600)
    assert told.last is not None
    assert told.last.outcome is Outcome.DONE
    with pytest.raises(Exists):
        await tasks.create(ROOT, id, "hourly", Deed.RESET)
    with pytest.raises(Invalid):
        await tasks.update(SYSTEM, task.id, name="")
    async with world.store.write() as unit:
        await tasks._claim(unit, told, world.clock(), world.clock())
    with pytest.raises(Busy):
        await tasks.run(ROOT, task.id)


async def a_user(world: World, project: ProjectId) -> User:
    """Who may work the power there."""
    user = User(UserId(mint()), "ann", "x", project, False, datetime.now(UTC))
    async with world.store.write() as unit:
        await unit.identities.add_user(user)
        for action in (Action.INSTANCE_VIEW, Action.INSTANCE_OPERATE):
            await unit.identities.put_grant(Grant(user.id, project, action))
    return user


async def principal(world: World, user: User) -> Principal:
    """That user as he is now."""
    actions = frozenset({Action.INSTANCE_VIEW, Action.INSTANCE_OPERATE})
    return Principal(user.name, user.project, frozenset(Action), reach={user.project: actions}, user=user.id)


@pytest.mark.parametrize(("lost", "why"), [("grant", "may not"), ("user", "not a user any more")])
async def test_it_acts_as_its_owner_then(world: World, lost: str, why: str) -> None:
    id = await world.create()
    project = (await world.get(id)).project
    user = await a_user(world, project)
    ann = await principal(world, user)
    task = await world.engine.tasks.create(ann, id, "off", Deed.FORCE_STOP, [weekly(world, 5), weekly(world, 65)])
    told = await run(world, id, task, 6)
    assert told.last is not None
    assert told.last.outcome is Outcome.DONE
    async with world.store.write() as unit:
        if lost == "grant":
            await unit.identities.remove_grants(user.id, project, [Action.INSTANCE_OPERATE])
        else:
            await unit.identities.remove_user(user.id, world.clock())
    told = await run(world, id, task, 60)
    assert told.last is not None
    assert told.last.outcome is Outcome.FAILED
    assert why in told.last.detail
    assert await verbs(world, id) == [Verb.STOP]


async def test_that_of_a_key_ends_with_the_key(world: World) -> None:
    id = await world.create()
    project = (await world.get(id)).project
    _, key = new_key("robot", project, world.clock())
    async with world.store.write() as unit:
        await unit.identities.add_key(key)
    robot = member("robot", project)
    task = await world.engine.tasks.create(robot, id, "r", Deed.RESET, [weekly(world, 5), weekly(world, 65)])
    told = await run(world, id, task, 6)
    assert told.last is not None
    assert told.last.outcome is Outcome.DONE
    async with world.store.write() as unit:
        await unit.identities.remove_key(key.id)
    told = await run(world, id, task, 60)
    assert told.last is not None
    assert "API key robot" in told.last.detail


async def test_strangers_neither_see_nor_make_one(world: World) -> None:
    id = await world.create()
    task = await world.engine.tasks.create(SYSTEM, id, "off", Deed.STOP)
    other = Project(ProjectId(mint()), "other", datetime.now(UTC))
    async with world.store.write() as unit:
        await unit.identities.add_project(other)
    stranger = member("eve", other.id)
    viewer = Principal("bob", other.id, frozenset({Action.INSTANCE_VIEW}), operator=True)
    assert await world.engine.tasks.list(stranger) == []
    for asked in (
        world.engine.tasks.get(stranger, task.id),
        world.engine.tasks.create(stranger, id, "x", Deed.STOP),
        world.engine.tasks.remove(stranger, task.id),
    ):
        with pytest.raises(NotFound):
            await asked
    with pytest.raises(Forbidden):
        await world.engine.tasks.run(viewer, task.id)
    assert await world.engine.tasks.get(viewer, task.id) == task
