"""This machine as a Host: one object that composes hypervisor, storage, network, images and guest.

Holds the running machines (one LiveVm each, the only owner of its control connection) and nothing else that could not
be read again from the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from polyvisor.host import runs, taken
from polyvisor.host.boot import Boot, guest_config
from polyvisor.host.console import follow_file
from polyvisor.host.durable import write_private
from polyvisor.host.entrance import LocalEntrance
from polyvisor.host.greeting import Greeting
from polyvisor.host.guest.journal import follow_journal
from polyvisor.host.ingress.joined import Joined, NoProxy
from polyvisor.host.memory import MemoryFiles
from polyvisor.host.network.bridged import HostNics
from polyvisor.host.paths import CONFIG, CONSOLE, JOURNAL, SEED, VMM_LOG, Paths
from polyvisor.host.probing import by_command, by_port, words_of
from polyvisor.host.seed import write_seed
from polyvisor.host.snapshots import Snapshots, Taking
from polyvisor.host.upkeep import Upkeep
from polyvisor.host.volumes import LocalVolumes
from polyvisor.host.watch import Watcher
from polyvisor.model.compression import AS_IT_IS, Packed, Packing
from polyvisor.model.faults import Busy, Fault, NoCapacity, Unavailable
from polyvisor.model.guest import JournalRecord
from polyvisor.model.health import HealthCheck, Probe
from polyvisor.model.host import Blueprint, Disk, DiskCounts, HostReport, Observation, Sight, Taken
from polyvisor.model.ids import HostId, InstanceId, SnapshotId, machine_uuid
from polyvisor.model.instance import RunRecord, same_process
from polyvisor.model.network import HostNic
from polyvisor.model.spec import Shape
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.entrance import Entrance
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import Gone, Hypervisor, LiveVm, Machine, Memory, NicPlug
from polyvisor.ports.images import Images
from polyvisor.ports.network import NetworkDriver
from polyvisor.ports.proxy import Proxy
from polyvisor.ports.screen import Viewer
from polyvisor.ports.storage import Storage
from polyvisor.ports.volumes import HostVolumes

log = logging.getLogger("polyvisor.host")
_ADOPT_LIMIT = 10.0
_LAUNCHES = 8  # attempts, where a host port is taken at the moment
_LAUNCH_PAUSE = 0.2
_OVERHEAD = Bytes(64 * MIB)  # what a hypervisor process needs beside the guest's memory


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
        proxy: Joined | None = None,
        nics: HostNics | None = None,
    ) -> None:
        self._nics = nics or HostNics()
        self.id = id
        self.images = images
        self._paths = paths
        self._hypervisor = hypervisor
        self._storage = storage
        self._network = network
        self._boot = boot
        self._boot_id = boot_id or runs.boot_id()
        self._memory = taken.physical_memory() if memory is None else memory
        self._vms: dict[InstanceId, LiveVm] = {}
        self._deaf: dict[InstanceId, RunRecord] = {}  # processes that are there and could not be taken over yet
        self._mounts: dict[InstanceId, dict[str, Disk]] = {}
        self._memory_files = MemoryFiles(paths, hypervisor, self._boot_id)
        self._snapshots = Snapshots(paths, storage, self._memory_files, self._vms)
        self._volumes = LocalVolumes(storage, images, self._vms)
        self.volumes: HostVolumes = self._volumes
        self._greeting = Greeting(self._memory_files, network, self._vms, self._mounts)
        self._watcher = Watcher()
        self._entrance = LocalEntrance(paths, network, self._vms, self._memory_files, self._watcher)
        self.entrance: Entrance = self._entrance
        joined = proxy or NoProxy()
        joined.join(self._entrance.connect)
        self.proxy: Proxy = joined
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
        self._nics.check(blueprint)
        if blueprint.spec.memory + _OVERHEAD > self._memory:
            raise NoCapacity("memory: more than this host has", field="memory")
        origin = blueprint.spec.origin
        if origin and self._memory_files.has(origin) and not self._memory_files.is_template(origin):
            self._memory_files.require(origin, blueprint)

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
            return
        try:
            await self._entrance.adopted(blueprint)
        except Fault as fault:
            log.error("%s: nobody reaches it at its host ports: %s", blueprint.id, fault.public)

    def _hold(self, blueprint: Blueprint, vm: LiveVm) -> None:
        id = blueprint.id
        self._vms[id] = vm
        self._mounts[id] = {disk.serial: disk for disk in blueprint.disks if disk.path}
        self._watcher.start(id, vm, lambda guest: self._greeting.welcome(blueprint, guest))

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self, blueprint: Blueprint) -> Observation:
        """See Host. Where a run was begun, its process is looked for before it is said to be gone."""
        id = blueprint.id
        here = self._paths.instance(id)
        last = None if id in self._vms else self._deaf.get(id) or runs.load(here)
        if last is not None:
            await self._take_over(blueprint, last, self._find())
        vm = self._vms.get(id)
        prepared, saved = self._prepared(blueprint), self._memory_files.is_saved(id)
        if vm is None and id in self._deaf:
            return Observation(id, Sight.DEAF, prepared, run=self._deaf[id], saved=saved)
        if vm is None and (last is None or not last.pid):
            return Observation(id, Sight.GONE, prepared, saved=saved, bare=saved and self._memory_files.is_idle(id))
        sight, run = (await vm.status(), vm.record) if vm is not None else (Sight.GONE, last)
        assert run is not None
        ended = None
        if sight in (Sight.ENDED, Sight.GONE):
            down = sight is Sight.ENDED and not (vm is not None and vm.trouble)
            ended = await asyncio.to_thread(runs.how_it_ended, here / JOURNAL, run, self._boot_id, shut_down=down)
        ready = sight is Sight.RUNNING and self._watcher.ready(id)
        trouble, rebooting = (vm.trouble, vm.rebooting) if vm is not None else ("", False)
        up = sight in (Sight.RUNNING, Sight.PAUSED) and blueprint.address is not None
        astray = up and not self._network.enforced(blueprint)
        bare = (sight is Sight.RUNNING or saved) and self._memory_files.is_idle(id)
        return Observation(id, sight, prepared, ready, run, ended, trouble, saved, rebooting, bare, astray)

    def _prepared(self, blueprint: Blueprint) -> bool:
        blank = blueprint.spec.blank
        return self._paths.instance(blueprint.id).is_dir() if blank else self._storage.is_made(blueprint.id)

    async def _image(self, blueprint: Blueprint) -> Path:
        """What its disk stands on; a blank machine has no disk, and so nothing asks where that is."""
        return Path() if blueprint.spec.blank else await self.images.path(blueprint.spec.image)

    async def probe(self, blueprint: Blueprint, check: HealthCheck) -> str | None:
        """See Host. A command ends at its own limit, and then says so."""
        spare = 1.0 if check.probe is Probe.EXEC else 0.0
        try:
            async with asyncio.timeout(check.timeout + spare):
                if check.probe is Probe.EXEC:
                    return await by_command(await self.guest(blueprint.id), check)
                where = self._entrance.reach(blueprint, self._vm(blueprint.id), check.port)
                if where is None or blueprint.address is None:
                    return None
                name = blueprint.address.ip
                return await by_port(where, name, check, forwarded=where[0] != name)
        except TimeoutError:
            return f"no answer within {check.timeout:g} s"
        except (Fault, OSError, ValueError, EOFError) as error:
            return words_of(error)

    def hints(self) -> AsyncIterator[InstanceId]:
        """See Host."""
        return self._watcher.hints()

    # -- preparing -----------------------------------------------------------------------------------------------

    async def make_disks(self, blueprint: Blueprint) -> None:
        """See Host."""
        image = await self._image(blueprint)
        origin = blueprint.spec.origin
        if self._memory_files.is_template(origin) and not self._memory_files.fits(origin, blueprint):
            log.warning("%s: its template is of another version of this host: it boots", blueprint.id)
            origin = ""
        if goes_on := bool(origin) and self._memory_files.has(origin):
            self._memory_files.require(origin, blueprint)
        await self._storage.make(blueprint, image, origin)
        await self._snapshots.bring_nvram(blueprint.id, origin)
        await write_seed(self._paths.instance(blueprint.id) / SEED, blueprint, self._boot.agent)
        if blueprint.spec.shape is Shape.MICRO:
            await self._boot.kernel()
        if goes_on:
            self._memory_files.wait_in(blueprint.id, origin, copy=True)

    async def remove_disks(self, id: InstanceId) -> None:
        """See Host."""
        self._entrance.ended(id)
        await self._storage.remove(id)
        self._memory_files.ended(id)
        await self._memory_files.collect()

    async def plug(self, blueprint: Blueprint) -> None:
        """See Host."""
        if blueprint.address is not None:
            await self._network.plug(blueprint)

    async def unplug(self, blueprint: Blueprint) -> None:
        """See Host. One in standby that is to be woken keeps its place."""
        if not self._memory_files.is_saved(blueprint.id):
            await self._entrance.parted(blueprint)
        elif await self._entrance.stays(blueprint):
            return
        await self._network.unplug(blueprint)

    def require_enforceable(self, blueprint: Blueprint) -> None:
        """See Host."""
        self._network.require_enforceable(blueprint)

    async def enforce(self, blueprint: Blueprint) -> None:
        """See Host."""
        await self._network.enforce(blueprint)

    async def _machine(self, blueprint: Blueprint) -> Machine:
        here = self._paths.instance(blueprint.id)
        image = await self._image(blueprint)
        disks = self._storage.disks(blueprint, image)
        nic, bridged = await self._entrance.nic(blueprint), self._nics.of(blueprint)
        if blueprint.spec.shape is Shape.FULL:
            seed = here / SEED if blueprint.spec.seeded else None
            return Machine(blueprint, here, disks, nic, seed=seed, bridged=bridged)
        kernel, initrd = await self._boot.kernel()
        config = guest_config(blueprint, self._network.domain(blueprint))
        return Machine(blueprint, here, disks, nic, kernel, initrd, config, bridged=bridged)

    async def launch(self, blueprint: Blueprint) -> RunRecord:
        """See Host. Facts that only we know are written down before the process can exist."""
        held = self._vms.get(blueprint.id)
        if held is not None:
            if await held.status() in (Sight.RUNNING, Sight.PAUSED, Sight.DEAF):
                return held.record
            await self.kill(blueprint.id)
        # A seed may say something else than at the last start.
        await write_seed(self._paths.instance(blueprint.id) / SEED, blueprint, self._boot.agent)
        memory = self._memory_files.fresh(blueprint.id, blueprint.spec.memory)
        try:
            record = await self._begin(blueprint, memory, self._hypervisor.launch)
            self._entrance.started(blueprint.id)
            return record
        finally:
            if memory is not None and isinstance(memory.file, int):
                os.close(memory.file)

    async def _begin(
        self, blueprint: Blueprint, memory: Memory | None, start: Callable[[Machine], Awaitable[LiveVm]]
    ) -> RunRecord:
        async with self._volumes.starting(blueprint.disks):
            for _ in range(_LAUNCHES - 1):
                with contextlib.suppress(Busy):  # somebody was quicker at a port, or it is not given back yet
                    return await self._start(blueprint, memory, start)
                await asyncio.sleep(_LAUNCH_PAUSE)
            return await self._start(blueprint, memory, start)

    async def _start(
        self, blueprint: Blueprint, memory: Memory | None, start: Callable[[Machine], Awaitable[LiveVm]]
    ) -> RunRecord:
        machine = replace(await self._machine(blueprint), memory=memory)
        pending = runs.pending(machine, self._paths.instance(blueprint.id) / JOURNAL)
        runs.save(machine.directory, pending)
        await asyncio.to_thread(write_private, machine.directory / CONFIG, machine.config)
        try:
            vm = await start(machine)
        except FileNotFoundError as error:  # layers were joined since we asked which there are
            raise Busy("a file of the instance is not where it was", private=str(error)) from error
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
        self._entrance.shut(id)
        if vm is not None:
            await vm.kill()
            await self._watcher.stop(id)
            self._vms.pop(id, None)
            self._mounts.pop(id, None)
        elif id in self._deaf:
            raise Unavailable("the instance's process cannot be taken over", private=f"pid {self._deaf[id].pid}")
        self._memory_files.ended(id)  # of one that never came to be as well
        self._memory_files.flush_soon(id)
        runs.forget(self._paths.instance(id))

    async def pause(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).pause()

    async def resume(self, id: InstanceId) -> None:
        """See Host. Once it goes on, an image of what it was must never be gone back to. A copy of another machine has
        the other's addresses until it is told its own."""
        vm = self._vm(id)
        if self._memory_files.is_strange(id):
            await vm.link(up=False)
        self._memory_files.used(id)
        await vm.resume()
        self._entrance.started(id)
        await self._watcher.greet_again(id)

    async def suspend(self, blueprint: Blueprint, packing: Packing = AS_IT_IS) -> None:
        """See Host."""
        vm = self._vm(blueprint.id)
        async with self._entrance.saving(blueprint, vm):
            await vm.pause()
            await self._memory_files.save(blueprint, vm, packing)
            await self.kill(blueprint.id)

    async def restore(self, blueprint: Blueprint) -> RunRecord:
        """See Host."""
        id = blueprint.id
        held = self._vms.get(id)
        if held is None or await held.status() is not Sight.PAUSED:
            if held is not None:
                await self.kill(id)
            memory, saved = await self._memory_files.waiting(blueprint)
            await self._begin(blueprint, memory, lambda machine: self._hypervisor.restore(machine, saved))
        with contextlib.suppress(Fault):  # what it lent when it was saved was needed then, and may not be now
            if await self.guest_memory(id) != blueprint.spec.usable:  # asked while it stands still: it answers at once
                await self.balloon(id, blueprint.spec.usable)
        await self.resume(id)
        return self._vms[id].record

    async def available(self) -> Bytes:
        """See Host."""
        words = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()
        return Bytes(int(words[0]) * 1024)

    async def guest_memory(self, id: InstanceId) -> Bytes:
        """See Host."""
        return Bytes(await self._vm(id).memory())

    async def balloon(self, id: InstanceId, size: Bytes) -> None:
        """See Host."""
        await self._vm(id).balloon(size)

    async def configure(self, blueprint: Blueprint) -> None:
        """See Host."""
        await self._greeting.configure(blueprint)

    async def discard(self, id: InstanceId) -> None:
        """See Host."""
        self._entrance.ended(id)
        self._memory_files.forget(id)

    async def reset(self, id: InstanceId) -> None:
        """See Host."""
        await self._vm(id).reset()

    # -- snapshots -----------------------------------------------------------------------------------------------

    async def snapshot(
        self, blueprint: Blueprint, snapshot: SnapshotId, *, memory: bool, keep: bool = True, go_on: bool = True,
        packing: Packing = AS_IT_IS,
    ) -> Bytes:  # fmt: skip
        """See Host."""
        self._not_deaf(blueprint.id)
        image = await self._image(blueprint)
        how = Taking(memory, keep, go_on, packing)
        return await self._snapshots.take(blueprint, image, snapshot, how)

    async def packed(self, snapshot: SnapshotId) -> tuple[Packed, Bytes]:
        """See Host."""
        return await self._snapshots.packed(snapshot)

    async def revert(self, blueprint: Blueprint, snapshot: SnapshotId) -> None:
        """See Host."""
        self._not_deaf(blueprint.id)
        slept = self._memory_files.is_saved(blueprint.id)
        await self._snapshots.revert(blueprint, await self._image(blueprint), snapshot)
        if slept and not self._memory_files.is_saved(blueprint.id):
            await self.unplug(blueprint)  # nobody waits to go on any more

    def _not_deaf(self, id: InstanceId) -> None:
        if id in self._deaf:
            raise Unavailable("the machine does not answer")

    async def remove_snapshot(self, snapshot: SnapshotId) -> None:
        """See Host."""
        await self._snapshots.remove(snapshot)

    # -- volumes -------------------------------------------------------------------------------------------------

    async def attach(self, blueprint: Blueprint, disk: Disk) -> None:
        """See Host."""
        vm = self._vm(blueprint.id)
        await self._volumes.format_blank([disk])
        await vm.attach(self._storage.volume(disk))
        if disk.path:
            guest = await vm.guest()
            await guest.mount(disk.serial, disk.path, read_only=disk.read_only, overlay=disk.overlay)
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
                    guest = await vm.guest()
                    await guest.mount(disk.serial, disk.path, read_only=disk.read_only, overlay=disk.overlay)
            raise
        self._mounts[id].pop(disk.serial, None)

    def nics(self) -> tuple[HostNic, ...]:
        """See Host."""
        return self._nics.known

    async def plug_nic(self, blueprint: Blueprint, index: int) -> None:
        """See Host."""
        vm = self._vm(blueprint.id)
        if not (blueprint.spec.network and index == 0):
            bridged = self._nics.of(blueprint)[index - (1 if blueprint.spec.network else 0)]
            await vm.plug_nic(NicPlug(bridged.mac, bridged))
            return
        await self.plug(blueprint)
        nic = await self._entrance.nic(blueprint)
        assert nic is not None and blueprint.address is not None
        await vm.plug_nic(NicPlug(blueprint.address.mac, nic, blueprint.address))
        self._entrance.started(blueprint.id)

    async def unplug_nic(self, blueprint: Blueprint, index: int) -> None:
        """See Host."""
        vm = self._vm(blueprint.id)
        if not (blueprint.spec.network and index == 0):
            await vm.unplug_nic(self._nics.of(blueprint)[index - (1 if blueprint.spec.network else 0)].mac)
            return
        assert blueprint.address is not None
        await vm.unplug_nic(blueprint.address.mac)
        await self.unplug(blueprint)

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

    async def picture(self, id: InstanceId) -> bytes:
        """See Host."""
        return await self._vm(id).picture()

    async def view(self, id: InstanceId) -> Viewer:
        """See Host."""
        return await self._vm(id).view()

    def journal(self, id: InstanceId, follow: bool, running: Callable[[], bool]) -> AsyncIterator[JournalRecord]:
        """See Host."""
        return follow_journal(self._paths.instance(id) / JOURNAL, running if follow else lambda: False)

    def log_file(self, id: InstanceId) -> Path:
        """See Host."""
        return self._paths.instance(id) / VMM_LOG

    async def taken(self, id: InstanceId) -> Taken:
        """See Host."""
        vm = self._vms.get(id)
        found = taken.of_process(vm.record) if vm is not None else None
        if vm is None or found is None:
            return Taken()
        return await taken.with_traffic(found, await vm.guest()) if self._watcher.ready(id) else found

    async def accounts(self) -> Mapping[InstanceId, Taken]:
        """See Host."""
        return await asyncio.to_thread(taken.of_processes, {id: vm.record for id, vm in self._vms.items()})

    async def disk_counts(self, id: InstanceId) -> Mapping[str, DiskCounts]:
        """See Host."""
        return await taken.of_disks(self._vms.get(id))

    # -- housekeeping --------------------------------------------------------------------------------------------

    async def sweep(self, known: frozenset[InstanceId], volumes: frozenset[str], snapshots: frozenset[str]) -> None:
        """See Host."""
        await self._network.sweep(known)
        strange = self._find()
        for id in known:
            strange.pop(machine_uuid(id), None)
        for uuid, pid in strange.items():
            log.warning("process %d runs a machine that no record knows (uuid %s); left alone", pid, uuid)
        folders = (InstanceId(folder.name) for folder in self._paths.instances.iterdir())
        running = {id for id in folders if machine_uuid(id) in strange}  # nor are its files taken away under it
        await self._hypervisor.sweep(self._paths.instances, running | self._vms.keys() | self._deaf.keys())
        await self._storage.sweep(known | running, volumes, snapshots)
        await self._memory_files.sweep(known | running, running | self._vms.keys() | self._deaf.keys())

    async def close(self, *, idle: bool) -> None:
        """See Host."""
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await self.proxy.close(idle=idle)
        self._entrance.close()
        await self._upkeep.close()
        await self._watcher.close()
        for vm in self._vms.values():
            with contextlib.suppress(Fault, OSError):
                await vm.close()
        self._vms.clear()
        await self._memory_files.close()
        await self._network.close()
        if idle:
            await self._network.stop()
