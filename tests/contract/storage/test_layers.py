"""Snapshots, forks and reverts on real disks, each cut short at every point where that leaves something else behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from contract.storage.disks import (
    IMAGE,
    Content,
    Killed,
    Killer,
    Machine,
    blueprint,
    chain,
    content,
    make_image,
    put,
)
from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage, layers
from polyvisor.host.storage.overlays import Overlays
from polyvisor.model.faults import Invalid, NoCapacity, NotFound
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest
from polyvisor.model.spec import Shape
from polyvisor.model.units import MIB, Bytes

SNAPSHOT_POINTS = ["layer made", "overlay made", "recorded", "switched", "held"]


class Bench:
    """A data directory with an image, and a storage on it that can be killed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(root / "data")
        self.paths.make()
        self.image = make_image(self.paths)
        self.storage = FileStorage(self.paths)

    def reborn(self) -> None:
        """Another manager."""
        self.storage = FileStorage(self.paths)

    async def made(self, *writes: tuple[int, int], size: int = MIB) -> Blueprint:
        """An instance, written to."""
        one = blueprint(size)
        await self.storage.make(one, self.image)
        self.write(one, *writes)
        return one

    async def forked(self, snapshot: str, size: int = MIB) -> Blueprint:
        """An instance that begins as a snapshot."""
        one = blueprint(size)
        await self.storage.make(one, self.image, snapshot)
        return one

    def disk(self, one: Blueprint) -> Path:
        """Its writable file."""
        return self.storage.disks(one, self.image)[0].path

    def write(self, one: Blueprint, *writes: tuple[int, int]) -> None:
        """Into an instance that does not run."""
        for cluster, byte in writes:
            put(self.disk(one), cluster, byte)

    def read(self, one: Blueprint) -> Content:
        """What it would find; headers and records must agree."""
        found = content(self.storage.disks(one, self.image)[0], self.root)
        assert found == content(self.disk(one), self.root)
        return found

    async def held(self, snapshot: str, size: int = MIB) -> Content:
        """What a snapshot holds: that which a fork of it finds."""
        fork = await self.forked(snapshot, size)
        found = self.read(fork)
        await self.storage.remove(fork.id)
        return found

    def layers(self) -> set[str]:
        """The layers there are."""
        return {folder.name for folder in self.paths.layers.iterdir()}

    async def snapshot(self, one: Blueprint, name: str, machine: Machine | None = None) -> None:
        """Take one."""
        await self.storage.snapshot(one, self.image, name, machine.switch if machine else None)

    async def assert_nothing_leaks(self, *known: Blueprint, snapshots: tuple[str, ...] = ()) -> None:
        """After a sweep there is what those need, and no file more."""
        await self.storage.sweep({one.id for one in known}, (), snapshots)
        needed = {file for one in known for file in chain(self.disk(one))}
        for name in snapshots:
            fork = await self.forked(name, 8 * MIB)
            needed |= set(chain(self.disk(fork))[1:])
            await self.storage.remove(fork.id)
        needed.discard(self.image)
        there = {file for kind in (self.paths.layers, self.paths.instances) for file in kind.rglob("*.qcow2")}
        assert there == needed
        assert list(self.paths.root.rglob("*.part")) == []
        assert {folder.name for folder in self.paths.snapshots.iterdir()} == set(snapshots)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Empty but for the image."""
    return Bench(tmp_path)


async def test_a_snapshot_stays_as_it_was_and_the_instance_goes_on(bench: Bench) -> None:
    one = await bench.made((2, 5), (3, 6))
    await bench.snapshot(one, "s")
    assert bench.read(one) == IMAGE | {2: 5, 3: 6}
    bench.write(one, (2, 7), (0, 0))
    assert bench.read(one) == {1: 0x12, 2: 7, 3: 6}
    assert await bench.held("s") == IMAGE | {2: 5, 3: 6}
    await bench.assert_nothing_leaks(one, snapshots=("s",))


async def test_an_empty_overlay_takes_up_next_to_nothing_and_the_layer_what_was_written(bench: Bench) -> None:
    one = await bench.made(*((cluster, 9) for cluster in range(8)))
    await bench.snapshot(one, "s")
    size = await bench.storage.snapshot_size("s")
    assert 8 * 64 * 1024 <= size < 16 * 64 * 1024
    assert bench.disk(one).stat().st_blocks * 512 < 8 * 64 * 1024
    with pytest.raises(NotFound):
        await bench.storage.snapshot_size("none")


async def test_a_snapshot_that_is_there_is_not_taken_again(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    bench.write(one, (2, 6))
    before = bench.disk(one)
    await bench.snapshot(one, "s")
    assert bench.disk(one) == before
    assert await bench.held("s") == IMAGE | {2: 5}


async def test_forks_share_what_they_began_with_and_nothing_else(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    first, second = await bench.forked("s"), await bench.forked("s")
    bench.write(first, (2, 6))
    bench.write(second, (3, 7))
    assert [bench.read(i) for i in (one, first, second)] == [IMAGE | {2: 5}, IMAGE | {2: 6}, IMAGE | {2: 5, 3: 7}]
    await bench.snapshot(first, "of the fork")
    assert await bench.held("of the fork") == IMAGE | {2: 6}
    await bench.assert_nothing_leaks(one, first, second, snapshots=("s", "of the fork"))


@pytest.mark.parametrize("order", [("i", "s"), ("s", "i")])
async def test_a_fork_outlives_what_it_came_from(order: tuple[str, str], bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    fork = await bench.forked("s")
    for what in order:
        await (bench.storage.remove(one.id) if what == "i" else bench.storage.remove_snapshot("s"))
        await bench.storage.sweep({fork.id} | ({one.id} if what == "s" else set()), (), ("s",) if what == "i" else ())
        assert bench.read(fork) == IMAGE | {2: 5}
    await bench.assert_nothing_leaks(fork)
    await bench.storage.remove(fork.id)
    assert bench.layers() == set()


async def test_a_fork_may_be_larger_and_not_smaller_nor_of_another_image(bench: Bench) -> None:
    one = await bench.made((2, 5), (31, 8), size=2 * MIB)
    await bench.snapshot(one, "s")
    larger = await bench.forked("s", 3 * MIB)
    bench.write(larger, (47, 9))
    assert bench.read(larger) == IMAGE | {2: 5, 31: 8, 47: 9}
    await bench.snapshot(larger, "larger")
    cases = [
        (blueprint(MIB), "s", "disk"),
        (blueprint(2 * MIB), "larger", "disk"),
        (blueprint(2 * MIB, Digest("sha256:1")), "s", "image"),
    ]
    for other, origin, field in cases:
        for refused in (bench.storage.make(other, bench.image, origin), self_revert(bench, other, origin)):
            with pytest.raises(Invalid) as caught:
                await refused
            assert caught.value.field == field
    with pytest.raises(NotFound):
        await bench.forked("none")


async def self_revert(bench: Bench, one: Blueprint, snapshot: str) -> None:
    """Revert a new instance."""
    other = replace(one, id=blueprint().id)
    await bench.storage.make(other, bench.image)
    await bench.storage.revert(other, bench.image, snapshot)


async def test_a_revert_brings_back_what_the_snapshot_holds_and_may_be_repeated(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    bench.write(one, (2, 6))
    await bench.snapshot(one, "t")
    for _ in range(2):
        await bench.storage.revert(one, bench.image, "s")
        assert bench.read(one) == IMAGE | {2: 5}
    await bench.storage.revert(one, bench.image, "t")
    assert bench.read(one) == IMAGE | {2: 6}
    await bench.assert_nothing_leaks(one, snapshots=("s", "t"))


async def test_a_micro_disk_stands_on_the_blank_of_its_first_size(bench: Bench) -> None:
    one = blueprint(16 * MIB, shape=Shape.MICRO)
    await bench.storage.make(one, bench.image)
    await bench.snapshot(one, "s")
    fork = blueprint(24 * MIB, shape=Shape.MICRO)
    await bench.storage.make(fork, bench.image, "s")
    root, own = bench.storage.disks(fork, bench.image)
    assert (root.serial, own.serial) == ("pvroot", "pvdata")
    assert own.backing is not None and own.backing.backing is not None
    lowest = own.backing.backing
    assert (lowest.format, lowest.path) == ("raw", bench.paths.blanks / f"ext4-{16 * MIB}.raw")
    assert chain(own.path) == [own.path, own.backing.path, lowest.path]


# -- cut short ------------------------------------------------------------------------------------------------------


async def cut(bench: Bench, at: int, ask: Callable[[], Awaitable[None]]) -> list[str]:
    """Do it with a manager that ends at that point; what it met. There is another manager then."""
    hook = Killer(at)
    bench.storage.on_point(hook)
    with contextlib.suppress(Killed):
        await ask()
    bench.reborn()
    return hook.points


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("at", range(1, len(SNAPSHOT_POINTS) + 1))
async def test_a_snapshot_cut_short_has_lost_nothing_and_is_taken_by_the_next(
    at: int, running: bool, swept: bool, bench: Bench
) -> None:
    one = await bench.made((2, 5))
    machine = Machine(bench.paths, one.id, bench.storage.disks(one, bench.image)[0]) if running else None
    points = await cut(bench, at, lambda: bench.snapshot(one, "s", machine))
    assert points == SNAPSHOT_POINTS[:at]
    if swept:
        await bench.storage.sweep({one.id}, (), {"s"})
    written: Content = {2: 5}
    if machine is not None:  # it writes on, wherever it does
        put(machine.open, 3, 6)
        if machine.generation == 0:
            written[3] = 6
        assert content(machine.open, bench.root) == IMAGE | {2: 5, 3: 6}
    await bench.snapshot(one, "s", machine)
    assert machine is None or machine.switched == 1
    assert bench.read(one) == IMAGE | {2: 5} | ({3: 6} if running else {})
    assert await bench.held("s") == IMAGE | written
    await bench.assert_nothing_leaks(one, snapshots=("s",))


@pytest.mark.parametrize("at", range(1, len(SNAPSHOT_POINTS) + 1))
async def test_a_machine_that_ends_in_the_midst_of_a_snapshot_finds_everything_at_its_next_start(
    at: int, bench: Bench
) -> None:
    one = await bench.made((2, 5))
    machine = Machine(bench.paths, one.id, bench.storage.disks(one, bench.image)[0])
    await cut(bench, at, lambda: bench.snapshot(one, "s", machine))
    put(machine.open, 3, 6)
    machine.end()
    await bench.storage.sweep({one.id}, (), {"s"})
    assert bench.read(one) == IMAGE | {2: 5, 3: 6}


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_another_snapshot_after_one_that_was_given_up(at: int, bench: Bench) -> None:
    """The machine is first made to write where it should; the layer of the first one is nobody's alone."""
    one = await bench.made((2, 5))
    machine = Machine(bench.paths, one.id, bench.storage.disks(one, bench.image)[0])
    await cut(bench, at, lambda: bench.snapshot(one, "given up", machine))
    put(machine.open, 3, 6)
    await bench.snapshot(one, "s", machine)
    put(machine.open, 2, 7)
    assert bench.read(one) == IMAGE | {2: 7, 3: 6}
    assert await bench.held("s") == IMAGE | {2: 5, 3: 6}
    with pytest.raises(NotFound):
        await bench.held("given up")
    await bench.storage.compact()
    assert len(bench.layers()) == 1
    assert await bench.held("s") == IMAGE | {2: 5, 3: 6}
    await bench.assert_nothing_leaks(one, snapshots=("s",))


