"""The fake driver: a machine is a file that says how it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from polyvisor.host.console import follow_file
from polyvisor.host.hypervisor.fake.guest import FakeGuest
from polyvisor.host.hypervisor.fake.knob import Knob
from polyvisor.host.paths import CONSOLE
from polyvisor.model.faults import TimedOut, Unavailable, Unsupported
from polyvisor.model.host import Blueprint, Sight
from polyvisor.model.ids import InstanceId, machine_uuid
from polyvisor.model.instance import RunRecord
from polyvisor.ports.hypervisor import DiskFile, Gone, Machine

_FILE = "fake.json"
_SLOTS = 4


class FakeVm:
    """A LiveVm whose state is a file in the machine's directory."""

    def __init__(self, machine: Machine, record: RunRecord, knob: Knob) -> None:
        self.record = record
        self.id: InstanceId = machine.blueprint.id
        self._machine = machine
        self._file = machine.directory / _FILE
        self._knob = knob
        self._guest = FakeGuest(machine.blueprint.spec.hostname or machine.blueprint.name)
        self._over = asyncio.Event()
        self._plugged: set[str] = set()

    def _state(self) -> str:
        try:
            return str(json.loads(self._file.read_text())["state"])
        except (OSError, ValueError, KeyError):
            return Sight.GONE

    def set(self, state: Sight) -> None:
        """Let it be so; tests use this to make the guest do something by itself."""
        self._file.write_text(json.dumps({"state": state, "pid": self.record.pid, "uuid": self.record.uuid}))
        if state in (Sight.ENDED, Sight.GONE):
            self._over.set()

    async def _heard(self, verb: str) -> None:
        await self._knob.turn(verb, self.id)
        if self.id in self._knob.deaf:
            raise TimedOut("the machine does not answer")

    async def status(self) -> Sight:
        """See LiveVm."""
        state = self._state()
        if state != Sight.GONE and self.id in self._knob.deaf:
            return Sight.DEAF
        return Sight(state)

    async def press(self) -> None:
        """See LiveVm."""
        await self._heard("press")
        if self.id not in self._knob.stubborn:
            self.set(Sight.ENDED)

    async def kill(self) -> None:
        """See LiveVm."""
        await self._knob.turn("kill", self.id)
        self._file.unlink(missing_ok=True)
        self._over.set()
        await self._guest.close()

    async def pause(self) -> None:
        """See LiveVm."""
        await self._heard("pause")
        self.set(Sight.PAUSED)

    async def resume(self) -> None:
        """See LiveVm."""
        await self._heard("resume")
        self.set(Sight.RUNNING)

    async def reset(self) -> None:
        """See LiveVm."""
        await self._heard("reset")

    async def attach(self, disk: DiskFile) -> None:
        """See LiveVm."""
        await self._heard("attach")
        if disk.serial not in self._plugged and len(self._plugged) >= _SLOTS:
            raise Unsupported("no free slot to attach another disk", field="volume")
        self._plugged.add(disk.serial)

    async def detach(self, serial: str) -> None:
        """See LiveVm."""
        await self._heard("detach")
        self._plugged.discard(serial)

    async def grow(self, serial: str, size: int) -> None:
        """See LiveVm."""
        await self._heard("grow")

    async def guest(self) -> FakeGuest:
        """See LiveVm."""
        if self._state() == Sight.GONE or self.id in self._knob.deaf:
            raise Unavailable("the instance does not run")
        return self._guest

    async def gone(self) -> None:
        """See LiveVm."""
        await self._over.wait()

    def console(self) -> AsyncIterator[bytes]:
        """See LiveVm."""
        return follow_file(self._machine.directory / CONSOLE, lambda: self._state() != Sight.GONE)

    async def type(self, data: bytes) -> None:
        """See LiveVm. What is typed is echoed, as a terminal would."""
        with (self._machine.directory / CONSOLE).open("ab") as file:
            file.write(data)

    async def close(self) -> None:
        """See LiveVm."""
        await self._guest.close()


class FakeHypervisor:
    """A Hypervisor."""

    name = "fake"
    version = "1"
    accelerator = "none"
    abilities = frozenset({"micro", "bios", "uefi", "hotplug"})

    def __init__(self, instances: Path, knob: Knob | None = None) -> None:
        self.knob = knob or Knob()
        self._instances = instances
        self._next_pid = 1_000_000

    def check(self, blueprint: Blueprint) -> None:
        """See Hypervisor."""

    async def launch(self, machine: Machine) -> FakeVm:
        """See Hypervisor."""
        await self.knob.turn("launch", machine.blueprint.id)
        self._next_pid += 1
        vm = FakeVm(machine, self.proof(machine, self._next_pid), self.knob)
        (machine.directory / CONSOLE).write_bytes(b"fake console\n")
        vm.set(Sight.RUNNING)
        return vm

    async def adopt(self, machine: Machine, record: RunRecord) -> FakeVm:
        """See Hypervisor."""
        if not (machine.directory / _FILE).exists():
            raise Gone(record.uuid)
        return FakeVm(machine, record, self.knob)

    def proof(self, machine: Machine, pid: int) -> RunRecord:
        """See Hypervisor."""
        return RunRecord(1, "fake", pid, 0, machine_uuid(machine.blueprint.id), "fake", "1", "none", time.time())

    def find(self) -> list[tuple[int, str]]:
        """See Hypervisor."""
        found = []
        for file in self._instances.glob(f"*/{_FILE}"):
            try:
                facts = json.loads(file.read_text())
                found.append((int(facts["pid"]), str(facts["uuid"])))
            except (OSError, ValueError, KeyError):
                continue
        return found
