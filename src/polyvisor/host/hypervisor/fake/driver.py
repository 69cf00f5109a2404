"""The fake driver: a machine is a file that says how it is, so it outlives its manager as a process would.

A restart of the host is another `boot_id`: what an earlier one has left says nothing any more.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyvisor.host.console import follow_file
from polyvisor.host.hypervisor.fake.guest import FakeGuest
from polyvisor.host.hypervisor.fake.knob import Knob
from polyvisor.host.hypervisor.fake.screen import FakeViewer, black
from polyvisor.host.hypervisor.fake.workload import FakeWorkload
from polyvisor.host.paths import CONSOLE, JOURNAL
from polyvisor.host.sparse import copy_sparse
from polyvisor.model.faults import Internal, TimedOut, Unavailable, Unsupported
from polyvisor.model.host import Blueprint, DiskCounts, Sight
from polyvisor.model.ids import InstanceId, machine_uuid
from polyvisor.model.instance import RunRecord
from polyvisor.model.spec import Display, Spec
from polyvisor.ports.hypervisor import Cpu, DiskFile, Gone, Layout, Machine, NicPlug, Saved

_FILE = "fake.json"
_SLOTS = 4


Facts = dict[str, Any]


def boot() -> str:
    """The kernel's id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read_facts(file: Path, boot_id: str) -> Facts | None:
    """What a machine's file says; None: there is no machine, or there was one before the host was started anew."""
    try:
        facts: Facts = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return facts if facts.get("boot") == boot_id else None


