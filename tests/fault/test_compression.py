"""Compressed memory: a good image is there at every moment, and whoever needs it never waits for the compressing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fault.world import LIMIT, ROOT, World
from polyvisor.engine.packing import CompressionPolicy
from polyvisor.host.memory import packing
from polyvisor.host.memory.packed import pack
from polyvisor.model.compression import Algorithm, Compression, Packing, PackState
from polyvisor.model.faults import Invalid, NoCapacity, WrongState
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Phase
from polyvisor.model.operation import Outcome
from polyvisor.model.request import Create
from polyvisor.model.snapshot import Snapshot, SnapshotKind
from polyvisor.model.units import MIB, Bytes, Seconds

ZSTD, LZ4 = Compression(Algorithm.ZSTD, 1), Compression(Algorithm.LZ4, 0)


def scribble(world: World, id: InstanceId) -> bytes:
    """Let the machine have something in memory; what all of it is then."""
    with world.memory(id).open("r+b") as file:
        for at in (0, 5 * MIB, 64 * MIB):
            os.pwrite(file.fileno(), os.urandom(4096) + b"again" * 4096, at)
    return world.memory(id).read_bytes()


def pages(world: World) -> list[str]:
    """The files of pages on disk."""
    return sorted(path.name for path in world.paths.memory.rglob("pages*"))


async def until(true: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(LIMIT):
        while not true():
            await asyncio.sleep(0.01)


async def asleep(world: World, compression: Compression | None = ZSTD, delay: float = 0.0) -> tuple[InstanceId, bytes]:
    """An instance in standby, and what it has in memory."""
    id = await world.create()
    held = scribble(world, id)
    suspend = world.engine.power.suspend(ROOT, id, compression=compression, delay=Seconds(delay))
    assert (await world.ask(suspend)).outcome is Outcome.DONE
    return id, held


async def awake(world: World, id: InstanceId) -> bytes:
    """What it has in memory once it goes on, in a file of its own: what was compressed is not mapped from the disk."""
    await resume(world, id)
    return world.memory(id).read_bytes()


async def resume(world: World, id: InstanceId) -> None:
    """It goes on."""
    assert (await world.ask(world.engine.power.resume(ROOT, id))).outcome is Outcome.DONE


async def snapshot(world: World, id: InstanceId, compression: Compression | None = ZSTD) -> Snapshot:
    """Of disk and memory."""
    taken = await world.engine.snapshots.create(ROOT, id, "snap", SnapshotKind.FULL, compression=compression)
    assert taken.asked is not None and taken.asked.operation is not None
    done = await world.waits.finished(id, taken.asked.operation, LIMIT)
    assert done.outcome is Outcome.DONE
    return await world.engine.snapshots.get(ROOT, "snap")


async def settled(world: World) -> Snapshot:
    """The snapshot, once its compression is over."""
    async with asyncio.timeout(LIMIT):
        while (found := await world.engine.snapshots.get(ROOT, "snap")).packed.state is PackState.COMPRESSING:
            await asyncio.sleep(0.01)
            await world.engine.snapshots.follow()
    return found


async def fork(world: World) -> InstanceId:
    """An instance made from the snapshot, running."""
    asked = await world.engine.instances.create(ROOT, Create(snapshot="snap"))
    await world.phase(asked.instance.id, Phase.RUNNING)
    return asked.instance.id


class Slow:
    """Compressing takes until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go, self.times = asyncio.Event(), asyncio.Event(), 0
        monkeypatch.setattr(packing, "pack", self)

    async def __call__(self, plain: Path, compression: Compression) -> tuple[Path, Bytes]:
        self.times += 1
        self.begun.set()
        await self.go.wait()
        return await pack(plain, compression)


@pytest.mark.parametrize("compression", [ZSTD, LZ4])
async def test_standby_is_compressed_and_goes_on(world: World, compression: Compression) -> None:
    id, held = await asleep(world, compression)
    name = "pages.ram.zst" if compression is ZSTD else "pages.ram.lz4"
    await until(lambda: pages(world) == [name])
    await world.check(id)
    await world.again()
    assert await awake(world, id) == held
    await world.check(id)
    assert pages(world) == []


