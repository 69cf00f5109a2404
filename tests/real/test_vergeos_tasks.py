"""What VMs are scheduled to do, by the VergeOS dialect, on real machines and by the real clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from real.verges import Verge, eventually
from serving import Server

AHEAD = timedelta(seconds=10)
"""Later than it takes to say so."""


def scheduled(verge: Verge, vm: Any, action: str, due: datetime, every: str) -> int:
    """The key of a task that is due then."""
    task = verge.sdk.tasks.create(name=action, owner=vm.key, action=action, table="vms")
    second = due.hour * 3600 + due.minute * 60 + due.second
    day = due.date().isoformat()
    schedule = verge.sdk.task_schedules.create(
        name=action, repeat_every=every, start_date=day, start_time_of_day=second
    )
    verge.sdk.task_schedule_triggers.create(task=task.key, schedule=schedule.key)
    return int(task.key)


async def verbs(server: Server, name: str) -> list[str]:
    """What was asked of an instance, each time that it was."""
    async with server.client() as client:
        return sorted(one.verb for one in await client.operations.list(name, 100))


@pytest.mark.usefixtures("trusting")
def test_what_is_due_while_the_server_is_killed_is_done_once(another: Callable[..., Server]) -> None:
    server = another()
    verge = Verge(server)
    off, on = verge.vm(), verge.vm()
    on.power_on()
    verge.until(on, "running")
    names = {vm.get("name"): asyncio.run(verbs(server, vm.get("name"))) for vm in (off, on)}
    due = datetime.now(UTC).replace(microsecond=0) + AHEAD
    keys = [scheduled(verge, off, "poweron", due, "week"), scheduled(verge, on, "kill", due, "never")]
    server.kill()
    time.sleep((due - datetime.now(UTC)).total_seconds() + 1)
    server.start()
    verge = Verge(server)
    off, on = (verge.sdk.vms.get(name=name) for name in names)
    verge.until(off, "running")
    verge.until(on, "stopped")
    eventually(lambda: all(verge.sdk.tasks.get(key).get("status") == "idle" for key in keys), 30)
    for _ in range(2):  # and never again: neither by this server nor by the next one
        told = {name: asyncio.run(verbs(server, name)) for name in names}
        assert [len(told[name]) - len(before) for name, before in names.items()] == [1, 1]
        server.kill()
        server.start()
        verge = Verge(server)
        time.sleep(3)
    assert verge.sdk.vms.get(name=off.get("name")).get("status") == "running"
    runs = [float(verge.sdk.tasks.get(key).get("last_run") or 0) for key in keys]
    assert all(due.timestamp() <= run < time.time() for run in runs)
