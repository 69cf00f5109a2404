"""The logs: of all, and of a machine."""

from __future__ import annotations

import asyncio
import time

import pytest

from dialect.served import fresh
from dialect.vergeos.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_action_of_a_vm_leaves_a_line(api: Api) -> None:
    since = int(time.time() * 1e6)
    vm = await api.running()
    await api.refused(409, "already", "POST", "vm_actions", {"vm": vm.key, "action": "poweron"})
    await api.act(vm, "kill")
    await api.until(vm, "stopped")
    await api.post("machine_snapshots", machine=vm.machine, name="kept")
    fields = "$key,machine,level,text,user,timestamp,machine#name as machine_name"
    rows = await api.get("machine_logs", filter=f"machine eq {vm.machine}", fields=fields, sort="-timestamp")
    texts = [row["text"] for row in rows]
    for text in (f"Created VM '{vm.name}'", f"Power on '{vm.name}'", f"Power off '{vm.name}'"):
        assert text in texts
    assert f"Took snapshot '{vm.name}': kept" in texts
    assert {(row["machine"], row["machine_name"]) for row in rows} == {(vm.machine, vm.name)}
    assert [row["timestamp"] for row in rows] == sorted((row["timestamp"] for row in rows), reverse=True)
    assert all(row["timestamp"] >= since for row in rows)
    assert {row["level"] for row in rows} == {"audit"}
    later = f"machine eq {vm.machine} and (level eq 'error' or level eq 'critical') and timestamp ge {since}"
    assert await api.get("machine_logs", filter=later) == []


async def test_what_failed_by_the_clock_is_an_error(api: Api) -> None:
    vm = await api.vm()
    now = time.gmtime(time.time() + 6)  # later than it takes to say so
    task = await api.made("tasks", name=fresh("t"), owner=f"vms/{vm.key}", action="kill")
    await api.made(
        "task_schedules", name=fresh("s"), repeat_every="never", task=task,
        start_date=time.strftime("%Y-%m-%d", now), start_time_of_day=now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec,
    )  # fmt: skip
    errors = f"machine eq {vm.machine} and (level eq 'error' or level eq 'critical')"
    async with asyncio.timeout(60):
        while not (rows := await api.get("machine_logs", filter=errors, fields="text")):
            await asyncio.sleep(0.1)
    assert any("not in running state" in row["text"] for row in rows)


async def test_the_log_of_all_is_newest_first(api: Api, stranger: Api) -> None:
    vm = await api.vm()
    rows = await api.get("logs", fields="$key,level,text,timestamp,user,object_type,object_name", limit=20)
    assert [row["timestamp"] for row in rows] == sorted((row["timestamp"] for row in rows), reverse=True)
    made = next(row for row in rows if row["text"] == f"Created VM '{vm.name}'")
    assert (made["object_type"], made["object_name"], made["level"]) == ("vm", vm.name, "audit")
    assert made["user"]
    assert await api.get(f"logs/{made['$key']}", fields="$key,text") == {"$key": made["$key"], "text": made["text"]}
    assert (await api.ask("GET", "logs/999999999")).status_code == 404
    found = await api.get("logs", filter="object_type eq 'vm' and text ct 'CREATED'", fields="object_type", limit=5)
    assert {row["object_type"] for row in found} == {"vm"}
    assert all(vm.name not in row["text"] for row in await stranger.get("logs", fields="text"))
