"""Snapshots by the clock: they expire, profiles take new ones, and nothing of a dead server's is left."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from dialect.served import Served, fresh
from dialect.vergeos.conftest import Api, Vm
from polyvisor.dialects.vergeos.chores import LATE, Chores
from polyvisor.dialects.vergeos.resource import Jobs, Locks
from polyvisor.dialects.vergeos.samples import Samples
from polyvisor.dialects.vergeos.sources import COPY, DIALECT, data_of
from polyvisor.dialects.vergeos.tables import drives, profiles, snapshots
from polyvisor.dialects.vergeos.unasked import Unasked
from polyvisor.model.faults import Unavailable
from polyvisor.model.foreign import Row
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import SYSTEM, Action

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def chores(served: Served) -> Chores:
    """Those that a test does when it likes."""
    return Chores(Unasked(served.parts.engine, Locks(), Jobs(), Samples(served.parts.engine)))


async def names(api: Api, vm: Vm) -> list[str]:
    """Of its snapshots, oldest first."""
    rows = await api.get("machine_snapshots", filter=f"machine eq {vm.machine}", fields="name", sort="+$key")
    return [row["name"] for row in rows]


async def copies(served: Served) -> set[str]:
    """The volumes that snapshots keep."""
    return {one.id for one in await served.parts.engine.numbers.volumes() if one.kind == COPY}


async def a_snapshot(api: Api, vm: Vm, expires: int, name: str = "") -> int:
    """One that is there."""
    told = {"machine": vm.machine, "name": name or fresh("snap"), "expires": expires}
    return await api.made("machine_snapshots", **told)


async def test_what_has_expired_goes_with_its_copies(api: Api, served: Served, chores: Chores) -> None:
    vm = await api.vm()
    await api.drive(vm)
    before = await copies(served)
    await a_snapshot(api, vm, int(time.time()) - 1, "old")
    await a_snapshot(api, vm, 0, "for ever")
    await a_snapshot(api, vm, int(time.time()) + 1000, "later")
    await chores.expire()
    assert await names(api, vm) == ["for ever", "later"]
    async with asyncio.timeout(20):  # the server's own chore may be about it as well
        while len(await copies(served) - before) != 2:
            await asyncio.sleep(0.1)
    hidden = await api.get("vms", filter="is_snapshot eq true", fields="name")
    assert "old" not in [row["name"] for row in hidden]


async def test_one_that_fails_does_not_keep_the_others(
    api: Api, served: Served, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await api.vm()
    stuck = await a_snapshot(api, vm, 1, "stuck")
    await a_snapshot(api, vm, 1, "free")
    remove = snapshots.remove

    async def stumble(call: Any, snap: Any) -> None:
        if snap.row.key == stuck:
            raise Unavailable("no")
        await remove(call, snap)

    monkeypatch.setattr(snapshots, "remove", stumble)
    await chores.expire()
    assert await names(api, vm) in ([], ["stuck"])  # the server's own chore may have taken it
    monkeypatch.undo()
    await chores.expire()
    assert await names(api, vm) == []


async def test_the_server_does_so_by_itself(api: Api) -> None:
    vm = await api.vm()
    await a_snapshot(api, vm, 1)
    async with asyncio.timeout(20):
        while await names(api, vm):
            await asyncio.sleep(0.1)


async def due(served: Served, period: int, at: int) -> None:
    """The period is due at that time."""
    rows = served.parts.engine.rows
    row = await rows.get(DIALECT, period)
    told = replace(row, data=json.dumps({**data_of(row), "next": at}))
    await rows.save(SYSTEM, [told], Action.INSTANCE_OPERATE)


async def test_a_profile_takes_snapshots_and_keeps_them_as_long_as_it_says(
    api: Api, served: Served, chores: Chores
) -> None:
    profile = await api.made("snapshot_profiles", name=fresh("profile"))
    period = await api.made(
        "snapshot_profile_periods", profile=profile, name="Hourly", frequency="hourly", minute=30, retention=86400,
        min_snapshots=1,
    )  # fmt: skip
    vm, other = await api.vm(snapshot_profile=profile), await api.vm()
    await api.drive(vm)
    now = int(time.time())
    row = await api.get(f"snapshot_profile_periods/{period}", fields="all")
    assert now < row["next_run"] <= now + 3600
    assert row["next_run"] % 3600 == 1800
    assert row["estimated_snapshot_count"] == 24
    await due(served, period, now - 10)
    await chores.take()
    await chores.take()
    taken = await names(api, vm)
    assert [name[:7] for name in taken] == ["Hourly "]
    assert await names(api, other) == []
    fields = "expires,created_manually,snapshot_period,expires_type"
    (row,) = await api.get("machine_snapshots", filter=f"machine eq {vm.machine}", fields=fields)
    assert 0 <= row["expires"] - now - 86400 < 60
    assert (row["created_manually"], row["snapshot_period"]) == (False, period)
    await due(served, period, now - LATE - 60)
    await chores.take()
    assert await names(api, vm) == taken
    (row,) = await api.get("machine_snapshots", filter=f"machine eq {vm.machine}", fields="$key")
    await api.put(f"machine_snapshots/{row['$key']}", expires=1)
    await chores.expire()
    assert await names(api, vm) == taken  # one is kept at least
    await due(served, period, now - 70)
    await chores.take()
    await chores.expire()
    assert len(await names(api, vm)) == 1
    await api.refused(409, "in use", "DELETE", f"snapshot_profiles/{profile}")
    await api.put(f"vms/{vm.key}", snapshot_profile=None)
    await api.post("snapshot_profile_actions", snapshot_profile=profile, action="delete")
    assert await api.get("snapshot_profile_periods", filter=f"profile eq {profile}") == []


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"frequency": "hourly", "minute": 5}, "2026-03-04T05:05"),
        ({"frequency": "daily", "hour": 2}, "2026-03-05T02:00"),
        ({"frequency": "weekly", "day_of_week": "sun", "hour": 3, "minute": 30}, "2026-03-08T03:30"),
        ({"frequency": "weekly"}, "2026-03-05T00:00"),
        ({"frequency": "monthly", "day_of_month": 31}, "2026-03-31T00:00"),
        ({"frequency": "yearly", "month": 2, "day_of_month": 31}, "2027-02-28T00:00"),
        ({"frequency": "custom", "day_of_month": 1, "hour": 4}, "2026-04-01T04:00"),
        ({"frequency": "custom", "hour": 4}, "2026-03-05T04:00"),
    ],
)
async def test_when_a_period_is_due(told: dict[str, Any], expected: str) -> None:
    usual = {"minute": 0, "hour": 0, "day_of_week": "any", "day_of_month": 0, "month": 0}
    found = profiles.next_of({**usual, **told}, 1772600706)  # 2026-03-04T05:05:06: not the fifth minute any more
    if told["frequency"] == "hourly":
        expected = "2026-03-04T06:05"
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(found)) == expected


async def test_what_a_dead_server_was_making_is_cleared_away(api: Api, served: Served, chores: Chores) -> None:
    vm = await api.vm()
    drive = await api.drive(vm)
    engine = served.parts.engine
    row = next(one for one in await engine.rows.of(DIALECT, ["vms"]) if one.key == vm.key)
    told = json.dumps({"name": "half", "created": 1, "state": "creating", "expires": 0})
    await engine.rows.add(
        SYSTEM, [Row(DIALECT, snapshots.KIND, f"{row.subject}/half", row.project, row.subject, told)],
        Action.INSTANCE_OPERATE,
    )  # fmt: skip
    assert await names(api, vm) == ["half"]
    kept = data_of(await engine.rows.get(DIALECT, drive))
    volume = next(one for one in await engine.numbers.volumes() if one.id == kept["volume"])
    (copy,) = await engine.media.copy(SYSTEM.in_project(ProjectId(row.project)), [volume], COPY)
    await a_snapshot(api, vm, 0, "whole")
    await chores.recover()
    await chores.sweep()
    assert await names(api, vm) == ["whole"]
    left = await copies(served)
    assert copy.id not in left
    assert left


async def test_a_restore_that_was_cut_off_leaves_the_drives_of_then(
    api: Api, served: Served, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await api.vm()
    now = await api.drive(vm, name="a")
    key = await a_snapshot(api, vm, 0)
    await api.drive(vm, name="b")

    async def stumble(call: Any, drive: Any) -> None:
        raise Unavailable("the server is killed")

    with monkeypatch.context() as patched:
        patched.setattr(drives, "remove", stumble)
        answer = await api.ask("POST", "vm_actions", {"vm": vm.key, "action": "restore", "params": {"snapshot": key}})
        assert answer.status_code == 409, answer.text
    there = await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="$key,name")
    assert [drive["name"] for drive in there] == ["a"]
    assert there[0]["$key"] != now
    await chores.finish()
    await api.act(vm, "poweron")
    await api.until(vm, "running")
    there = await api.get("machine_drives", filter=f"machine eq {vm.machine}", fields="name,status#status as status")
    assert there == [{"name": "a", "status": "online"}]
    rows = await served.parts.engine.rows.of(DIALECT, [drives.KIND])
    assert not [row for row in rows if data_of(row).get("leaving")]
