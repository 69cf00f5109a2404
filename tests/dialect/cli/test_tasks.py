"""task."""

from __future__ import annotations

import json

from dialect.cli.conftest import Shell


def test_tasks_from_create_to_rm(shell: Shell) -> None:
    vm, name = shell.vm(), shell.name("t")
    words = ("--every", "week", "--on", "fri", "--time", "18:00", "--start", "2030-01-01", "--disabled")
    assert shell.ok("task", "create", vm, "stop", "--name", name, *words) == f"{name}\n"
    told = json.loads(shell.ok("task", "inspect", name, "--json"))
    assert (told["action"], told["enabled"], told["next_run"], told["last_run"]) == ("stop", False, None, None)
    assert shell.ok("task", "enable", name) == f"{name}\n"
    told = json.loads(shell.ok("task", "inspect", name, "--json"))
    assert told["next_run"] == "2030-01-04T18:00:00Z"
    table = shell.ok("task", "ls").splitlines()
    assert table[0].split() == ["NAME", "VM", "ACTION", "WHEN", "NEXT", "LAST"]
    assert any(name in row and "every week on fri at 18:00:00" in row for row in table)
    assert "every week" in shell.ok("task", "inspect", name)
    assert json.loads(shell.ok("task", "disable", name, "--json"))["enabled"] is False
    assert shell.ok("task", "rm", name) == f"{name}\n"
    missing = shell("task", "rm", name)
    assert (missing.returncode, missing.stderr) == (1, f"error: no task '{name}'\n".encode())


def test_a_task_is_run_by_hand(shell: Shell) -> None:
    vm = shell.vm()
    id = shell.ok("task", "create", vm, "force-stop", "--at", "2030-01-01T00:00:00Z", "--once").strip()
    told = json.loads(shell.ok("task", "run", id, "--json"))
    assert told["last_run"]["outcome"] in ("running", "done")
    assert told["next_run"] == "2030-01-01T00:00:00Z"
    refused = shell("task", "create", vm, "start", "--at", "2030-01-01T00:00:00Z", "--every", "day")
    assert (refused.returncode, refused.stderr) == (1, b"error: at: says one moment, every says many\n")
    refused = shell("task", "create", vm, "start", "--at", "2030-01-01T00:00:00")
    assert (refused.returncode, refused.stderr) == (1, b"error: at: must say its time zone\n")
    refused = shell("task", "create", vm, "start", "--time", "18:00")
    assert (refused.returncode, refused.stderr) == (1, b"error: time: there is no timetable without every\n")
