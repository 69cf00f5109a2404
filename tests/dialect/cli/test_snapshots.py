"""snapshot and schedule."""

from __future__ import annotations

import json

from dialect.cli.conftest import Shell


def test_snapshots_from_create_to_rm(shell: Shell) -> None:
    vm, name = shell.vm(labels={"a": "b"}), shell.name("s")
    assert shell.ok("snapshot", "create", vm, "--name", name) == f"{name}\n"
    other = json.loads(shell.ok("snapshot", "create", vm, "--json"))
    assert (other["name"], other["state"]) == (other["id"], "ready")
    assert [row["name"] for row in json.loads(shell.ok("snapshot", "ls", vm, "--json"))] == [name, other["id"]]
    table = shell.ok("snapshot", "ls").splitlines()
    assert table[0].split() == ["NAME", "OF", "KIND", "STATE", "SIZE", "COMPRESSION", "BY", "AGE"]
    assert any(row.split()[:4] == [name, vm, "disk", "ready"] for row in table)
    assert json.loads(shell.ok("snapshot", "inspect", name, "--json"))["instance_name"] == vm
    assert vm in shell.ok("snapshot", "inspect", name)
    running = shell("snapshot", "restore", vm, name)
    assert (running.returncode, running.stderr) == (1, b"error: cannot revert an instance that is running\n")
    shell.ok("stop", "--force", vm)
    assert shell.ok("snapshot", "restore", vm, name) == f"{vm}\n"
    assert shell.ok("snapshot", "rm", name) == f"{name}\n"
    gone = shell("snapshot", "rm", name, other["id"], "--json")
    assert (gone.returncode, json.loads(gone.stderr)["kind"]) == (1, "NotFound")
    assert json.loads(gone.stdout)["id"] == other["id"]


def test_a_fork_is_an_instance_of_its_own(shell: Shell) -> None:
    vm, name, fork = shell.vm(labels={"a": "b"}, hostname="box"), shell.name("s"), shell.name("f")
    shell.ok("snapshot", "create", vm, "--name", name)
    id = shell.ok("snapshot", "fork", name, "--name", fork).strip()
    made = shell.record(fork)
    assert (made["id"], made["state"], made["labels"], made["hostname"]) == (id, "running", {"a": "b"}, "box")
    other = json.loads(
        shell.ok(
            "snapshot", "fork", name, "--hostname", "other", "--vcpus", "2", "-m", "512M", "-l", "c=d", "-p", "80",
            "--restart", "always", "--lifetime", "1h", "-e", "A=1", "--json",
        )
    )  # fmt: skip
    assert (other["hostname"], other["vcpus"], other["memory"], other["labels"]) == ("other", 2, 2**29, {"c": "d"})
    assert ([p["guest"] for p in other["ports"]], other["restart"]["mode"]) == ([80], "always")
    missing = shell("snapshot", "fork", "nope")
    assert (missing.returncode, missing.stderr) == (1, b"error: no snapshot 'nope'\n")


def test_memory_that_is_not_there_is_not_kept(shell: Shell) -> None:
    vm = shell.vm(power="off")
    refused = shell("snapshot", "create", vm, "--full")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"has no memory to keep" in refused.stderr


def test_compression_is_asked_for_and_shown(shell: Shell) -> None:
    vm, name = shell.vm(), shell.name("s")
    shell.ok("update", vm, "--compress", "lz4", "--compress-delay", "1m")
    assert (shell.record(vm)["compression"], shell.record(vm)["compression_delay"]) == ("lz4:0", 60.0)
    assert "lz4:0" in shell.ok("inspect", vm)
    shell.ok("snapshot", "create", vm, "--full", "--name", name, "--compress", "zstd:3")
    for _ in range(600):
        found = json.loads(shell.ok("snapshot", "inspect", name, "--json"))
        if found["compression_state"] != "compressing":
            break
    assert (found["compression"], found["compression_state"]) == ("zstd:3", "compressed")
    assert next(row for row in shell.ok("snapshot", "ls", vm).splitlines() if name in row).split()[6] == "zstd:3"
    assert "compressed" in shell.ok("snapshot", "inspect", name)
    for words in (("standby", vm, "--compress", "zip"), ("snapshot", "create", vm, "--compress", "zstd:20")):
        assert shell(*words).returncode == 2
    shell.ok("standby", vm, "--compress", "none")
    refused = shell("standby", vm, "--compress", "zstd")
    assert (refused.returncode, refused.stderr) == (1, b"error: compression: the instance is in standby already\n")
    shell.ok("update", vm, "--compress", "default")
    assert shell.record(vm)["compression"] is None


def test_a_schedule_is_set_shown_and_removed(shell: Shell) -> None:
    vm = shell.vm()
    assert "3600 s" in shell.ok("schedule", "set", vm, "--every", "1h", "--keep", "3", "--max-age", "7d")
    found = json.loads(shell.ok("schedule", "show", vm, "--json"))
    assert (found["interval"], found["max_count"], found["max_age"], found["kind"]) == (3600.0, 3, 604800.0, "disk")
    assert "next_run" in shell.ok("schedule", "show", vm)
    wrong = shell("schedule", "set", vm, "--every", "5s")
    assert (wrong.returncode, wrong.stderr) == (1, b"error: interval: must be between a minute and 366 days\n")
    assert shell.ok("schedule", "rm", vm) == f"{vm}\n"
    assert shell("schedule", "show", vm).returncode == 1
