"""standby, restore, fork, template."""

from __future__ import annotations

import json

from dialect.cli.conftest import Shell


def test_standby_and_restore(shell: Shell) -> None:
    vm = shell.vm()
    assert shell.ok("standby", vm) == f"{vm}\n"
    assert shell.record(vm)["state"] == "suspended"
    assert json.loads(shell.ok("restore", vm, "--json"))["state"] == "running"
    refused = shell("restore", "nope")
    assert (refused.returncode, refused.stderr) == (1, b"error: no instance 'nope'\n")


def test_a_fork(shell: Shell) -> None:
    vm, name = shell.vm(), shell.name("f")
    id = shell.ok("fork", vm, "--name", name, "-l", "a=b", "--lifetime", "1h").strip()
    made = shell.record(name)
    assert (made["id"], made["state"], made["labels"]) == (id, "running", {"a": "b"})
    other = json.loads(shell.ok("fork", vm, "--disk-only", "--json"))
    assert other["name"].startswith(vm[:10])
    volume = shell.name("v")
    shell.ok("volumes", "create", volume, "64M")
    shell.ok("volumes", "attach", vm, volume)
    refused = shell("fork", vm)
    assert (refused.returncode, b"can be written" in refused.stderr) == (1, True)
    assert json.loads(shell.ok("fork", vm, "--without", volume, "--json"))["volumes"] == []


def test_templates(shell: Shell) -> None:
    name = shell.ok("template", "create", "-m", "97M", "--disk", "64M", "busybox").strip()
    table = shell.ok("template", "ls").splitlines()
    assert table[0].split() == ["NAME", "IMAGE", "VCPUS", "MEMORY", "DISK", "FOR", "STATE", "AGE"]
    assert any(row.split()[0] == name for row in table)
    one, two = shell.name("one"), shell.name("two")
    shell.ok("run", "--detach", "-m", "97M", "--disk", "64M", "--name", one, "busybox")
    shell.ok("run", "--detach", "-m", "97M", "--disk", "64M", "--name", two, "--no-template", "busybox")
    found = {t["name"]: t["id"] for t in json.loads(shell.ok("template", "ls", "--json"))}
    assert [shell.record(one)["origin"], shell.record(two)["origin"]] == [found[name], None]
    assert shell.ok("template", "rm", name) == f"{name}\n"
    gone = shell("template", "rm", name)
    assert (gone.returncode, gone.stderr.startswith(b"error: no template")) == (1, True)


def test_reclaim_is_asked_for_and_ended(shell: Shell) -> None:
    vm = shell.vm(memory="128M")
    try:
        assert any(
            row.split()[0] == vm and row.split()[-1] == "planned"
            for row in shell.ok("reclaim", "1G", "--dry-run").splitlines()
        )
        done = json.loads(shell.ok("reclaim", "1T", "--hold", "10m", "--reason", "a test", "--json"))
        mine = next(action for action in done["actions"] if action["name"] == vm)
        assert (mine["target"], mine["status"]) == (64 * 2**20, "applied")
    finally:
        assert json.loads(shell.ok("reclaim", "0", "--json"))["applied"] == 0
    refused = shell("reclaim", "1G", "--hold", "2h")
    assert (refused.returncode, refused.stderr) == (
        1, b"error: hold: must be more than 0 seconds and at most an hour\n",
    )  # fmt: skip
