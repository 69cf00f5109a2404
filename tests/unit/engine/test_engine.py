"""What the engine does by itself: resolve a request, wait, follow, keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.store.things import P, a_snapshot, an_instance, an_operation, get, projects, put
from polyvisor.engine.endings import EndingsEngine
from polyvisor.engine.events import EventsEngine
from polyvisor.engine.health import HealthEngine
from polyvisor.engine.instances import InstancesEngine
from polyvisor.engine.keeper import Keeper
from polyvisor.engine.keys import SessionsEngine
from polyvisor.engine.pool import PoolEngine
from polyvisor.engine.power import PowerEngine
from polyvisor.engine.reclaim import ReclaimEngine
from polyvisor.engine.resolve import fork_spec, resolve_spec, with_command
from polyvisor.engine.schedules import SchedulesEngine
from polyvisor.engine.snapshots import SnapshotsEngine
from polyvisor.engine.standby import StandbyEngine
from polyvisor.engine.tasks import TasksEngine
from polyvisor.engine.volumes import check_mount_path
from polyvisor.engine.waits import Waits
from polyvisor.model.compression import AS_IT_IS
from polyvisor.model.event import Event
from polyvisor.model.faults import Fault, Invalid, NotFound, TimedOut, Unavailable
from polyvisor.model.ids import Digest, InstanceId, OperationId, VolumeId
from polyvisor.model.image import Image, ImageConfig, ImageKind, ImageState
from polyvisor.model.instance import Intent, Mount, Observed, Phase
from polyvisor.model.network import NetworkMode
from polyvisor.model.operation import Outcome, Verb
from polyvisor.model.principal import Action, Principal
from polyvisor.model.reclaim import Policy
from polyvisor.model.request import Create
from polyvisor.model.snapshot import SnapshotKind
from polyvisor.model.spec import Firmware, Shape
from polyvisor.model.units import GIB, MIB, Bytes, Seconds
from polyvisor.store import SqlStore, open_store

ROOT = Principal("root", P, frozenset(Action), operator=True)
NOW = datetime(2026, 3, 4, tzinfo=UTC)


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    """One with projects."""
    opened = await open_store("sqlite://")
    await projects(opened)
    yield opened
    await opened.close()


# -- resolve ---------------------------------------------------------------------------------------------------------


def an_image(kind: ImageKind, virtual: int = GIB) -> Image:
    """With a workload of its own."""
    config = ImageConfig(("/entry",), ("serve",), (("A", "1"), ("B", "2")), "/srv", "web")
    return Image(Digest("d"), ("it",), kind, ImageState.READY, NOW, virtual_size=Bytes(virtual), config=config)


def resolve(kind: ImageKind = ImageKind.ROOT, **wanted: Any) -> Any:
    """The spec of that request."""
    return resolve_spec(Create("it", **wanted), an_image(kind))


def test_what_is_left_out_is_the_images_own_word_or_a_default() -> None:
    spec = resolve()
    assert (spec.shape, spec.firmware, spec.memory, spec.disk) == (Shape.MICRO, Firmware.NONE, 256 * MIB, 10 * GIB)
    assert (spec.argv, spec.env, spec.cwd, spec.user) == (("/entry", "serve"), (("A", "1"), ("B", "2")), "/srv", "web")


def test_a_command_replaces_the_images_and_an_entry_point_drops_it() -> None:
    assert resolve(command=("x",)).argv == ("/entry", "x")
    assert resolve(entrypoint=("/sh",)).argv == ("/sh",)
    assert resolve(entrypoint=(), command=("x",)).argv == ("x",)
    assert resolve(env=(("B", "3"), ("C", "4"))).env == (("A", "1"), ("B", "3"), ("C", "4"))


def test_the_images_own_variables_are_taken_as_they_are_and_the_callers_are_checked() -> None:
    image = an_image(ImageKind.ROOT)
    image = replace(image, config=replace(image.config, env=(("FOO.BAR", "1"), ("9 lives", "2"))))
    assert resolve_spec(Create("it"), image).env == image.config.env
    with pytest.raises(Invalid) as refused:
        resolve_spec(Create("it", env=(("FOO.BAR", "1"),)), image)
    assert refused.value.field == "env"


@pytest.mark.parametrize(
    ("kind", "wanted", "field"),
    [
        (ImageKind.ROOT, {"shape": Shape.FULL}, "shape"),
        (ImageKind.ROOT, {"firmware": Firmware.UEFI}, "firmware"),
        (ImageKind.DISK, {"shape": Shape.MICRO}, "shape"),
        (ImageKind.ROOT, {"memory": Bytes(0)}, "memory"),
        (ImageKind.ROOT, {"disk": Bytes(0)}, "disk"),
    ],
)
def test_what_does_not_fit_the_image_is_refused_by_name(kind: ImageKind, wanted: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        resolve(kind, **wanted)
    assert refused.value.field == field


def test_a_disk_image_makes_a_machine_with_firmware_and_room_for_it() -> None:
    bare = Image(Digest("d"), ("it",), ImageKind.DISK, ImageState.READY, NOW, virtual_size=Bytes(20 * GIB))
    spec = resolve_spec(Create("it"), bare)
    assert (spec.shape, spec.firmware, spec.disk, spec.memory) == (Shape.FULL, Firmware.BIOS, 20 * GIB, GIB)
    for wanted in (Create("it", disk=Bytes(19 * GIB)), Create("it", firmware=Firmware.NONE)):
        with pytest.raises(Invalid):
            resolve_spec(wanted, bare)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"vcpus": 3}, "vcpus"),
        ({"memory": Bytes(GIB)}, "memory"),
        ({"env": (("A", "1"),)}, "env"),
        ({"mounts": (Mount(VolumeId("v"), "v"),)}, "volumes"),
    ],
)
def test_a_machine_that_goes_on_from_its_memory_is_the_one_it_was(wanted: dict[str, Any], field: str) -> None:
    full = a_snapshot(kind=SnapshotKind.FULL)
    with pytest.raises(Invalid) as refused:
        fork_spec(Create(snapshot="s", **wanted), full)
    assert refused.value.field == field
    fork_spec(Create(snapshot="s", **wanted), replace(full, kind=SnapshotKind.DISK))
    same = fork_spec(Create(snapshot="s", vcpus=2, memory=full.spec.memory, hostname="other", grace=Seconds(5.0)), full)
    assert same == replace(full.spec, origin=full.id, hostname="other", grace=Seconds(5.0))


@pytest.mark.parametrize("path", ["relative", "/", "/a/../b", "/a\0", "/" + "x" * 4096])
def test_a_mount_path_below_the_root_only(path: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_mount_path(path)
    assert refused.value.field == "path"
    for good in ("", "/data", "/srv/data"):
        check_mount_path(good)


# -- waiting and following -------------------------------------------------------------------------------------------


async def saw(store: SqlStore, id: InstanceId, phase: Phase) -> None:
    """As the reconciler would write it."""
    async with store.write() as unit:
        await unit.instances.saw(id, Observed(phase))


def is_in(phase: Phase) -> Callable[[Any], bool]:
    """Whether an instance is in that phase."""
    return lambda instance: instance.observed.phase is phase


async def test_a_waiter_is_woken_by_the_fact_it_waits_for(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    waiting = asyncio.create_task(Waits(store).until(one.id, is_in(Phase.RUNNING), 10))
    for phase in (Phase.PREPARED, Phase.RUNNING):
        await saw(store, one.id, phase)
    found = await waiting
    assert found is not None
    assert found.observed.phase is Phase.RUNNING


async def test_a_waiter_hears_of_a_deletion_of_a_time_limit_and_of_the_servers_end(store: SqlStore) -> None:
    one, two = an_instance(), an_instance()
    await put(store, one, two)
    waits = Waits(store)
    with pytest.raises(TimedOut):
        await waits.until(one.id, is_in(Phase.RUNNING), 0.01)
    gone = asyncio.create_task(waits.until(one.id, is_in(Phase.RUNNING), 10))
    async with asyncio.timeout(10):
        async with store.write() as unit:
            await unit.instances.forget(one.id)
        assert await gone is None
        operation = an_operation(two)
        async with store.write() as unit:
            await unit.operations.open(operation)
        left = [
            asyncio.create_task(waits.until(two.id, is_in(Phase.RUNNING), None)),
            asyncio.create_task(waits.finished(two.id, operation.id, None)),
        ]
        while not {f"fact:{two.id}", f"over:{two.id}"} <= store._bulletin._exact.keys():
            await asyncio.sleep(0)
        store._bulletin.close()
        for answer in await asyncio.gather(*left, return_exceptions=True):
            assert isinstance(answer, Unavailable)


async def test_events_are_followed_without_gap_or_double_and_end_with_the_server(store: SqlStore) -> None:
    async def append(n: int) -> None:
        async with store.write() as unit:
            await unit.events.append(Event(f"thing.{n}", P, "it", NOW))

    engine = EventsEngine(store)
    await append(0)
    heard: list[str] = []
    done = asyncio.Event()

    async def follow() -> None:
        async for event in engine.follow(ROOT, 0):
            heard.append(event.kind)
            if len(heard) == 30:
                done.set()

    following = asyncio.create_task(follow())
    for n in range(1, 30):
        await append(n)
    async with asyncio.timeout(10):
        await done.wait()
        store._bulletin.close()
        await following
    assert heard == [f"thing.{n}" for n in range(30)]


# -- the keeper ------------------------------------------------------------------------------------------------------


def a_keeper(store: Any, now: datetime = NOW) -> Keeper:
    """Over that store."""
    instances: Any = InstancesEngine(store, None, None, lambda: now, None, None)  # type: ignore[arg-type]  # unused
    snapshots = SnapshotsEngine(store, None, lambda: now, instances, AS_IT_IS)  # type: ignore[arg-type]  # there are none
    schedules = SchedulesEngine(store, lambda: now, instances, snapshots)
    power = PowerEngine(store, None, lambda: now, instances, AS_IT_IS)  # type: ignore[arg-type]  # no button is pressed
    pool = PoolEngine(store, instances, power, None, 0)  # type: ignore[arg-type]  # it holds nothing
    reclaim = ReclaimEngine(store, None, lambda: now, Policy())  # type: ignore[arg-type]  # nobody lends anything
    health = HealthEngine(store, None, lambda: now)  # type: ignore[arg-type]  # nobody is asked
    standby = StandbyEngine(store, None, lambda: now, instances, power, None, NetworkMode.USER, None)  # type: ignore[arg-type]  # nobody is idle
    sessions = SessionsEngine(store, lambda: now, None, None)  # type: ignore[arg-type]  # nobody logs in
    tasks = TasksEngine(store, lambda: now, instances, power, snapshots)
    endings = EndingsEngine(store, lambda: now, instances, power, snapshots, None)  # type: ignore[arg-type]  # nothing is kept
    return Keeper(store, lambda: now, endings, snapshots, schedules, tasks, pool, reclaim, standby, health, sessions)


async def test_the_keeper_deletes_what_has_expired_once(store: SqlStore) -> None:
    over, later = an_instance(intent=Intent(expires=NOW)), an_instance(intent=Intent(expires=NOW + timedelta(1)))
    await put(store, over, later)
    endings = a_keeper(store)._endings
    assert [await endings.expire(), await endings.expire()] == [1, 0]
    assert (await get(store, over)).intent.deleted
    assert not (await get(store, later)).intent.deleted
    async with store.read() as unit:
        operation = await unit.operations.current(over.id)
    assert operation is not None
    assert operation.verb is Verb.DELETE


async def test_the_keeper_forgets_old_operations_and_receipts(store: SqlStore) -> None:
    one = an_instance()
    await put(store, one)
    old = an_operation(one)
    async with store.write() as unit:
        await unit.operations.open(old)
        await unit.operations.save(replace(old, outcome=Outcome.DONE, finished=NOW))
        await unit.receipts.add(P, "key", "hash", one.id, NOW)
    await a_keeper(store, NOW + timedelta(days=30)).prune()
    async with store.read() as unit:
        with pytest.raises(NotFound):
            await unit.operations.get(OperationId(old.id))
        assert await unit.receipts.find(P, "key") is None


@pytest.mark.parametrize("trouble", [Fault("full"), ValueError("a bug")])
async def test_the_keeper_outlives_trouble(
    trouble: Exception, store: SqlStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Shaky:
        """A store that is in trouble once."""

        left = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        @asynccontextmanager
        async def read(self) -> AsyncIterator[Any]:
            if self.left:
                self.left -= 1
                raise trouble
            async with store.read() as unit:
                yield unit
                came.set()

    came = asyncio.Event()
    keeper = a_keeper(Shaky())
    keeper.pause = 0.0
    running = asyncio.create_task(keeper.run())
    async with asyncio.timeout(10):
        await came.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert "keeper" in caplog.text


def test_another_entry_point_or_command_leaves_the_rest() -> None:
    spec = resolve_spec(Create("it", entrypoint=("sh", "-c"), command=("one",)), an_image(ImageKind.ROOT))
    assert (spec.argv, spec.lead) == (("sh", "-c", "one"), 2)
    assert with_command(spec, None, ("two", "three")).argv == ("sh", "-c", "two", "three")
    other = with_command(spec, ("env",), None)
    assert (other.argv, other.lead) == (("env", "one"), 1)
    assert with_command(other, (), ("x",)).argv == ("x",)
    with pytest.raises(Invalid):
        with_command(spec, None, ("a\0b",))
