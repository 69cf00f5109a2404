"""Forks that are asked for while others are made: one snapshot of a source at a time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from polyvisor.engine.forks import ForksEngine
from polyvisor.model.ids import InstanceId
from polyvisor.model.snapshot import SnapshotKind

OF = (InstanceId("i"), SnapshotKind.FULL)


class Snapshots:
    """Takes a moment for each, and knows how many there were at once."""

    def __init__(self) -> None:
        self.count = self.now = self.most = 0

    async def create(self, *_: object, **__: object) -> Any:
        self.count, self.now = self.count + 1, self.now + 1
        self.most = max(self.most, self.now)
        return SimpleNamespace(snapshot=SimpleNamespace(id=str(self.count)), asked=SimpleNamespace())

    async def settle(self, *_: object) -> None:
        await asyncio.sleep(0.01)
        self.now -= 1


async def test_a_turn_that_is_waited_for_is_not_forgotten() -> None:
    snapshots = Snapshots()
    forks = ForksEngine(cast("Any", snapshots), cast("Any", snapshots))  # instances wait for what snapshots open
    made = []
    for _ in range(12):
        batch = forks._join(cast("Any", None), OF)
        assert batch.taken is not None
        made.append(batch.taken)
        await asyncio.sleep(0.004)
    await asyncio.gather(*made)
    assert snapshots.most == 1
    assert 1 < snapshots.count < len(made)
    assert not forks._turns