async def test_it_is_off_unless_somebody_asks(world: World) -> None:
    id, _ = await asleep(world, None)
    await until(lambda: pages(world) == ["pages.ram"])
    assert (await world.get(id)).intent.packing == Packing()
    await resume(world, id)
    await world.engine.instances.update(ROOT, id, policy=CompressionPolicy(LZ4, Seconds(0.0)))
    await world.ask(world.engine.power.suspend(ROOT, id))
    await until(lambda: pages(world) == ["pages.ram.lz4", "pages.ram.lz4"])  # what it lies on went along
    with pytest.raises(WrongState) as refused:
        await world.engine.power.suspend(ROOT, id, compression=ZSTD)
    assert refused.value.field == "compression"
    await awake(world, id)
    await world.ask(world.engine.power.suspend(ROOT, id, compression=Compression()))
    await until(lambda: pages(world) == ["pages.ram"])


async def test_who_is_woken_does_not_wait_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    id, held = await asleep(world)
    await asyncio.wait_for(slow.begun.wait(), LIMIT)
    restored = world.paths.memory / world.host._memory_files._records.of(id).saved / "pages.ram"
    assert restored.read_bytes() == held
    await resume(world, id)
    await until(lambda: not world.host._memory_files._packer._jobs)
    assert slow.times == 1  # nor is what its process maps
    await world.check(id)


async def test_a_delay_is_waited_for(world: World) -> None:
    id, held = await asleep(world, delay=3600.0)
    await until(lambda: pages(world) == ["pages.ram"])
    await world.again()
    await until(lambda: len(world.host._memory_files._packer._jobs) == 1)  # begun in the background
    assert pages(world) == ["pages.ram"]
    await world.engine.power.resume(ROOT, id)
    await world.phase(id, Phase.RUNNING)
    await world.ask(world.engine.power.suspend(ROOT, id, compression=ZSTD))
    await until(lambda: "pages.ram.zst" in pages(world))
    assert held


@pytest.mark.parametrize("left", ["half of it", "both of them", "a file in RAM"])
async def test_what_a_killed_server_left_does_no_harm(world: World, left: str) -> None:
    id, held = await asleep(world)
    await until(lambda: pages(world) == ["pages.ram.zst"])
    folder = next(world.paths.memory.iterdir())
    await world.end()
    if left == "half of it":
        (folder / "pages.ram.zst").unlink()
        (folder / "pages.ram").write_bytes(held)
        (folder / "pages.ram.part").write_bytes(b"half")
    elif left == "both of them":
        (folder / "pages.ram").write_bytes(held)
        (folder / "pages.part").write_bytes(b"half")
    else:
        world.paths.shm.mkdir(exist_ok=True)
        world.memory(id).write_bytes(b"half")
    await world.begin()
    await until(lambda: pages(world) == ["pages.ram.zst"])
    await world.check(id)
    assert await awake(world, id) == held
    await until(lambda: pages(world) == [])


async def test_without_room_it_stays_as_it_is_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(plain: Path, compression: Compression) -> tuple[Path, Bytes]:
        raise NoCapacity("no room to compress it in")

    monkeypatch.setattr(packing, "pack", no_room)
    id = await world.create()
    held = scribble(world, id)
    await snapshot(world, id)
    found = await settled(world)
    assert (found.packed.state, found.packed.error) == (PackState.ERROR, "no room to compress it in")
    assert pages(world) == ["pages.ram"]
    await world.again()
    copy = await fork(world)
    assert (await world.engine.snapshots.get(ROOT, "snap")).packed.state is PackState.ERROR
    for each in (id, copy):
        await world.check(each)
    assert (world.paths.memory / found.id / "pages.ram").read_bytes() == held


