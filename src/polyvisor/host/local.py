"""This machine as a Host: one object that composes hypervisor, storage, network, images and guest.

Holds the running machines (one LiveVm each, the only owner of its control connection) and nothing else that could not
be read again from the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol

from polyvisor.host import runs
from polyvisor.host.boot import guest_config
from polyvisor.host.console import follow_file
from polyvisor.host.guest.journal import follow_journal
from polyvisor.host.paths import CONFIG, CONSOLE, JOURNAL, SEED, VMM_LOG, Paths
from polyvisor.host.seed import write_seed
from polyvisor.host.upkeep import Upkeep
from polyvisor.host.watch import Watcher
from polyvisor.model.faults import Busy, Fault, Invalid, NoCapacity, NotFound, Unavailable
from polyvisor.model.guest import JournalRecord
from polyvisor.model.host import Blueprint, Disk, HostReport, Observation, Sight
from polyvisor.model.ids import HostId, InstanceId, machine_uuid
from polyvisor.model.instance import RunRecord, same_process
from polyvisor.model.spec import Shape
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import Gone, Hypervisor, LiveVm, Machine
from polyvisor.ports.images import Images
from polyvisor.ports.network import NetworkDriver
from polyvisor.ports.storage import Storage

log = logging.getLogger("polyvisor.host")
_ADOPT_LIMIT = 10.0
_LAUNCHES = 8  # attempts, where a host port is taken at the moment
_LAUNCH_PAUSE = 0.2
_OVERHEAD = Bytes(64 * MIB)  # what a hypervisor process needs beside the guest's memory


class Boot(Protocol):
    """What guests boot from, made when first asked for."""

    async def agent(self) -> Path:
        """The agent's program."""

    async def kernel(self) -> tuple[Path, Path]:
        """Kernel and initial RAM disk of micro guests."""


