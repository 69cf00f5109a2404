"""run, ps, inspect, update, the power verbs, wait, rm."""

from __future__ import annotations

import json
import signal
from typing import Any

from dialect.cli.conftest import Shell


def test_run_leaves_with_the_workloads_output_and_exit_code(shell: Shell) -> None:
    name = shell.name()
    done = shell("run", "--name", name, "busybox", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    assert shell.record(name)["exit"] == {"code": 7, "signal": None, "reason": "exited"}
    assert shell.ok("wait", name) == "7\n"
    assert "7 (exited)" in shell.ok("inspect", name)
    assert shell.ok("logs", name) == "out\n"


def test_the_command_may_stand_without_dashes(shell: Shell) -> None:
    done = shell("run", "--rm", "busybox", "sh", "-c", "echo $0")
    assert (done.returncode, done.stdout) == (0, b"$0\n")


def test_run_with_rm_leaves_nothing(shell: Shell) -> None:
    name = shell.name()
    assert shell("run", "--rm", "--name", name, "busybox", "false").returncode == 1
    assert shell.http.get(f"/instances/{name}").status_code == 404


def test_run_of_an_image_without_a_command_returns_when_it_is_ready(shell: Shell) -> None:
    name = shell.name()
    done = shell("run", "--name", name, "busybox")
    assert (done.returncode, done.stdout) == (0, b"")
    assert f"{name} is ready and runs on" in done.stderr.decode()
    assert shell.record(name)["ready"]


def test_run_detached_prints_the_id(shell: Shell) -> None:
    name = shell.name()
    id = shell.ok("run", "-d", "--name", name, "busybox").strip()
    assert shell.record(name)["id"] == id
    assert json.loads(shell.ok("run", "-d", "--json", "busybox"))["state"] == "running"


def test_what_it_may_reach_is_said_and_said_anew(shell: Shell) -> None:
    name = shell.name()
    shell.ok("run", "-d", "--name", name, "--egress", "packages,a.example,10.0.0.0/8", "busybox")
    told = {"allow_http": False, "allow_https": False, "allow_package_managers": True}
    assert shell.record(name)["egress"] == {**told, "domains": ["a.example"], "cidrs": ["10.0.0.0/8"]}
    assert shell.ok("update", name, "--egress", "open") == f"{name}\n"
    assert shell.record(name)["egress"]["allow_http"]
    assert shell("update", name, "--egress", "deny", "--name", "x").returncode == 2
    assert shell("update", name, "--egress", "a b").returncode != 0
    shell.ok("update", name, "--egress", "none")
    assert shell.record(name)["egress"] is None


def test_every_flag_of_run_has_its_effect(shell: Shell, tmp_path: Any) -> None:
    name, volume = shell.name(), shell.name("v")
    shell.ok("volumes", "create", volume, "1G")
    (tmp_path / "env").write_text("# a comment\nFROM_FILE=1\n\nBOTH=file\n")
    shell.ok(
        "run", "-d", "--name", name, "-v", f"{volume}:/data:ro", "-e", "BOTH=flag", "--env-file", str(tmp_path / "env"),
        "--vcpus", "2", "--memory", "512M", "--disk", "20G", "--user", "1000", "--cwd", "/tmp", "--hostname", "box",
        "-p", "8000:80", "-p", "53/udp", "--restart", "on-failure:3", "--label", "a=b", "--lifetime", "1h",
        "--autostart", "--grace", "5s", "--entrypoint", "sh -c", "busybox", "--", "env; cat",
    )  # fmt: skip
    vm = shell.record(name)
    assert (vm["vcpus"], vm["memory"], vm["disk"], vm["hostname"]) == (2, 2**29, 20 * 2**30, "box")
    assert (vm["labels"], vm["autostart"], vm["command"]) == ({"a": "b"}, True, ["sh", "-c", "env; cat"])
    usual = {"backoff": 1.0, "steady": False, "stable": 60.0}
    assert vm["restart"] == {"mode": "on-failure", "attempts": 3, **usual}
    assert [(v["name"], v["path"], v["read_only"]) for v in vm["volumes"]] == [(volume, "/data", True)]
    assert vm["expires"] is not None
    assert set(shell.ok("logs", name).splitlines()) >= {"BOTH=flag", "FROM_FILE=1"}


def test_a_disk_image_takes_keys_and_user_data(shell: Shell, tmp_path: Any) -> None:
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    (tmp_path / "seed").write_text("#cloud-config\n")
    name = shell.name()
    shell.ok(
        "run", "-d", "--name", name, "--firmware", "uefi", "--user", "bob", "--ssh-key", str(tmp_path / "key.pub"),
        "--ssh-key", "ssh-rsa BBBB you", "--user-data", str(tmp_path / "seed"), "--no-network", "debian-12",
    )  # fmt: skip
    vm = shell.record(name)
    assert (vm["shape"], vm["firmware"], vm["address"]) == ("full", "uefi", None)


def test_interactive_run_is_the_commands_terminal_and_stops_the_instance(shell: Shell) -> None:
    name = shell.name()
    done = shell("run", "-i", "--name", name, "busybox", "--", "sh", "-c", "cat; exit 4", stdin=b"typed")
    assert (done.returncode, done.stdout) == (4, b"typed")
    shell.ok("wait", name)
    assert shell.record(name)["state"] == "stopped"


def test_ctrl_c_stops_the_instance_quietly(shell: Shell) -> None:
    name = shell.name()
    with shell.begin("run", "--name", name, "busybox", "--", "sh", "-c", "echo up; sleep 600") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out, err.decode()) == (130, b"", f"{name} is being stopped\n")
    assert shell.ok("wait", name) == "143\n"


