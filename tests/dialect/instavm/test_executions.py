"""What is kept of executions that nobody waits for: so many of each caller, and so much."""

from __future__ import annotations

import asyncio

import pytest

from polyvisor.dialects.instavm import executions
from polyvisor.dialects.instavm.executions import Executions
from polyvisor.dialects.instavm.wire import ExecuteResponse
from polyvisor.model.faults import NotFound, OverQuota
from polyvisor.model.ids import ProjectId, mint
from polyvisor.model.principal import EVERYTHING, Principal

pytestmark = pytest.mark.asyncio(loop_scope="session")


def somebody() -> Principal:
    """Of a project of their own."""
    return Principal("somebody", ProjectId(mint()), EVERYTHING)


async def says(count: int) -> ExecuteResponse:
    """That many characters."""
    return ExecuteResponse(stdout="x" * count, stderr="", execution_time=0.0, cpu_time=0.0, exit_code=0)


async def test_as_much_is_kept_of_each_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executions, "_HELD", 100)
    monkeypatch.setattr(executions, "_KEPT", 4)
    all, mine, other = Executions(), somebody(), somebody()
    theirs = all.begin(other, "", says(60))
    ids = []
    for count in (60, 60, 200):
        ids.append(all.begin(mine, "", says(count)))
        await all.find(mine, ids[-1]).task
        await asyncio.sleep(0)
        assert all.of(mine)[0].id == ids[-1]  # the latest, however large
    assert [one.id for one in all.of(mine)] == ids[2:]
    with pytest.raises(NotFound):
        all.find(mine, ids[0])
    small = [all.begin(mine, "", says(1)) for _ in range(6)]
    await asyncio.gather(*(one.task for one in all.of(mine)))
    await asyncio.sleep(0)
    assert [one.id for one in all.of(mine)] == small[:1:-1]
    assert [one.id for one in all.of(other)] == [theirs]


async def test_one_caller_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executions, "_OF_ONE", 2)
    all, mine = Executions(), somebody()
    for _ in range(2):
        all.begin(mine, "", asyncio.sleep(60))  # type: ignore[arg-type]
    with pytest.raises(OverQuota):
        all.begin(mine, "", says(1))
    all.begin(somebody(), "", says(1))
    await all.close()