class LocalHost:
    """A Host in this process."""

    def __init__(  # noqa: PLR0913 - the parts of a host are what it is made of
        self,
        id: HostId,
        paths: Paths,
        hypervisor: Hypervisor,
        storage: Storage,
        network: NetworkDriver,
        images: Images,
        boot: Boot,
        boot_id: str = "",
        memory: Bytes | None = None,
    ) -> None:
        self.id = id
        self.images = images
        self._paths = paths
        self._hypervisor = hypervisor
        self._storage = storage
        self._network = network
        self._boot = boot
        self._boot_id = boot_id or runs.boot_id()
        self._memory = _memory() if memory is None else memory
        self._vms: dict[InstanceId, LiveVm] = {}
        self._deaf: dict[InstanceId, RunRecord] = {}  # processes that are there and could not be taken over yet
        self._mounts: dict[InstanceId, dict[str, Disk]] = {}
        self._watcher = Watcher()
        self._warming: asyncio.Task[None] | None = None
        self._upkeep = Upkeep(paths, storage, self._vms, self._watcher.hint)
        self._network_mode = type(network).__name__.removesuffix("Network").lower()

    async def report(self) -> HostReport:
        """See Host."""
        trouble = "" if self._storage.free() > 0 else "the disk is full"
        return HostReport(
            self.id, os.cpu_count() or 1, self._memory, self._storage.free(), self._hypervisor.name,
            self._hypervisor.version, self._hypervisor.accelerator, self._network_mode, self._hypervisor.abilities,
            not trouble, trouble,
        )  # fmt: skip

    async def check(self, blueprint: Blueprint) -> None:
        """See Host."""
        self._hypervisor.check(blueprint)
        self._network.check(blueprint)
        if blueprint.spec.memory + _OVERHEAD > self._memory:
            raise NoCapacity("memory: more than this host has", field="memory")

    # -- adoption ------------------------------------------------------------------------------------------------

    async def adopt(self, records: Sequence[tuple[Blueprint, RunRecord | None]]) -> None:
        """See Host. A process without a record is found by its uuid: the crash came before the record was saved."""
        found = self._find()
        self._upkeep.start()
        self._warming = asyncio.create_task(self._warm_up(), name="warm-up")
        await self._network.start([blueprint for blueprint, _ in records])
        await asyncio.gather(*(self._take_over(blueprint, record, found) for blueprint, record in records))

    async def _warm_up(self) -> None:
        """What every guest boots from is made before the first one is asked for."""
        try:
            await self._boot.kernel()
        except Fault as fault:
            log.warning("micro guests cannot boot here: %s %s", fault.public, fault.private)

    def _find(self) -> dict[str, int]:
        return {uuid: pid for pid, uuid in self._hypervisor.find()}

    async def _take_over(self, blueprint: Blueprint, record: RunRecord | None, found: dict[str, int]) -> None:
        """Hold the machine if its process is there. One that cannot be held now is `deaf`, never taken for gone."""
        pid = found.get(machine_uuid(blueprint.id))
        self._deaf.pop(blueprint.id, None)
        if pid is None:
            return
        here = self._paths.instance(blueprint.id)
        machine = Machine(blueprint, here, (), None)  # of one that runs, only where it is matters
        proof = self._hypervisor.proof(machine, pid)
        known = [r for r in (runs.load(here), record) if r is not None]
        same = next((r for r in known if same_process(r, proof)), None)
        record = same or (runs.with_process(known[0], proof) if known else proof)
        try:
            async with asyncio.timeout(_ADOPT_LIMIT):
                self._hold(blueprint, await self._hypervisor.adopt(machine, record))
        except Gone:
            return
        except (Fault, OSError) as error:
            self._deaf[blueprint.id] = record
            log.error("cannot take over %s: %r; it is tried again", blueprint.id, error)

    def _hold(self, blueprint: Blueprint, vm: LiveVm) -> None:
        id = blueprint.id
        self._vms[id] = vm
        self._mounts[id] = {disk.serial: disk for disk in blueprint.disks if disk.path}
        self._watcher.start(id, vm, lambda guest: self._welcome(blueprint, guest))

    async def _welcome(self, blueprint: Blueprint, guest: Guest) -> None:
        """A full guest boots without knowing where its volumes belong; a micro one was told before."""
        for disk in list(self._mounts.get(blueprint.id, {}).values()) if blueprint.spec.shape is Shape.FULL else []:
            try:
                await guest.mount(disk.serial, disk.path, read_only=disk.read_only)
            except (NotFound, Invalid) as fault:
                log.warning("%s: %s is not mounted: %s", blueprint.id, disk.path, fault.public)

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, blueprint: Blueprint) -> Observation:
        """See Host. Where a run was begun, its process is looked for before it is said to be gone."""
        id = blueprint.id
        here = self._paths.instance(id)
        last = None if id in self._vms else self._deaf.get(id) or runs.load(here)
        if last is not None:
            await self._take_over(blueprint, last, self._find())
        vm = self._vms.get(id)
        prepared = self._prepared(blueprint)
        if vm is None and id in self._deaf:
            return Observation(id, Sight.DEAF, prepared, run=self._deaf[id])
        if vm is None and (last is None or not last.pid):
            return Observation(id, Sight.GONE, prepared)
        sight, run = (await vm.status(), vm.record) if vm is not None else (Sight.GONE, last)
        assert run is not None
        ended = None
        if sight in (Sight.ENDED, Sight.GONE):
            down = sight is Sight.ENDED and not (vm is not None and vm.trouble)
            ended = await asyncio.to_thread(runs.how_it_ended, here / JOURNAL, run, self._boot_id, shut_down=down)
        ready = sight is Sight.RUNNING and self._watcher.ready(id)
        return Observation(id, sight, prepared, ready, run, ended, vm.trouble if vm is not None else "")

    def _prepared(self, blueprint: Blueprint) -> bool:
        seed = blueprint.spec.shape is not Shape.FULL or (self._paths.instance(blueprint.id) / SEED).exists()
        return seed and self._paths.disk(blueprint.id).exists()

    def hints(self) -> AsyncIterator[InstanceId]:
        """See Host."""
        return self._watcher.hints()

    # -- preparing -----------------------------------------------------------------------------------------------

    async def make_disks(self, blueprint: Blueprint) -> None:
        """See Host."""
        image = await self.images.path(blueprint.spec.image)
        await self._storage.make(blueprint, image)
        if blueprint.spec.shape is Shape.FULL:
            agent = await self._boot.agent()
            await write_seed(self._paths.instance(blueprint.id) / SEED, blueprint, agent)
        else:
            await self._boot.kernel()

    async def remove_disks(self, id: InstanceId) -> None:
        """See Host."""
        await self._storage.remove(id)

    async def plug(self, blueprint: Blueprint) -> None:
        """See Host."""
        if blueprint.address is not None:
            await self._network.plug(blueprint)

    async def unplug(self, blueprint: Blueprint) -> None:
        """See Host."""
        await self._network.unplug(blueprint)

    async def _machine(self, blueprint: Blueprint) -> Machine:
        here = self._paths.instance(blueprint.id)
        image = await self.images.path(blueprint.spec.image)
        disks = self._storage.disks(blueprint, image)
        nic = self._network.nic(blueprint) if blueprint.address is not None else None
        if blueprint.spec.shape is Shape.FULL:
            return Machine(blueprint, here, disks, nic, seed=here / SEED)
        kernel, initrd = await self._boot.kernel()
        config = guest_config(blueprint, self._network.domain(blueprint))
        return Machine(blueprint, here, disks, nic, kernel, initrd, config)

    async def launch(self, blueprint: Blueprint) -> RunRecord:
        """See Host. Facts that only we know are written down before the process can exist."""
        held = self._vms.get(blueprint.id)
        if held is not None:
            if await held.status() in (Sight.RUNNING, Sight.PAUSED, Sight.DEAF):
                return held.record
            await self.kill(blueprint.id)
        for _ in range(_LAUNCHES - 1):
            with contextlib.suppress(Busy):  # somebody was quicker at a port, or the last run's is not given back yet
                return await self._launch(blueprint, await self._machine(blueprint))
            await asyncio.sleep(_LAUNCH_PAUSE)
        return await self._launch(blueprint, await self._machine(blueprint))

    async def _launch(self, blueprint: Blueprint, machine: Machine) -> RunRecord:
        pending = runs.pending(machine, self._paths.instance(blueprint.id) / JOURNAL)
        runs.save(machine.directory, pending)
        await asyncio.to_thread(_write_private, machine.directory / CONFIG, machine.config)
        vm = await self._hypervisor.launch(machine)
        self._hold(blueprint, vm)  # before anything else can fail: what is held can be ended
        vm.record = runs.with_process(pending, vm.record)
        runs.save(machine.directory, vm.record)
        return vm.record

    # -- power ---------------------------------------------------------------------------------------------------

    def _vm(self, id: InstanceId) -> LiveVm:
        vm = self._vms.get(id)
        if vm is None:
            raise Unavailable("the instance does not run")
        return vm

    async def press(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).press()

    async def kill(self, id: InstanceId) -> None:
        """See Host."""
        vm = self._vms.get(id)
        if vm is not None:
            await vm.kill()
            await self._watcher.stop(id)
            self._vms.pop(id, None)
            self._mounts.pop(id, None)
        elif id in self._deaf:
            raise Unavailable("the instance's process cannot be taken over", private=f"pid {self._deaf[id].pid}")
        runs.forget(self._paths.instance(id))

    async def pause(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).pause()

    async def resume(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).resume()

    async def reset(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).reset()

    # -- volumes -------------------------------------------------------------------------------------------------

    async def attach(self, blueprint: Blueprint, disk: Disk) -> None:
        """See Host."""
        vm = self._vm(blueprint.id)
        await vm.attach(self._storage.volume(disk))
        if disk.path:
            guest = await vm.guest()
            await guest.mount(disk.serial, disk.path, read_only=disk.read_only)
            self._mounts[blueprint.id][disk.serial] = disk

    async def detach(self, id: InstanceId, disk: Disk) -> None:
        """See Host. A machine that has ended holds no disk; one that keeps it keeps it mounted."""
        vm = self._vms.get(id)
        if vm is None or await vm.status() in (Sight.ENDED, Sight.GONE):
            return
        if disk.path:
            with contextlib.suppress(Unavailable):
                await (await vm.guest()).umount(disk.path)
        try:
            await vm.detach(disk.serial)
        except Fault:
            if disk.path:
                with contextlib.suppress(Fault):
                    await (await vm.guest()).mount(disk.serial, disk.path, read_only=disk.read_only)
            raise
        self._mounts[id].pop(disk.serial, None)

    async def create_volume(self, disk: Disk) -> None:
        """See Host."""
        await self._storage.create_volume(disk)

    async def remove_volume(self, volume: str) -> None:
        """See Host."""
        await self._storage.remove_volume(volume)

    async def resize_volume(self, disk: Disk, holder: InstanceId | None) -> None:
        """See Host."""
        vm = self._vms.get(holder) if holder else None
        await self._storage.resize_volume(disk)
        if vm is not None:
            await vm.grow(disk.serial, disk.size)
            with contextlib.suppress(Unavailable):
                await (await vm.guest()).grow(disk.serial)

    # -- streams -------------------------------------------------------------------------------------------------

    async def guest(self, id: InstanceId) -> Guest:
        """See Host."""
        return await self._vm(id).guest()

    async def console(self, id: InstanceId) -> AsyncIterator[bytes]:
        """See Host."""
        return follow_file(self._paths.instance(id) / CONSOLE, lambda: id in self._vms)

    async def type(self, id: InstanceId, data: bytes) -> None:
        """See Host."""
        await self._vm(id).type(data)

    def journal(self, id: InstanceId, follow: bool, running: Callable[[], bool]) -> AsyncIterator[JournalRecord]:
        """See Host."""
        return follow_journal(self._paths.instance(id) / JOURNAL, running if follow else lambda: False)

    def log_file(self, id: InstanceId) -> Path:
        """See Host."""
        return self._paths.instance(id) / VMM_LOG

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def sweep(self, known: frozenset[InstanceId], volumes: frozenset[str]) -> None:
        """See Host."""
        await self._network.sweep(known)
        strange = self._find()
        for id in known:
            strange.pop(machine_uuid(id), None)
        for uuid, pid in strange.items():
            log.warning("process %d runs a machine that no record knows (uuid %s); left alone", pid, uuid)
        folders = (InstanceId(folder.name) for folder in self._paths.instances.iterdir())
        running = {id for id in folders if machine_uuid(id) in strange}  # nor are its files taken away under it
        await self._storage.sweep(known | running, volumes)

    async def close(self, *, idle: bool) -> None:
        """See Host."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self._upkeep.close()
        await self._watcher.close()
        for vm in self._vms.values():
            with contextlib.suppress(Fault, OSError):
                await vm.close()
        self._vms.clear()
        if idle:
            await self._network.stop()


def _memory() -> Bytes:
    return Bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