class FakeVm:
    """A LiveVm whose state is a file in the machine's directory."""

    def __init__(self, machine: Machine, record: RunRecord, knob: Knob) -> None:
        self.record = record
        self.id: InstanceId = machine.blueprint.id
        self._machine = machine
        self._file = machine.directory / _FILE
        self._knob = knob
        self._guest = FakeGuest(machine.blueprint.spec.hostname or machine.blueprint.name, self._run)
        self._over = asyncio.Event()
        self._workload: FakeWorkload | None = None
        self._ram: int | None = None
        if self._state() in (Sight.ENDED, Sight.GONE):
            self._over.set()

    def _facts(self) -> Facts:
        return read_facts(self._file, self.record.boot_id) or {}

    trouble = ""
    rebooting = False

    def _state(self) -> Sight:
        return Sight(self._facts().get("state", Sight.GONE))

    def set(self, state: Sight) -> None:
        """Let it be so; tests use this to make the guest do something by itself."""
        self._write(state, self.disks())
        if state in (Sight.ENDED, Sight.GONE):
            self._over.set()

    def disks(self) -> frozenset[str]:
        """The serials of the disks that are plugged in."""
        return frozenset(self._facts().get("disks", ()))

    def written(self) -> dict[str, int]:
        """By serial, the overlay of a disk that it was switched to since it was launched."""
        return dict(self._facts().get("written", {}))

    def _write(self, state: Sight, disks: Collection[str], **more: Any) -> None:
        run = self.record
        facts = {"state": state, "pid": run.pid, "ticks": run.start_ticks, "uuid": run.uuid, "boot": run.boot_id}
        part = self._file.with_suffix(".part")
        kept = {name: known[name] for known in [self._facts()] for name in ("memory",) if name in known}
        part.write_text(json.dumps(kept | facts | {"disks": sorted(disks), "written": self.written()} | more))
        part.replace(self._file)

    def start(self) -> None:
        """The machine comes into being."""
        self._over.clear()
        memory = self._machine.memory
        if memory is not None and isinstance(memory.file, int):
            self._ram = os.dup(memory.file)
        self._write(Sight.RUNNING, [disk.serial for disk in self._machine.disks], written={})
        self._begin()

    def _begin(self) -> None:
        spec = self._machine.blueprint.spec
        self._guest.begin(spec.argv, dict(spec.env))

    def _run(self, argv: Sequence[str]) -> None:
        journal = self._machine.directory / JOURNAL
        self._workload = FakeWorkload(self._guest, argv, journal, lambda: self.set(Sight.ENDED))

    async def _heard(self, verb: str) -> None:
        await self._knob.turn(verb, self.id)
        if self.id in self._knob.deaf:
            raise TimedOut("the machine does not answer")
        if self._state() is Sight.GONE:
            raise Unavailable("the instance does not run")

    async def status(self) -> Sight:
        """See LiveVm."""
        state = self._state()
        return Sight.DEAF if state is not Sight.GONE and self.id in self._knob.deaf else state

    async def press(self) -> None:
        """See LiveVm."""
        await self._heard("press")
        if self.id not in self._knob.stubborn:
            if self._workload is not None:
                await self._workload.terminate()
            self.set(Sight.ENDED)

    async def kill(self) -> None:
        """See LiveVm."""
        await self._knob.turn("kill", self.id)
        self._file.unlink(missing_ok=True)
        self._over.set()
        await self.close()

    async def pause(self) -> None:
        """See LiveVm."""
        await self._heard("pause")
        self.set(Sight.PAUSED)

    async def resume(self) -> None:
        """See LiveVm."""
        await self._heard("resume")
        if self._state() is Sight.ENDED:
            raise Internal("the machine has ended")
        self.set(Sight.RUNNING)

    async def reset(self) -> None:
        """See LiveVm."""
        await self._heard("reset")
        if self._workload is not None:
            await self._workload.close()
        self._guest.restart()
        self._begin()

    async def save(self, devices: Path) -> Layout:
        """See LiveVm. What it has in memory are its guest's files, and whether the guest was told what it is for."""
        await self._heard("save")
        files = {name: data.hex() for name, data in self._guest.files.items()}
        disks = sorted(self.disks())
        facts = {"files": files, "disks": disks, "env": self._guest.env, "configured": self._guest.configured}
        facts["memory"] = await self.memory()
        devices.write_text(json.dumps(facts))
        return Layout(_SLOTS, {serial: slot for slot, serial in enumerate(disks)}, balloon=True)

    async def dump(self, pages: int) -> None:
        """See LiveVm."""
        await self._heard("dump")

    def load(self, saved: Saved) -> None:
        """The machine comes into being as what was saved, vCPUs stopped."""
        facts = json.loads(saved.devices.read_text())
        self._guest.files = {name: bytes.fromhex(data) for name, data in facts["files"].items()}
        self._over.clear()
        self._write(Sight.PAUSED, facts["disks"], memory=facts.get("memory", self._machine.blueprint.spec.memory))
        if facts["configured"]:
            self._begin()
        else:
            self._guest.env = facts["env"]

    async def balloon(self, size: int) -> None:
        """See LiveVm. Its guest obeys at once, down to what `knob.needs` says."""
        await self._heard("balloon")
        least = self._knob.needs.get(self.id, 0)
        self._write(self._state(), self.disks(), memory=max(size, least))

    async def memory(self) -> int:
        """See LiveVm."""
        await self._heard("memory")
        return int(self._facts().get("memory", self._machine.blueprint.spec.memory))

    def ram(self) -> Path | None:
        """See LiveVm. A machine that is adopted has none."""
        return None if self._ram is None else Path(f"/proc/self/fd/{self._ram}")

    async def disk_counts(self) -> Mapping[str, DiskCounts]:
        """See LiveVm. Nobody reads or writes: only that there are disks is true."""
        await self._heard("disk_counts")
        return dict.fromkeys(self.disks(), DiskCounts())

    async def link(self, *, up: bool) -> None:
        """See LiveVm."""
        await self._heard("link")

    async def announce(self) -> None:
        """See LiveVm."""
        await self._heard("announce")

    async def attach(self, disk: DiskFile) -> None:
        """See LiveVm."""
        await self._heard("attach")
        plugged = self.disks()
        if disk.serial not in plugged and len(plugged) >= _SLOTS:
            raise Unsupported("no free slot to attach another disk", field="volume")
        self._write(self._state(), plugged | {disk.serial})

    async def detach(self, serial: str) -> None:
        """See LiveVm."""
        await self._heard("detach")
        self._write(self._state(), self.disks() - {serial})

    async def plug_nic(self, wanted: NicPlug) -> None:
        """See LiveVm."""
        await self._heard("plug_nic")
        self._write(self._state(), self.disks() | {"nic" + wanted.mac.replace(":", "")})

    async def unplug_nic(self, mac: str) -> None:
        """See LiveVm."""
        await self._heard("unplug_nic")
        name = "nic" + mac.replace(":", "")
        if name not in self.disks():
            raise Unsupported("a NIC that was there at its start stays until it is off", field="nics")
        self._write(self._state(), self.disks() - {name})

    async def grow(self, serial: str, size: int) -> None:
        """See LiveVm."""
        await self._heard("grow")

    async def switch(self, disk: DiskFile, *, ahead: bool = False) -> None:
        """See LiveVm."""
        await self._heard("switch")
        if ahead:
            return
        self._write(self._state(), self.disks(), written=self.written() | {disk.serial: disk.generation})

    async def backup(self, pairs: Sequence[tuple[DiskFile, DiskFile]]) -> None:
        """See LiveVm."""
        await self._heard("backup")
        for source, target in pairs:
            await asyncio.to_thread(copy_sparse, source.path, target.path)

    async def guest(self) -> FakeGuest:
        """See LiveVm."""
        if self._state() in (Sight.GONE, Sight.ENDED) or self.id in self._knob.deaf:
            raise Unavailable("the instance does not run")
        return self._guest

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    async def gone(self) -> None:
        """See LiveVm."""
        await self._over.wait()

    def console(self) -> AsyncIterator[bytes]:
        """See LiveVm."""
        return follow_file(self._machine.directory / CONSOLE, lambda: self._state() is not Sight.GONE)

    async def type(self, data: bytes) -> None:
        """See LiveVm. What is typed is echoed, as a terminal would."""
        if self._state() is Sight.GONE:
            raise Unavailable("the instance does not run")
        with (self._machine.directory / CONSOLE).open("ab") as file:
            file.write(data)

    async def picture(self) -> bytes:
        """See LiveVm."""
        await self._heard("picture")
        screen = self._screen()
        return black(screen.width, screen.height)

    async def view(self) -> FakeViewer:
        """See LiveVm."""
        await self._heard("view")
        self._screen()
        return FakeViewer(self._over)

    def _screen(self) -> Display:
        displays = self._machine.blueprint.spec.displays
        if not displays:
            raise Unsupported("the machine has no screen", field="displays")
        return displays[0]

    async def close(self) -> None:
        """See LiveVm."""
        if self._ram is not None:
            os.close(self._ram)
            self._ram = None
        if self._workload is not None:
            await self._workload.close()
        await self._guest.close()


