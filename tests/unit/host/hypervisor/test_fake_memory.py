"""The fake machine's memory: a copy of one that was booted for nothing waits to be told what it is for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from polyvisor.host.boot import guest_config
from polyvisor.host.hypervisor.fake.driver import FakeHypervisor
from polyvisor.host.paths import JOURNAL
from polyvisor.model.guest import Exec, Exit, Output
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes
from polyvisor.ports.hypervisor import Layout, Machine, Saved

TEMPLATE = Spec(Digest("sha256:0"), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(96 * MIB), Bytes(64 * MIB))
SPEC = replace(TEMPLATE, argv=("sh", "-c", "echo told; sleep 99"), env=(("A", "B"),))


def machine(folder: Path, name: str, spec: Spec) -> Machine:
    """One in a folder of its own."""
    (folder / name).mkdir()
    return Machine(Blueprint(InstanceId(name), 1, ProjectId("p"), name, spec, None), folder / name, (), None)


async def test_a_copy_has_the_workload_that_it_is_told(tmp_path: Path) -> None:
    driver, saved = FakeHypervisor(tmp_path), Saved(tmp_path / "saved", Layout(4, {}))
    await (await driver.launch(machine(tmp_path, "template", TEMPLATE))).save(saved.devices)
    copy = machine(tmp_path, "copy", SPEC)
    vm = await driver.restore(copy, saved)
    await vm.resume()
    await asyncio.sleep(0.01)
    assert not (copy.directory / JOURNAL).exists()
    guest = await vm.guest()
    await guest.configure(guest_config(copy.blueprint))
    process = await guest.execute(Exec(("env",), {"C": "D"}))
    assert [await process.read(), await process.read()] == [Output(1, b"A=B\nC=D\n"), Exit(0)]
    assert b"told\n" in (copy.directory / JOURNAL).read_bytes()
    await vm.save(saved.devices)
    await vm.kill()
    again = await driver.restore(machine(tmp_path, "again", SPEC), saved)  # it goes on, as one that was booted
    await asyncio.sleep(0.01)
    assert b"told\n" in (tmp_path / "again" / JOURNAL).read_bytes()
    await again.kill()