@pytest.mark.parametrize("at", range(1, len(SNAPSHOT_POINTS) + 1))
async def test_a_disk_is_of_the_moment_that_it_is_asked_for_and_never_of_an_earlier_attempt_s(
    at: int, bench: Bench
) -> None:
    one = await bench.made((2, 5))
    machine = Machine(bench.paths, one.id, bench.storage.disks(one, bench.image)[0])

    async def snapshot(sector: int) -> None:
        async def moment(turn: Callable[[], Awaitable[None]]) -> None:
            put(machine.open, sector, 6)
            await turn()
            put(machine.open, 9, sector)

        await bench.storage.snapshot(one, bench.image, "s", machine.switch, moment)

    await cut(bench, at, lambda: snapshot(3))
    switched = machine.generation
    await bench.storage.remove_snapshot("s")
    await snapshot(4)
    first = {3: 6, 9: 3} if switched else {}
    assert await bench.held("s") == IMAGE | {2: 5, 4: 6} | first
    assert bench.read(one) == IMAGE | {2: 5, 4: 6} | first | {9: 4}
    await bench.storage.compact()
    assert len(bench.layers()) == 1
    await bench.assert_nothing_leaks(one, snapshots=("s",))


async def test_a_layer_that_a_machine_may_still_write_to_is_not_joined(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    await bench.storage.remove_snapshot("s")
    machine = Machine(bench.paths, one.id, bench.storage.disks(one, bench.image)[0])
    await cut(bench, 3, lambda: bench.snapshot(one, "t", machine))
    await bench.storage.compact()
    assert len(bench.layers()) == 2
    put(machine.open, 3, 6)
    await bench.snapshot(one, "t", machine)
    await bench.storage.compact()
    assert len(bench.layers()) == 1
    assert await bench.held("t") == IMAGE | {2: 5, 3: 6} == bench.read(one)


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_fork_or_revert_cut_short_is_done_by_the_next(at: int, bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    bench.write(one, (2, 6))
    await bench.snapshot(one, "t")
    await cut(bench, at, lambda: bench.storage.revert(one, bench.image, "s"))
    assert bench.read(one) in (IMAGE | {2: 5}, IMAGE | {2: 6})
    await bench.storage.sweep({one.id}, (), {"s", "t"})
    await bench.storage.revert(one, bench.image, "s")
    assert bench.read(one) == IMAGE | {2: 5}
    fork = blueprint()
    await cut(bench, at, lambda: bench.storage.make(fork, bench.image, "t"))
    await bench.storage.sweep({one.id, fork.id}, (), {"s", "t"})
    await bench.storage.make(fork, bench.image, "t")
    assert bench.read(fork) == IMAGE | {2: 6}
    await bench.assert_nothing_leaks(one, fork, snapshots=("s", "t"))


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_removal_cut_short_leaves_what_others_need_and_the_rest_to_the_sweep(at: int, bench: Bench) -> None:
    one = await bench.made((2, 5))
    for name in ("s", "t"):
        await bench.snapshot(one, name)
    fork = await bench.forked("s")
    await bench.storage.remove(one.id)
    await cut(bench, at, lambda: bench.storage.remove_snapshot("t"))
    assert bench.read(fork) == IMAGE | {2: 5}
    await bench.assert_nothing_leaks(fork, snapshots=("s",))
    assert len(bench.layers()) == 1


async def test_a_record_that_cannot_be_read_keeps_every_layer(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    two = await bench.forked("s")
    bench.paths.disk_record(two.id).write_text("nonsense")
    await bench.storage.remove(one.id)
    await bench.storage.remove_snapshot("s")
    assert len(bench.layers()) == 1


# -- chains ---------------------------------------------------------------------------------------------------------


async def test_snapshots_with_retention_leave_a_chain_as_deep_as_what_is_kept(bench: Bench) -> None:
    one = await bench.made()
    for number in range(12):
        bench.write(one, (number, number + 1))
        await bench.snapshot(one, f"s{number}")
        if number >= 3:
            await bench.storage.remove_snapshot(f"s{number - 3}")
        await bench.storage.compact()
        assert len(bench.layers()) <= 3
    expected = {cluster: cluster + 1 for cluster in range(12)}
    assert bench.read(one) == expected
    assert (
        await bench.held("s9")
        == {cluster: cluster + 1 for cluster in range(10)}
        == {k: v for k, v in expected.items() if k < 10}
    )
    await bench.assert_nothing_leaks(one, snapshots=("s9", "s10", "s11"))


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_layers_joined_in_part_read_as_before(at: int, bench: Bench) -> None:
    one = await bench.made((2, 5), (3, 6), (4, 7))
    await bench.snapshot(one, "s")
    bench.write(one, (2, 8), (3, 0))
    await bench.snapshot(one, "t")
    bench.write(one, (0, 9))
    await bench.storage.remove_snapshot("s")
    points = await cut(bench, at, bench.storage.compact)
    assert points == ["joined", "renamed", "a layer goes"][:at]
    expected = IMAGE | {2: 8, 4: 7}
    assert bench.read(one) == expected | {0: 9}
    assert await bench.held("t") == expected
    await bench.storage.sweep({one.id}, (), {"t"})
    await bench.storage.compact()
    assert len(bench.layers()) == 1
    assert await bench.held("t") == expected
    assert bench.read(one) == expected | {0: 9}
    await bench.assert_nothing_leaks(one, snapshots=("t",))


async def test_a_larger_layer_is_joined_into_a_smaller_one(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    fork = await bench.forked("s", 2 * MIB)
    bench.write(fork, (30, 6))
    await bench.snapshot(fork, "t")
    await bench.storage.remove(one.id)
    await bench.storage.remove_snapshot("s")
    await bench.storage.compact()
    assert len(bench.layers()) == 1
    assert await bench.held("t", 2 * MIB) == IMAGE | {2: 5, 30: 6} == bench.read(fork)


async def test_a_layer_that_two_need_is_not_joined(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    fork = await bench.forked("s")
    for who, name in ((one, "t"), (fork, "u")):
        bench.write(who, (3, 6))
        await bench.snapshot(who, name)
    await bench.storage.remove_snapshot("s")
    await bench.storage.compact()
    assert len(bench.layers()) == 3
    assert bench.read(one) == bench.read(fork) == IMAGE | {2: 5, 3: 6}


async def test_a_chain_has_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "DEEPEST", 3)
    one = await bench.made()
    for number in range(3):
        await bench.snapshot(one, f"s{number}")
    before = bench.disk(one)
    with pytest.raises(NoCapacity):
        await bench.snapshot(one, "s3")
    assert bench.disk(one) == before
    await bench.assert_nothing_leaks(one, snapshots=("s0", "s1", "s2"))
    await bench.storage.remove_snapshot("s1")
    await bench.storage.compact()
    await bench.snapshot(one, "s3")


async def test_a_full_disk_refuses_a_snapshot_and_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench.made((2, 5))
    monkeypatch.setattr(FileStorage, "free", lambda self: Bytes(0))
    for refused in (bench.snapshot(one, "s"), bench.forked("s")):
        with pytest.raises(NoCapacity):
            await refused
    assert bench.layers() == set()
    assert bench.read(one) == IMAGE | {2: 5}


async def test_an_overlay_that_cannot_be_written_takes_the_layer_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await bench.made((2, 5))

    async def refuse(*_: object) -> None:
        raise NoCapacity("scripted")

    with monkeypatch.context() as patched:
        patched.setattr(Overlays, "make", refuse)
        with pytest.raises(NoCapacity):
            await bench.snapshot(one, "s")
    assert bench.layers() == set()
    assert bench.read(one) == IMAGE | {2: 5}
    await bench.snapshot(one, "s")
    assert await bench.held("s") == IMAGE | {2: 5}


async def test_forks_and_removals_at_once_keep_what_is_needed(bench: Bench) -> None:
    one = await bench.made((2, 5))
    await bench.snapshot(one, "s")
    forks = [blueprint() for _ in range(8)]
    for fork in forks[4:]:
        await bench.storage.make(fork, bench.image, "s")
    await asyncio.gather(
        *(bench.storage.make(fork, bench.image, "s") for fork in forks[:4]),
        *(bench.storage.remove(fork.id) for fork in forks[4:]),
        bench.snapshot(one, "t"),
        bench.storage.compact(),
    )
    await bench.storage.remove_snapshot("s")
    assert [bench.read(fork) for fork in forks[:4]] == [IMAGE | {2: 5}] * 4
    await bench.assert_nothing_leaks(one, *forks[:4], snapshots=("t",))


async def test_a_snapshot_that_is_cancelled_at_any_time_loses_nothing(bench: Bench) -> None:
    one = await bench.made()
    written: Content = {}
    for number in range(1, 16):
        bench.write(one, (number, number))
        written[number] = number
        asked = asyncio.create_task(bench.snapshot(one, f"s{number}"))
        await asyncio.sleep(number * 0.002)
        asked.cancel()
        await asyncio.gather(asked, bench.storage.sweep({one.id}, (), {f"s{number}"}), return_exceptions=True)
        assert bench.read(one) == IMAGE | written
        await bench.snapshot(one, f"s{number}")
        assert await bench.held(f"s{number}") == IMAGE | written
    await bench.assert_nothing_leaks(one)