class FakeHypervisor:
    """A Hypervisor."""

    name = "fake"
    version = "1"
    accelerator = "none"
    abilities = frozenset({"micro", "bios", "uefi", "hotplug", "memory", "balloon", "tpm"})
    cpu = Cpu("none")

    def __init__(self, instances: Path, knob: Knob | None = None, boot_id: str = "") -> None:
        self.knob = knob or Knob()
        self.vms: dict[InstanceId, FakeVm] = {}  # by whom tests let guests do something
        self._instances = instances
        self._boot_id = boot_id or boot()
        self._next_pid = time.time_ns() // 1_000_000 % 10**9

    def machine(self, spec: Spec) -> str:
        """See Hypervisor."""
        return f"fake {spec.shape}" + (" tpm" if spec.has_tpm else "")

    def check(self, blueprint: Blueprint) -> None:
        """See Hypervisor."""
        if blueprint.spec.tpm.id and "tpm" not in self.abilities:
            raise Unsupported("tpm: swtpm is not installed here (Debian: swtpm)", field="tpm")

    async def launch(self, machine: Machine) -> FakeVm:
        """See Hypervisor."""
        await self.knob.turn("launch", machine.blueprint.id)
        self._next_pid += 1
        vm = FakeVm(machine, self._record(machine, self._next_pid, time.monotonic_ns()), self.knob)
        with (machine.directory / CONSOLE).open("ab") as console:
            console.write(b"fake console\n")
        vm.start()
        return self._held(vm)

    async def restore(self, machine: Machine, saved: Saved) -> FakeVm:
        """See Hypervisor."""
        await self.knob.turn("restore", machine.blueprint.id)
        self._next_pid += 1
        vm = FakeVm(machine, self._record(machine, self._next_pid, time.monotonic_ns()), self.knob)
        vm.load(saved)
        return self._held(vm)

    def _held(self, vm: FakeVm) -> FakeVm:
        self.vms = {id: known for id, known in self.vms.items() if not known.over} | {vm.id: vm}
        return vm

    async def adopt(self, machine: Machine, record: RunRecord) -> FakeVm:
        """See Hypervisor."""
        await self.knob.turn("adopt", machine.blueprint.id)
        facts = read_facts(machine.directory / _FILE, self._boot_id)
        if facts is None or (facts["pid"], facts["ticks"]) != (record.pid, record.start_ticks):
            raise Gone(record.uuid)
        return self._held(FakeVm(machine, record, self.knob))

    def proof(self, machine: Machine, pid: int) -> RunRecord:
        """See Hypervisor."""
        facts = read_facts(machine.directory / _FILE, self._boot_id) or {}
        return self._record(machine, pid, int(facts.get("ticks", 0)))

    def _record(self, machine: Machine, pid: int, ticks: int) -> RunRecord:
        uuid = machine_uuid(machine.blueprint.id)
        return RunRecord(1, self._boot_id, pid, ticks, uuid, "fake", self.version, self.accelerator, time.time())

    def find(self) -> list[tuple[int, str]]:
        """See Hypervisor."""
        seen = (read_facts(file, self._boot_id) for file in self._instances.glob(f"*/{_FILE}"))
        return [(int(facts["pid"]), str(facts["uuid"])) for facts in seen if facts is not None]

    async def sweep(self, instances: Path, running: Collection[str]) -> None:
        """See Hypervisor. Its machines have nothing beside them."""