def test_what_run_cannot_do_is_125(shell: Shell) -> None:
    missing = shell("run", "nonesuch")
    assert (missing.returncode, missing.stdout) == (125, b"")
    assert missing.stderr.startswith(b"error: image: no image 'nonesuch'")
    wrong = shell("run", "--memory", "lots", "busybox")
    assert (wrong.returncode, b"error: memory: 'lots' is not a size" in wrong.stderr) == (125, True)


def test_ps_lists_what_runs_and_with_all_the_rest(shell: Shell) -> None:
    up, down = shell.vm(labels={"t": "ps"}), shell.vm(labels={"t": "ps"})
    shell.ok("stop", "--force", down)

    def names(*flags: str) -> set[str]:
        return {vm["name"] for vm in json.loads(shell.ok("ps", "--json", "-l", "t=ps", *flags))}

    assert names() == {up}
    assert names("--all") == {up, down}
    table = shell.ok("ps", "-a", "-l", "t=ps").splitlines()
    assert table[0].split()[:3] == ["NAME", "STATE", "IMAGE"]
    assert f"{down}  stopped (0)" in "\n".join(table).replace("   ", "  ")
    assert shell.ok("ps", "-q", "-l", "t=ps").strip() == shell.record(up)["id"]


def test_the_power_verbs(shell: Shell) -> None:
    name = shell.vm()
    for verb, state in [
        ("pause", "paused"), ("resume", "running"), ("reset", "running"), ("restart", "running"), ("stop", "stopped"),
        ("start", "running"),
    ]:  # fmt: skip
        assert json.loads(shell.ok(verb, name, "--json"))["state"] == state
    other = shell.vm()
    assert shell.ok("stop", name, other) == f"{name}\n{other}\n"


def test_one_refusal_among_many_is_told_and_the_rest_is_done(shell: Shell) -> None:
    name = shell.vm()
    done = shell("stop", "nope", name)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (
        1,
        f"{name}\n",
        "error: no instance 'nope'\n",
    )


def test_update_changes_what_may_change(shell: Shell) -> None:
    name = shell.vm()
    new = shell.name("renamed")
    assert shell.ok("update", name, "--name", new, "--label", "a=b", "--lifetime", "1h") == f"{new}\n"
    vm = shell.record(new)
    assert (vm["labels"], vm["expires"] is not None) == ({"a": "b"}, True)
    changed = json.loads(shell.ok("update", new, "--no-labels", "--lifetime", "0", "--json"))
    assert (changed["labels"], changed["expires"]) == ({}, None)


def test_wait_has_a_limit_and_knows_states(shell: Shell) -> None:
    name = shell.vm()
    late = shell("wait", name, "--timeout", "0.1")
    assert (late.returncode, late.stdout) == (1, b"")
    assert b"in time" in late.stderr
    assert shell.ok("wait", name, "--state", "running", "--state", "paused") == "running\n"


def test_rm_deletes_and_refuses_what_runs(shell: Shell) -> None:
    name = shell.vm()
    refused = shell("rm", name)
    assert (refused.returncode, refused.stderr) == (
        1, b"error: the instance is running: stop it first, or force the delete\n",
    )  # fmt: skip
    assert shell.ok("rm", "-f", name) == f"{name}\n"
    gone = shell("inspect", name, "--json")
    assert (gone.returncode, gone.stdout) == (1, b"")
    assert json.loads(gone.stderr) == {"kind": "NotFound", "message": f"no instance '{name}'", "subject": name}
