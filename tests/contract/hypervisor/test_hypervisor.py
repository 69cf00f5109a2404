"""What a driver must do, whatever it drives."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from contract.hypervisor.conftest import Bench
from polyvisor.host.boot import guest_config
from polyvisor.host.guest.journal import follow_journal
from polyvisor.host.paths import CONSOLE, JOURNAL
from polyvisor.model.faults import Busy, Internal, Invalid, Unavailable
from polyvisor.model.guest import Exec, Exit, Identity, Output
from polyvisor.model.host import Sight
from polyvisor.model.ids import machine_uuid
from polyvisor.model.instance import same_process
from polyvisor.model.units import MIB
from polyvisor.ports.guest import Guest
from polyvisor.ports.hypervisor import Gone, Hypervisor, LiveVm, Machine

LIMIT = 60.0


async def ready(vm: LiveVm) -> Guest:
    """The agent inside, once it answers."""
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                guest = await vm.guest()
                await guest.until_ready()
                return guest
            except Unavailable:
                await asyncio.sleep(0.1)


async def ends(vm: LiveVm) -> None:
    """Wait until it has something to say."""
    async with asyncio.timeout(LIMIT):
        await vm.gone()


async def said(guest: Guest, *argv: str, stdin: bytes | None = None) -> tuple[bytes, bytes, Exit]:
    """All that a command says, and how it ends."""
    process = await guest.execute(Exec(argv))
    if stdin is not None:
        await process.write(stdin)
        await process.eof()
    out: dict[int, bytes] = {1: b"", 2: b""}
    async with asyncio.timeout(LIMIT):
        while isinstance(piece := await process.read(), Output):
            out[piece.fd] += piece.data
    await process.close()
    return out[1], out[2], piece


def test_it_is_a_hypervisor(bench: Bench) -> None:
    kept: Hypervisor = bench.driver
    assert kept.name
    assert kept.version
    assert kept.accelerator


async def test_every_driver_of_a_host_gives_guests_the_same_machine(bench: Bench, machine: Machine) -> None:
    spec, other = machine.blueprint.spec, await bench.another()
    assert bench.driver.machine(spec)
    assert other.machine(spec) == bench.driver.machine(spec)
    assert bench.driver.cpu.model
    assert other.cpu == bench.driver.cpu


async def test_a_launched_machine_runs_and_its_record_proves_it(bench: Bench, machine: Machine, vm: LiveVm) -> None:
    assert await vm.status() is Sight.RUNNING
    uuid = machine_uuid(machine.blueprint.id)
    assert vm.record.uuid == uuid
    assert (vm.record.pid, uuid) in bench.driver.find()
    assert same_process(bench.driver.proof(machine, vm.record.pid), vm.record)
    assert vm.record.started > 0


async def test_each_run_of_a_machine_is_another_process(bench: Bench, machine: Machine, vm: LiveVm) -> None:
    first = vm.record
    await vm.kill()
    again = await bench.driver.launch(machine)
    try:
        assert not same_process(first, again.record)
        with pytest.raises(Gone):
            await bench.driver.adopt(machine, first)
    finally:
        await again.kill()
        await again.close()


async def test_pause_and_resume_may_be_repeated(vm: LiveVm) -> None:
    for _ in range(2):
        await vm.pause()
        assert await vm.status() is Sight.PAUSED
    for _ in range(2):
        await vm.resume()
        assert await vm.status() is Sight.RUNNING


async def test_a_reset_machine_runs_on_in_the_same_process(vm: LiveVm) -> None:
    before = vm.record
    await vm.reset()
    assert await vm.status() is Sight.RUNNING
    assert same_process(before, vm.record)
    await ready(vm)


async def test_a_guest_that_powers_off_has_ended_and_its_process_stays_to_say_so(bench: Bench, vm: LiveVm) -> None:
    await ready(vm)
    await bench.power_off(vm)
    await ends(vm)
    assert await vm.status() is Sight.ENDED
    assert (vm.record.pid, vm.record.uuid) in bench.driver.find()


async def test_a_killed_machine_is_gone_and_may_be_killed_again(bench: Bench, machine: Machine, vm: LiveVm) -> None:
    for _ in range(2):
        await vm.kill()
        assert await vm.status() is Sight.GONE
    await ends(vm)
    assert (vm.record.pid, vm.record.uuid) not in bench.driver.find()
    for ask in (vm.press, vm.pause, vm.resume, vm.reset):
        with pytest.raises(Unavailable):
            await ask()
    with pytest.raises(Unavailable):
        await vm.guest()


async def test_a_paused_machine_can_be_killed(vm: LiveVm) -> None:
    await vm.pause()
    await vm.kill()
    assert await vm.status() is Sight.GONE


@pytest.mark.parametrize("state", [Sight.RUNNING, Sight.PAUSED, Sight.ENDED])
async def test_a_machine_is_adopted_as_it_is(state: Sight, bench: Bench, machine: Machine, vm: LiveVm) -> None:
    await ready(vm)
    disk = bench.disk()
    await vm.attach(disk)
    if state is Sight.PAUSED:
        await vm.pause()
    if state is Sight.ENDED:
        await bench.power_off(vm)
        await ends(vm)
    await vm.close()
    later = await bench.another()
    assert (vm.record.pid, vm.record.uuid) in later.find()
    adopted = await later.adopt(machine, vm.record)
    assert await adopted.status() is state
    if state is Sight.ENDED:
        await ends(adopted)
    if state is Sight.RUNNING:
        await ready(adopted)
        await adopted.detach(disk.serial)
    await adopted.kill()
    await adopted.close()
    with pytest.raises(Gone):
        await (await bench.another()).adopt(machine, vm.record)


async def test_a_disk_is_attached_and_detached_and_both_may_be_repeated(bench: Bench, vm: LiveVm) -> None:
    await ready(vm)
    one, two = bench.disk(), bench.disk()
    for _ in range(2):
        await vm.attach(one)
    await vm.attach(two)
    await vm.grow(one.serial, 1 << 20)
    for _ in range(2):
        await vm.detach(one.serial)
    await vm.attach(one)
    await vm.detach("no-such-disk")
    assert await vm.status() is Sight.RUNNING


async def test_what_plugged_disks_hold_is_copied_while_it_runs_and_nothing_of_it_is_left(
    bench: Bench, vm: LiveVm
) -> None:
    await ready(vm)
    disks = [bench.disk() for _ in range(2)]
    for number, disk in enumerate(disks):
        disk.path.write_bytes(bytes([number + 1]) * 300_000 + bytes((1 << 20) - 300_000))
        await vm.attach(disk)
    for _ in range(2):
        copies = [bench.disk() for _ in disks]
        for copy in copies:
            copy.path.write_bytes(bytes(1 << 20))
        await vm.backup(list(zip(disks, copies, strict=True)))
        assert [copy.path.read_bytes() for copy in copies] == [disk.path.read_bytes() for disk in disks]
    missing = bench.disk()
    missing.path.unlink()
    with pytest.raises((Internal, OSError)):
        await vm.backup([(disks[0], copies[0]), (missing, missing)])
    await vm.backup([(disks[0], copies[0])])
    assert await vm.status() is Sight.RUNNING
    for disk in disks:
        await vm.detach(disk.serial)


@pytest.mark.parametrize("state", [Sight.RUNNING, Sight.PAUSED, Sight.ENDED])
async def test_a_machine_is_switched_to_another_overlay_as_it_is(
    state: Sight, bench: Bench, machine: Machine, vm: LiveVm
) -> None:
    await ready(vm)
    if state is Sight.PAUSED:
        await vm.pause()
    if state is Sight.ENDED:
        await bench.power_off(vm)
        await ends(vm)
    assert await bench.written(vm) == 0
    for generation in (1, 2):
        disk = await bench.overlay(machine)
        assert disk.generation == generation
        await vm.switch(disk, ahead=True)
        assert await bench.written(vm) == generation - 1
        for _ in range(2):
            await vm.switch(disk)
            assert await bench.written(vm) == generation
    assert await vm.status() is state
    await vm.close()
    adopted = await (await bench.another()).adopt(machine, vm.record)
    await adopted.switch(disk)
    assert await bench.written(adopted) == 2
    await adopted.switch(await bench.overlay(machine))
    assert await bench.written(adopted) == 3
    await adopted.kill()
    with pytest.raises(Unavailable):
        await adopted.switch(disk)
    await adopted.close()


async def test_the_console_is_kept_in_a_file_over_runs(bench: Bench, machine: Machine, vm: LiveVm) -> None:
    await ready(vm)
    file = machine.directory / CONSOLE
    first = file.read_bytes()
    assert first
    await vm.kill()
    again = await bench.driver.launch(machine)
    try:
        await ready(again)
        await again.type(b"typed\n")
        now = file.read_bytes()
        assert now.startswith(first)
        assert len(now) > len(first)
    finally:
        await again.kill()
        await again.close()


async def test_a_guest_is_told_what_time_it_is_and_who_it_is(vm: LiveVm) -> None:
    guest = await ready(vm)
    await guest.set_clock()
    await guest.set_clock(1_000_000_000)
    await guest.take_identity(Identity("other", "ab" * 16, seed=bytes(range(32))))
    assert await said(guest, "hostname") == (b"other\n", b"", Exit(code=0))
    assert (await said(guest, "cat", "/etc/machine-id"))[0] == b"ab" * 16 + b"\n"
    with pytest.raises(Invalid) as caught:
        await guest.take_identity(Identity("third", "short"))
    assert caught.value.field == "machine_id"
    await guest.take_identity(Identity())
    assert (await said(guest, "hostname"))[0] == b"other\n"


async def test_a_guest_is_told_once_what_it_is_for(vm: LiveVm, machine: Machine) -> None:
    guest = await ready(vm)
    spec = replace(machine.blueprint.spec, env=(("A", "B"),), argv=("sh", "-c", "echo told; exit 3"))
    config = guest_config(replace(machine.blueprint, spec=spec))
    with pytest.raises(Invalid) as caught:
        await guest.configure(config + b"env\0none\0")
    assert caught.value.field == "env" and b"A=B\n" not in (await said(guest, "env"))[0]
    await guest.configure(guest_config(replace(machine.blueprint, spec=replace(spec, argv=()))))
    assert b"A=B\n" in (await said(guest, "env"))[0]
    with pytest.raises(Busy):
        await guest.configure(config)


async def test_what_a_guest_is_for_is_its_workload(vm: LiveVm, machine: Machine) -> None:
    guest = await ready(vm)
    spec = replace(machine.blueprint.spec, argv=("sh", "-c", "echo told; exit 3"))
    await guest.configure(guest_config(replace(machine.blueprint, spec=spec)))
    await ends(vm)
    records = [record async for record in follow_journal(machine.directory / JOURNAL, lambda: False)]
    assert [(record.stream, record.data, record.code) for record in records] == [
        ("start", b"", None), ("stdout", b"told\n", None), ("exit", b"", 3),
    ]  # fmt: skip


async def test_a_command_in_the_guest_has_streams_and_an_end(vm: LiveVm) -> None:
    guest = await ready(vm)
    assert await said(guest, "echo", "hello") == (b"hello\n", b"", Exit(code=0))
    out, err, end = await said(guest, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (out, err, end) == (b"out\n", b"err\n", Exit(code=7))
    assert (await said(guest, "cat", stdin=b"through"))[0] == b"through"
    assert (await said(guest, "no-such-command"))[2] == Exit(code=127)


async def test_a_command_ends_at_its_limit_or_by_a_signal(vm: LiveVm) -> None:
    guest = await ready(vm)
    slow = await guest.execute(Exec(("sleep", "60"), timeout=0.2))  # type: ignore[arg-type]  # seconds
    async with asyncio.timeout(LIMIT):
        assert (await slow.read()) == Exit(timed_out=True)
    killed = await guest.execute(Exec(("sleep", "60")))
    await killed.signal(9)
    async with asyncio.timeout(LIMIT):
        assert (await killed.read()) == Exit(signal=9)
    for process in (slow, killed):
        await process.close()


async def test_a_guest_gives_memory_up_and_takes_it_back(vm: LiveVm, machine: Machine) -> None:
    await ready(vm)
    whole = machine.blueprint.spec.memory
    assert await vm.memory() == whole
    for wanted in (whole - 24 * MIB, whole - 8 * MIB, whole):
        async with asyncio.timeout(LIMIT):
            await vm.balloon(wanted)
            while await vm.memory() != wanted:
                await asyncio.sleep(0.05)
