"""Snapshots, forks, reverts, removals, joins, sweeps and crashes in any order, against a model that is a dictionary.

Real qcow2 files, written to as a guest would. Whatever came before, each disk holds what its model holds, read by the
records and by the headers; and after a sweep there is no file that nobody needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from contract.storage.disks import IMAGE, Content, Killed, Killer, Machine, blueprint, chain, content, make_image, put
from polyvisor.host.paths import Paths
from polyvisor.host.storage import FileStorage
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId, mint
from polyvisor.model.units import MIB

CLUSTERS = [0, 1, 2, 3, 15, 16, 31]
crashes = st.integers(0, 6)  # at which point the manager is killed; 0: it is not


class Disks(RuleBasedStateMachine):
    """One host's disks."""

    instances: Bundle[Blueprint] = Bundle("instances")
    snapshots: Bundle[tuple[str, int]] = Bundle("snapshots")  # with the size of its disk

    @initialize()
    def begin(self) -> None:
        """An empty data directory."""
        self.root = Path(tempfile.mkdtemp(prefix="disks-"))
        self.runner = asyncio.Runner()
        self.paths = Paths(self.root / "data")
        self.paths.make()
        self.image = make_image(self.paths)
        self.storage = FileStorage(self.paths)
        self.disks: dict[InstanceId, tuple[Blueprint, Content]] = {}
        self.held: dict[str, tuple[int, Content]] = {}
        self.machines: dict[InstanceId, Machine] = {}

    def teardown(self) -> None:
        """All is still as it should be; when everybody is gone, every file is."""
        if not hasattr(self, "root"):
            return
        try:
            self.look()
            self.sweep()
            self.disks.clear()
            self.held.clear()
            self.sweep()
        finally:
            self.runner.close()
            shutil.rmtree(self.root)

    def done(self, ask: Callable[[], Awaitable[None]], crash: int = 0) -> bool:
        """Whether it was; with a crash there is another manager."""
        hook = Killer(crash)
        self.storage.on_point(hook)
        with contextlib.suppress(Killed):
            self.runner.run(awaited(ask))
            return True
        self.storage = FileStorage(self.paths)
        return False

    def until_done(self, ask: Callable[[], Awaitable[None]], crash: int, between: bool) -> None:
        """A manager that was killed is followed by one that asks again, maybe after a sweep."""
        if not self.done(ask, crash):
            if between:
                self.sweep(halfway=True)
            assert self.done(ask)

    @rule(target=instances, size=st.sampled_from([MIB, 2 * MIB]))
    def create(self, size: int) -> Blueprint:
        """An instance of the image."""
        one = blueprint(size)
        assert self.done(lambda: self.storage.make(one, self.image))
        self.disks[one.id] = one, dict(IMAGE)
        return one

    @rule(target=instances, origin=snapshots, more=st.booleans(), crash=crashes, between=st.booleans())
    def fork(self, origin: tuple[str, int], more: bool, crash: int, between: bool) -> Any:
        """An instance of a snapshot, maybe larger."""
        name, size = origin
        if name not in self.held:
            return multiple()
        one = blueprint(2 * MIB if more else size)
        self.disks[one.id] = one, dict(self.held[name][1])
        self.until_done(lambda: self.storage.make(one, self.image, name), crash, between)
        return one

    @rule(one=instances, cluster=st.sampled_from(CLUSTERS), byte=st.integers(0, 255))
    def write(self, one: Blueprint, cluster: int, byte: int) -> None:
        """A guest, or whoever, writes."""
        if one.id not in self.disks or cluster >= one.spec.disk // (64 * 1024):
            return
        machine = self.machines.get(one.id)
        put(machine.open if machine else self.file(one), cluster, byte)
        disk = self.disks[one.id][1]
        disk[cluster] = byte
        if not byte:
            del disk[cluster]

    @rule(one=instances)
    def start_or_end(self, one: Blueprint) -> None:
        """A machine begins or ends, even in the midst of a snapshot."""
        if one.id in self.machines:
            self.machines.pop(one.id).end()
        elif one.id in self.disks:
            self.machines[one.id] = Machine(self.paths, one.id, self.storage.disks(one, self.image)[0])

    @rule(target=snapshots, one=instances, crash=crashes, between=st.booleans())
    def snapshot(self, one: Blueprint, crash: int, between: bool) -> Any:
        """Take one, until it is there."""
        if one.id not in self.disks:
            return multiple()
        name, machine = mint(), self.machines.get(one.id)
        self.held[name] = one.spec.disk, dict(self.disks[one.id][1])
        switch = machine.switch if machine else None
        self.until_done(lambda: self.storage.snapshot(one, self.image, name, switch), crash, between)
        return name, one.spec.disk

    @rule(one=instances, crash=st.integers(1, 4))
    def give_up_a_snapshot(self, one: Blueprint, crash: int) -> None:
        """It was begun, and nobody asks for it again."""
        if one.id in self.disks:
            machine = self.machines.get(one.id)
            switch = machine.switch if machine else None
            assert not self.done(lambda: self.storage.snapshot(one, self.image, mint(), switch), crash)

    @rule(one=instances, origin=snapshots, crash=crashes, between=st.booleans())
    def revert(self, one: Blueprint, origin: tuple[str, int], crash: int, between: bool) -> None:
        """Back to any snapshot that fits."""
        name, size = origin
        if one.id not in self.disks or one.id in self.machines or name not in self.held or size > one.spec.disk:
            return
        self.until_done(lambda: self.storage.revert(one, self.image, name), crash, between)
        self.disks[one.id] = one, dict(self.held[name][1])

    @rule(one=consumes(instances), crash=crashes)
    def remove(self, one: Blueprint, crash: int) -> None:
        """An instance goes."""
        if one.id in self.machines:
            self.machines.pop(one.id).end()
        self.disks.pop(one.id, None)
        if not self.done(lambda: self.storage.remove(one.id), crash):
            assert self.done(lambda: self.storage.remove(one.id))

    @rule(origin=consumes(snapshots), crash=crashes)
    def remove_snapshot(self, origin: tuple[str, int], crash: int) -> None:
        """A snapshot goes."""
        self.held.pop(origin[0], None)
        if not self.done(lambda: self.storage.remove_snapshot(origin[0]), crash):
            assert self.done(lambda: self.storage.remove_snapshot(origin[0]))

    @rule(crash=crashes)
    def compact(self, crash: int) -> None:
        """Layers are joined, or some of them, or one halfway."""
        self.done(lambda: self.storage.compact(), crash)

    @rule()
    def look(self) -> None:
        """Every disk holds what it should, whoever reads."""
        for one, expected in self.disks.values():
            assert content(self.storage.disks(one, self.image)[0], self.root) == expected
            assert content(self.file(one), self.root) == expected
            if one.id in self.machines:
                assert content(self.machines[one.id].open, self.root) == expected
        for name, (size, expected) in self.held.items():
            probe = blueprint(size)
            assert self.done(lambda name=name, probe=probe: self.storage.make(probe, self.image, name))  # type: ignore[misc]  # mypy does not see what a default makes of a lambda
            assert content(self.file(probe), self.root) == expected
            assert self.done(lambda probe=probe: self.storage.remove(probe.id))  # type: ignore[misc]  # as above

    @rule()
    def sweep(self, halfway: bool = False) -> None:
        """No file is left that nobody needs. `halfway`: a verb is to be repeated, what it has left is not counted."""
        assert self.done(lambda: self.storage.sweep(set(self.disks), (), set(self.held)))
        if halfway:
            return
        needed = {file for one, _ in self.disks.values() for file in chain(self.file(one))}
        for folder in self.paths.snapshots.iterdir():
            assert folder.name in self.held
            needed |= set(chain(self.layer_of(folder.name)))
        needed.discard(self.image)
        files = set(self.paths.root.rglob("*.qcow2")) - {self.image, *(m.open for m in self.machines.values())}
        assert needed <= files
        for file in files - needed:  # of a join that was cut short: two names of one file, the next join ends it
            assert file.is_relative_to(self.paths.layers) and any(file.samefile(other) for other in needed)
        assert list(self.paths.root.rglob("*.part")) == []

    def layer_of(self, snapshot: str) -> Path:
        """What a snapshot holds."""
        return self.paths.layer_disk(json.loads(self.paths.snapshot_record(snapshot).read_text())["layer"])

    def file(self, one: Blueprint) -> Path:
        """What an instance writes to at its next start."""
        return self.storage.disks(one, self.image)[0].path


async def awaited(ask: Callable[[], Awaitable[None]]) -> None:
    """A coroutine of anything that can be awaited."""
    await ask()


TestDisks = Disks.TestCase
TestDisks.settings = settings(max_examples=25, stateful_step_count=25, deadline=None, database=None)
