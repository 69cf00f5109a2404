"""A whole server without its listeners, over the fake hypervisor, that can die and begin again on what it left."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from polyvisor.engine import Engine
from polyvisor.engine.instances import Asked, Until
from polyvisor.engine.waits import Waits
from polyvisor.host.hypervisor.fake.driver import FakeHypervisor, FakeVm, read_facts
from polyvisor.host.hypervisor.fake.host import FakeBoot, FakeImages, FakeStorage
from polyvisor.host.hypervisor.fake.knob import Knob
from polyvisor.host.local import LocalHost
from polyvisor.host.network.user import UserNetwork
from polyvisor.host.paths import Paths
from polyvisor.model.event import Event
from polyvisor.model.faults import Fault
from polyvisor.model.host import Blueprint
from polyvisor.model.identity import Project
from polyvisor.model.ids import InstanceId, ProjectId
from polyvisor.model.instance import Instance, MountState, Phase
from polyvisor.model.network import Network, NetworkMode
from polyvisor.model.operation import Operation, Outcome
from polyvisor.model.principal import Action, Principal
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotKind, SnapshotState
from polyvisor.model.units import MIB, Bytes
from polyvisor.model.volume import Volume
from polyvisor.ports.store import Store
from polyvisor.reconcile.loop import Reconciler
from polyvisor.reconcile.runner import Crash
from polyvisor.reconcile.steps import StepName
from polyvisor.server.config import Config
from polyvisor.store import open_store

P = ProjectId("p" * 24)
ROOT = Principal("root", P, frozenset(Action), operator=True)
UP = (Phase.RUNNING, Phase.PAUSED)
LIMIT = 60.0


class Switchboard(UserNetwork):
    """User mode that remembers who is plugged in, as a bridge would. It outlives its manager."""

    def __init__(self, plugged: set[InstanceId]) -> None:
        super().__init__(real=False)
        self.plugged = plugged

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        self.plugged.add(blueprint.id)

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        self.plugged.discard(blueprint.id)


@dataclass
class Trap:
    """What happens at a moment of a step: a fault, or the end of the manager. It goes off `times` times."""

    when: str
    step: StepName
    what: BaseException
    times: int = 1


class World:
    """One server at a time over one data directory."""

    def __init__(self, data: Path) -> None:
        self.paths = Paths(data)
        self.knob = Knob()
        self.plugged: set[InstanceId] = set()
        self.offset = timedelta(0)
        self.boot_id = "first"
        self.traps: list[Trap] = []
        self.log: list[tuple[str, StepName]] = []
        self.dead = asyncio.Event()
        self._awaited: tuple[str, StepName] | None = None
        self._reached = asyncio.Event()
        self.wrap: Callable[[Store], Store] = lambda store: store
        self.may_be_saved: set[Phase] = set()  # besides those that are suspended: after a revert to memory

    def clock(self) -> datetime:
        """Now, as far as the server knows."""
        return datetime.now(UTC) + self.offset

    async def begin(self) -> None:
        """A new manager, as after a start of the server."""
        self.dead.clear()
        self.paths.make()
        self.store = self.wrap(await open_store(f"sqlite:///{self.paths.root / 'store.db'}"))
        self.host = await self.make_host()
        network = Network(NetworkMode.USER, Config().default_network().subnet)
        self.engine = Engine(self.store, self.host, network, self.clock, self.paths.root)
        self.waits = Waits(self.store)
        self.reconciler = Reconciler(self.store, self.host, self.clock)
        self.reconciler.pause = 0.01
        self.reconciler.runner.hook = self._hook
        await self.reconciler.start()

    async def make_host(self) -> LocalHost:
        """What machines run on."""
        self.hypervisor = FakeHypervisor(self.paths.instances, self.knob, self.boot_id)
        return LocalHost(
            await self.store.host_id(), self.paths, self.hypervisor, FakeStorage(self.paths),
            Switchboard(self.plugged), FakeImages(self.paths.images), FakeBoot(self.paths.boot), self.boot_id,
        )  # fmt: skip

    def memory(self, id: InstanceId) -> Path:
        """The file that is its RAM while it runs."""
        return self.paths.shm / f"{id}.ram"

    def has_process(self, id: InstanceId) -> bool:
        """Whether a machine of it is there, whatever anybody remembers."""
        return read_facts(self.paths.instance(id) / "fake.json", self.boot_id) is not None

    def _hook(self, when: str, step: StepName) -> None:
        self.log.append((when, step))
        if (when, step) == self._awaited:
            self._reached.set()
        for trap in self.traps:
            if (trap.when, trap.step) == (when, step) and trap.times:
                trap.times -= 1
                if isinstance(trap.what, Crash):
                    self.dead.set()
                raise trap.what

    async def reached(self, step: StepName) -> None:
        """Wait until that step begins, unless it has."""
        if ("before", step) not in self.log:
            self._awaited = ("before", step)
            async with asyncio.timeout(LIMIT):
                await self._reached.wait()

    async def end(self) -> None:
        """The manager goes, machines stay."""
        await self.engine.audit.close()
        await self.reconciler.close()
        await self.host.close(idle=False)
        await self.store.close()

    async def again(self) -> None:
        """It goes and another one begins."""
        await self.end()
        await self.begin()

    async def reborn(self) -> None:
        """Once it has died in a trap, another one begins."""
        async with asyncio.timeout(LIMIT):
            await self.dead.wait()
        await self.again()

    async def reboot(self) -> None:
        """The host goes down with every machine, and comes up with a new manager."""
        await self.end()
        self.boot_id += "+"
        self.plugged.clear()
        shutil.rmtree(self.paths.shm, ignore_errors=True)
        await self.begin()

    async def later(self, seconds: float, id: InstanceId) -> None:
        """Time passes."""
        self.offset += timedelta(seconds=seconds)
        self.reconciler.wake(id)

    # -- asking --------------------------------------------------------------------------------------------------

    async def create(self, **wanted: object) -> InstanceId:
        """A new instance that is as it was asked to be."""
        asked = await self.engine.instances.create(ROOT, self.wanted(**wanted))
        await self.settled(asked.instance.id)
        return asked.instance.id

    def wanted(self, **more: object) -> Create:
        """What to ask for."""
        usual: dict[str, object] = {"image": "busybox", "memory": Bytes(96 * MIB), "disk": Bytes(64 * MIB)}
        return Create(**(usual | more))  # type: ignore[arg-type]  # a test knows what it asks for

    async def volume(self, name: str = "data") -> Volume:
        """A new volume."""
        return await self.engine.volumes.create(ROOT, name, Bytes(64 * MIB))

    async def snapshot(self, id: InstanceId, name: str = "snap", kind: SnapshotKind = SnapshotKind.DISK) -> Snapshot:
        """A new snapshot, ready."""
        taken = await self.engine.snapshots.create(ROOT, id, name, kind)
        return await self.engine.snapshots.settle(taken, Until.LAUNCHED, LIMIT)

    async def snapshot_of(self, id: InstanceId, name: str = "snap", kind: SnapshotKind = SnapshotKind.DISK) -> Asked:
        """Ask for one."""
        asked = (await self.engine.snapshots.create(ROOT, id, name, kind)).asked
        assert asked is not None
        return asked

    async def ask(self, asking: Awaitable[Asked]) -> Operation:
        """Ask, and wait for what comes of it."""
        asked = await asking
        assert asked.operation is not None
        return await self.waits.finished(asked.instance.id, asked.operation, LIMIT)

    def vm(self, id: InstanceId) -> FakeVm:
        """The machine itself."""
        return self.hypervisor.vms[id]

    # -- looking -------------------------------------------------------------------------------------------------

    async def get(self, id: InstanceId) -> Instance:
        """As it is on record."""
        async with self.store.read() as unit:
            return await unit.instances.get(id)

    async def until(self, id: InstanceId, wanted: Callable[[Instance], bool]) -> Instance | None:
        """Wait for it; None: it was deleted."""
        return await self.waits.until(id, wanted, LIMIT)

    async def settled(self, id: InstanceId) -> Instance | None:
        """Wait until nothing is under way."""
        return await self.until(id, lambda i: i.settled and i.operation is None and not i.intent.deleted)

    async def phase(self, id: InstanceId, phase: Phase) -> Instance:
        """Wait for a phase."""
        found = await self.until(id, lambda i: i.observed.phase is phase and i.operation is None)
        assert found is not None
        return found

    async def noted(self, id: InstanceId, step: StepName) -> None:
        """Wait until that step of the open operation is on record as over, or all of it is."""
        async with asyncio.timeout(LIMIT), self.store.follow(f"fact:{id}") as topics:
            while True:
                async with self.store.read() as unit:
                    operation = await unit.operations.current(id)
                if operation is None or f"{step}.done" in operation.journal:
                    return
                await anext(topics)

    async def operations(self, id: InstanceId) -> list[Operation]:
        """Latest first."""
        async with self.store.read() as unit:
            return list(await unit.operations.page(None, id, 100))

    async def events(self, id: InstanceId) -> list[Event]:
        """Of one instance, oldest first."""
        async with self.store.read() as unit:
            return [e for e in await unit.events.after(0, None, 10_000) if e.subject == id]

    async def check(self, id: InstanceId) -> None:
        """Records, files and network tell one story, whatever it is; nothing is left behind, nothing is open."""
        await self.quiet(id)
        folder = self.paths.instance(id)
        try:
            instance = await self.get(id)
        except Fault:
            assert not folder.exists()
            assert not self.memory(id).exists()
            assert id not in self.plugged
            assert not self.has_process(id)
        else:
            up = instance.observed.phase in UP
            assert instance.settled
            assert instance.operation is None
            assert self.has_process(id) == up
            assert (folder / "run.json").exists() == up
            assert (instance.observed.run is not None) == up
            assert up <= (id in self.plugged) <= (up or instance.observed.phase is Phase.PREPARED)
            assert folder.exists() or instance.observed.phase is Phase.FAILED
            assert self.memory(id).exists() <= up
            saved, may = self.host._memory_files.is_saved(id), self.may_be_saved | {Phase.SUSPENDED}
            assert (instance.observed.phase is Phase.SUSPENDED) <= saved <= (instance.observed.phase in may)
            assert all(m.state is MountState.ATTACHED for m in instance.mounts)
            assert instance.intent.generation == instance.observed.generation
        await self.check_snapshots(id)
        for operation in await self.operations(id):
            assert operation.outcome is not Outcome.OPEN
            assert (operation.outcome is Outcome.FAILED) == bool(operation.fault_kind)
        sane(await self.events(id))
        await self.host._memory_files.collect()
        async with self.store.read() as unit:
            kept = [i for i in await unit.instances.all() if i.observed.phase in (*UP, Phase.SUSPENDED)]
        full = [s for s in await self.snapshots() if s.kind is SnapshotKind.FULL]
        assert len(list(self.paths.memory.iterdir())) <= len(kept) + len(full)

    async def snapshots(self) -> list[Snapshot]:
        """All there are."""
        async with self.store.read() as unit:
            return list(await unit.snapshots.all())

    async def check_snapshots(self, source: InstanceId | None = None) -> None:
        """Each of that instance is ready and on the host; with none named, nothing else is there either."""
        found = [s for s in await self.snapshots() if source in (None, s.source)]
        files = {file.name for file in self.paths.snapshots.iterdir()}
        assert [s for s in found if s.state is not SnapshotState.READY or s.size == 0] == []
        assert {s.id for s in found} <= files
        assert source is not None or len(files) == len(found)

    async def quiet_or_waiting(self, id: InstanceId) -> None:
        """Wait until the reconciler does nothing about it now: it is done, or it waits for a time to come."""
        self.reconciler.wake(id)
        async with asyncio.timeout(LIMIT):
            while actor := self.reconciler._actors.get(id):
                await asyncio.wait([actor])

    async def quiet(self, id: InstanceId) -> None:
        """Wait until the reconciler has nothing to do about it, not even to clear away."""
        await self.settled(id)
        async with asyncio.timeout(LIMIT):
            while actor := self.reconciler._actors.get(id):
                await asyncio.wait([actor])


def sane(events: list[Event]) -> None:
    """Each operation is opened and finished at most once, and no phase follows itself unless it is a new run."""
    for kind in ("operation.opened", "operation.finished"):
        ids = [e.data["operation"] for e in events if e.kind == kind]
        assert len(ids) == len(set(ids))
    phases = [e.kind for e in events if e.kind.startswith("instance.") and e.kind != "instance.ready"]
    for one, two in pairwise(phases):
        assert one != two or one == "instance.running"
    assert phases.count("instance.deleted") <= 1


async def template(folder: Path) -> Path:
    """A data directory with a store in it that knows the project, to be copied for each test."""
    store = await open_store(f"sqlite:///{folder / 'store.db'}")
    async with store.write() as unit:
        await unit.identities.add_project(Project(P, "first", datetime.now(UTC)))
    await store.close()
    return folder


def copy(template: Path, to: Path) -> Path:
    """A fresh data directory."""
    shutil.copytree(template, to)
    return to