async def test_no_room_to_unpack_leaves_it_in_standby(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id, held = await asleep(world)
    await until(lambda: pages(world) == ["pages.ram.zst"])

    def no_room(*args: object) -> None:
        raise NoCapacity("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("polyvisor.host.memory.files.assemble", no_room)
        assert (await world.ask(world.engine.power.resume(ROOT, id))).outcome is Outcome.FAILED
    await world.check(id)
    with monkeypatch.context() as patched:  # nor in RAM: then it is unpacked on the disk, and mapped from there
        patched.setattr(world.host._memory_files._ram, "have_room_for", lambda size: False)
        assert (await world.ask(world.engine.power.resume(ROOT, id))).outcome is Outcome.DONE
    plain = world.paths.memory / world.host._memory_files._records.of(id).base / "pages.ram"
    assert plain.read_bytes() == held
    await world.check(id)
    await world.ask(world.engine.power.suspend(ROOT, id, compression=ZSTD))
    await until(lambda: pages(world) == ["pages.ram.zst", "pages.ram.zst"])  # what it lies on went along
    assert await awake(world, id) == held
    await world.check(id)
    assert pages(world) == []


async def test_a_snapshot_is_compressed_told_and_forked(world: World) -> None:
    id = await world.create()
    held = scribble(world, id)
    first = await snapshot(world, id)
    assert (first.compression, first.packed.state) == (ZSTD, PackState.COMPRESSING)
    found = await settled(world)
    assert found.packed.state is PackState.COMPRESSED
    assert 0 < found.packed.packed < found.packed.plain
    assert pages(world) == ["pages.ram.zst"]
    assert (await world.engine.snapshots.get(ROOT, "snap")).size < first.size
    assert [e.data["state"] for e in await world.events(InstanceId(found.id)) if e.kind == "snapshot.compression"] == [
        "compressed"
    ]
    await world.again()  # what its memory was is not at hand any more
    copies = [await fork(world), await fork(world)]
    base = world.host._memory_files._bases._fds[found.id]
    assert os.pread(base, len(held), 0) == held
    await world.ask(world.engine.power.suspend(ROOT, copies[0], compression=LZ4))
    await until(lambda: pages(world) == ["pages.ram.lz4", "pages.ram.zst"])
    await world.ask(world.engine.power.resume(ROOT, copies[0]))
    assert (await world.engine.snapshots.get(ROOT, "snap")).packed == found.packed
    for each in (id, *copies):
        await world.check(each)
    await until(lambda: pages(world) == ["pages.ram.zst"])
    await world.engine.snapshots.delete(ROOT, "snap")
    assert not (world.paths.memory / found.id / "pages.ram").exists()


async def test_forks_and_snapshots_come_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    id = await world.create()
    scribble(world, id)
    await snapshot(world, id)
    await asyncio.wait_for(slow.begun.wait(), LIMIT)
    await fork(world)
    await until(lambda: slow.times > 1)  # it has begun anew
    slow.go.set()
    assert (await settled(world)).packed.state is PackState.COMPRESSED


async def test_a_snapshot_of_one_in_standby_has_its_own_way(world: World) -> None:
    id, held = await asleep(world)
    await until(lambda: pages(world) == ["pages.ram.zst"])
    await snapshot(world, id, Compression())
    found = await settled(world)
    assert found.packed.state is PackState.NONE
    assert pages(world) == ["pages.ram.zst", "pages.ram.zst"]  # one file of two names
    assert await awake(world, id) == held
    await fork(world)
    await world.check(id)


async def test_a_disk_has_no_memory_to_compress(world: World) -> None:
    id = await world.create()
    with pytest.raises(Invalid) as refused:
        await world.engine.snapshots.create(ROOT, id, "snap", SnapshotKind.DISK, compression=ZSTD)
    assert refused.value.field == "compression"
    await world.engine.instances.update(ROOT, id, policy=CompressionPolicy(ZSTD))
    assert (await world.snapshot(id)).packed.state is PackState.NONE


async def test_what_is_deleted_is_compressed_no_longer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    id, _ = await asleep(world)
    await asyncio.wait_for(slow.begun.wait(), LIMIT)
    await world.engine.power.delete(ROOT, id)
    assert await world.until(id, lambda i: False) is None
    await until(lambda: not list(world.paths.memory.iterdir()))
    assert not world.host._memory_files._packer._jobs
    await world.check(id)
