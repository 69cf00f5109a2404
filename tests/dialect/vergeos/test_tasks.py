"""Tasks: a VM's power by the clock, as clients set it up."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from dialect.served import fresh
from dialect.vergeos.conftest import Api, Vm

pytestmark = pytest.mark.asyncio(loop_scope="session")
TASKF = (
    "$key,name,description,enabled,status,action,action_display,table,owner,creator,last_run,delete_after_run,"
    "system_created,id,owner#$display as owner_display,creator#$display as creator_display,"
    "count(triggers) as triggers_count,count(events) as events_count"
)
TRIGGERF = (
    "$key,task,schedule,trigger,flatten(schedule[$key as sch_$key,enabled as sch_enabled,"
    "display(repeat_every) as sch_repeat_every]),display(task) as task_display,display(schedule) as schedule_display"
)


async def a_task(api: Api, vm: Vm, action: str, **more: object) -> int:
    """A task without a time."""
    return await api.made("tasks", name=fresh("task"), owner=f"vms/{vm.key}", action=action, **more)


async def a_schedule(api: Api, **more: object) -> int:
    """A daily one, from 2030 on."""
    told = {"name": fresh("schedule"), "repeat_every": "day", "start_date": "2030-01-01", **more}
    return await api.made("task_schedules", **told)


async def idle(api: Api, task: int, status: str = "idle") -> None:
    """Once it has run."""
    async with asyncio.timeout(20):
        while (found := await api.get(f"tasks/{task}", fields="status,last_run")) != {
            "status": status, "last_run": found["last_run"] or -1,
        }:  # fmt: skip
            await asyncio.sleep(0.02)


async def test_a_task_has_the_fields_that_clients_ask_for(api: Api) -> None:
    vm = await api.vm()
    key = await a_task(api, vm, "poweron", description="early")
    row = await api.get(f"tasks/{key}", fields=TASKF)
    assert row["owner"] == f"vms/{vm.key}"
    assert (row["owner_display"], row["action_display"], row["table"]) == (vm.name, "Power On", "vms")
    assert (row["status"], row["enabled"], row["triggers_count"], row["events_count"]) == ("idle", True, 0, 0)
    assert (row["description"], row["last_run"], row["delete_after_run"], row["creator"]) == ("early", 0, False, None)
    assert len(row["id"]) == 40
    assert [r["$key"] for r in await api.get("tasks", filter=f"$key eq {key} and status eq 'idle'")] == [key]
    await api.put(f"tasks/{key}", description="late", enabled=False, delete_after_run="true")
    row = await api.get(f"tasks/{key}", fields=TASKF)
    assert (row["description"], row["enabled"], row["delete_after_run"]) == ("late", False, True)
    await api.refused(422, "readonly", "PUT", f"tasks/{key}", {"action": "kill"})
    await api.delete(f"tasks/{key}")
    assert (await api.ask("GET", f"tasks/{key}")).status_code == 404


async def test_row_actions_in_both_forms(api: Api) -> None:
    vm = await api.vm()
    key = await a_task(api, vm, "poweron")
    assert (await api.ask("PUT", f"tasks/{key}?action=disable", {})).status_code == 200
    assert (await api.get(f"tasks/{key}", fields="enabled")) == {"enabled": False}
    assert (await api.ask("POST", f"tasks/{key}/enable", {})).status_code == 200
    assert (await api.get(f"tasks/{key}", fields="enabled")) == {"enabled": True}
    assert (await api.ask("PUT", f"tasks/{key}?action=execute", {})).status_code == 200
    await idle(api, key)
    await api.until(vm, "running")
    assert (await api.ask("PUT", f"tasks/{key}?action=execute", {})).status_code == 200
    await idle(api, key, "error")
    told = await api.get(f"tasks/{key}", fields="status_info")
    assert told["status_info"] == "Cannot power on VM: already in running state"
    await api.refused(422, "not in list", "PUT", f"tasks/{key}?action=explode", {})


@pytest.mark.parametrize("word", ["poweroff", "kill", "reset", "guestreset", "hibernate", "snapshot"])
async def test_every_action_of_a_vm(api: Api, word: str) -> None:
    vm = await api.running()
    key = await a_task(api, vm, word, settings_args={"name": "kept"})
    assert (await api.ask("PUT", f"tasks/{key}?action=execute", {})).status_code == 200
    await idle(api, key)
    if word == "snapshot":
        rows = await api.get("machine_snapshots", filter=f"machine eq {vm.machine}", fields="name")
        assert rows == [{"name": "kept"}]
    elif word in ("poweroff", "kill", "hibernate"):
        await api.until(vm, "hibernated" if word == "hibernate" else "stopped")
    else:
        await api.until(vm, "running")


async def test_a_trigger_gives_a_task_its_times(api: Api) -> None:
    vm = await api.vm()
    task, schedule = await a_task(api, vm, "poweron"), await a_schedule(api, start_time_of_day=3600)
    trigger = await api.made("task_schedule_triggers", task=task, schedule=schedule)
    first = int(datetime(2030, 1, 1, 1, tzinfo=UTC).timestamp())
    assert await api.get(f"tasks/{task}", fields="next_run,count(triggers) as n") == {"next_run": first, "n": 1}
    row = await api.get(f"task_schedule_triggers/{trigger}", fields=TRIGGERF)
    assert (row["sch_$key"], row["sch_enabled"], row["sch_repeat_every"]) == (schedule, True, "Day(s)")
    assert row["task_display"].startswith("task-")
    await api.put(f"task_schedules/{schedule}", start_time_of_day=7200)
    assert await api.get(f"tasks/{task}", fields="next_run") == {"next_run": first + 3600}
    await api.put(f"task_schedules/{schedule}", enabled=False)
    assert await api.get(f"tasks/{task}", fields="next_run") == {"next_run": 0}
    await api.put(f"task_schedules/{schedule}", enabled=True)
    await api.refused(409, "Row exists", "POST", "task_schedule_triggers", {"task": task, "schedule": schedule})
    await api.delete(f"task_schedule_triggers/{trigger}")
    assert await api.get(f"tasks/{task}", fields="next_run") == {"next_run": 0}
    trigger = await api.made("task_schedule_triggers", task=task, schedule=schedule)
    await api.delete(f"task_schedules/{schedule}")
    assert await api.get(f"tasks/{task}", fields="next_run") == {"next_run": 0}
    assert await api.get("task_schedule_triggers", filter=f"task eq {task}") == []


async def test_a_schedule_that_is_refused_changes_no_task(api: Api) -> None:
    vm = await api.vm()
    task, name = await a_task(api, vm, "poweron"), fresh("schedule")
    await a_schedule(api, name=name)
    schedule = await a_schedule(api, task=task)
    next_run = (await api.get(f"tasks/{task}", fields="next_run"))["next_run"]
    path = f"task_schedules/{schedule}"
    await api.refused(422, "already in use", "PUT", path, {"name": name, "start_time_of_day": 7200})
    await api.refused(422, "readonly", "PUT", path, {"task": None, "start_time_of_day": 7200})
    assert (await api.get(f"tasks/{task}", fields="next_run"))["next_run"] == next_run
    body = {"name": fresh("schedule"), "start_date": "2030-01-01", "task": 999_999}
    await api.refused(404, "setting field 'task'", "POST", "task_schedules", body)
    assert await api.get("task_schedules", filter=f"name eq '{body['name']}'") == []


async def test_a_schedule_that_is_due_starts_a_vm(api: Api) -> None:
    vm = await api.vm()
    now = datetime.now(UTC)
    seconds = now.hour * 3600 + now.minute * 60 + now.second + 2
    task = await a_task(api, vm, "poweron", delete_after_run=True)
    await a_schedule(api, repeat_every="never", start_date=now.date().isoformat(), start_time_of_day=seconds, task=task)
    await api.until(vm, "running")
    async with asyncio.timeout(10):
        while (await api.ask("GET", f"tasks/{task}")).status_code != 404:  # it is deleted after its run
            await asyncio.sleep(0.05)


async def test_a_schedule_tells_its_next_times(api: Api) -> None:
    key = await a_schedule(api, repeat_every="week", friday=False, saturday=False, sunday=False)
    begin = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    answer = await api.ask("PUT", f"task_schedules/{key}?action=get_schedule", {"max": 4, "start_time": begin - 1})
    assert [one["time"] - begin for one in answer.json()["times"]] == [0, 86400, 172800, 6 * 86400]
    row = await api.get(f"task_schedules/{key}", fields="all,display(repeat_every) as shown")
    assert (row["monday"], row["friday"], row["start_date_epoch"], row["shown"]) == (True, False, begin, "Week(s)")


async def test_what_makes_no_sense_is_refused(api: Api, stranger: Api) -> None:
    vm = await api.vm()
    task = await a_task(api, vm, "kill")
    for table, body, text in (
        ("tasks", {"name": "x", "owner": f"vms/{vm.key}", "action": "explode"}, "not in list for field 'action'"),
        ("tasks", {"name": "x", "owner": "tenants/1", "action": "kill"}, "is not a row"),
        ("tasks", {"name": "x", "owner": f"vms/{vm.key}", "action": "kill", "settings_args": [1]}, "not an object"),
        ("task_schedules", {"name": "x", "repeat_every": "blue"}, "not in list"),
        ("task_schedules", {"name": "x", "start_date": "soon"}, "start_date"),
        ("task_schedules", {"name": "x", "end_date": "never"}, "end_date"),
        ("task_schedules", {"name": "x", "repeat_every": "day", "monday": False, "tuesday": False, "wednesday": False,
                            "thursday": False, "friday": False, "saturday": False, "sunday": False}, "days"),
    ):  # fmt: skip
        await api.refused(422, text, "POST", table, body)
    await api.refused(404, "setting field 'owner'", "POST", "tasks",
                      {"name": "x", "owner": f"vms/{vm.machine}", "action": "kill"})  # fmt: skip
    await api.refused(404, "setting field 'schedule'", "POST", "task_schedule_triggers", {"task": task, "schedule": 1})
    assert (await stranger.ask("GET", f"tasks/{task}")).status_code == 404
    assert [row["$key"] for row in await stranger.get("tasks")] == []
    assert await api.get("task_events") == await api.get("task_scripts") == []
    await api.refused(405, "not permitted", "POST", "task_scripts", {"name": "x", "script": "y"})


async def test_tasks_go_with_their_vm(api: Api) -> None:
    vm = await api.vm()
    task, schedule = await a_task(api, vm, "kill"), await a_schedule(api)
    await api.post("task_schedule_triggers", task=task, schedule=schedule)
    await api.delete(f"vms/{vm.key}")
    assert (await api.ask("GET", f"tasks/{task}")).status_code == 404
    assert await api.get("task_schedule_triggers", filter=f"schedule eq {schedule}") == []
