"""user, project, grant, key, quota, audit, login: by the command, as an operator and as somebody else."""

from __future__ import annotations

import json

from dialect.cli.conftest import Shell


def test_somebody_is_let_in_and_kept_within_what_was_granted(shell: Shell) -> None:
    name, team = shell.name("ann"), shell.name("team")
    assert shell.ok("user", "create", name, "--password", "secret") == f"{name}\n"
    assert shell.ok("project", "create", team) == f"{team}\n"
    assert shell.ok("project", "create", f"{team}/ci") == f"{team}/ci\n"
    assert f"{team}/ci" in shell.ok("project", "ls")
    assert name in shell.ok("user", "ls")
    assert "instance.view" in shell.ok("grant", "add", name, team, "instance.*", "image.*")
    assert "image.create" in shell.ok("grant", "ls", "--user", name)
    token = shell.ok("login", name, "--password", "secret").strip()
    mine = shell.env(POLYVISOR_URL=shell.url, POLYVISOR_API_KEY=token, POLYVISOR_PROJECT=f"{team}/ci")
    vm = shell.name()
    made = shell("run", "--detach", "--name", vm, "busybox", env=mine)
    assert made.returncode == 0, made.stderr
    assert vm in shell("ps", env=mine).stdout.decode()
    refused = shell("volumes", "create", "v", "1G", env=mine)
    assert (refused.returncode, b"may not create volumes" in refused.stderr) == (1, True)
    elsewhere = shell("ps", env={**mine, "POLYVISOR_PROJECT": "root"})
    assert (elsewhere.returncode, b"no project" in elsewhere.stderr) == (1, True)
    shell.ok("grant", "rm", name, team, "instance.view")
    assert "instance.view" not in shell.ok("grant", "ls", "--project", team)
    shell.ok("user", "passwd", name, "--password", "another")
    assert shell("ps", env=mine).returncode == 1  # its sessions have ended
    told = json.loads(shell.ok("audit", "--who", name, "--json"))
    assert {"instance.create", "volume.create", "session.login"} <= {entry["action"] for entry in told}
    shell.ok("project", "rm", f"{team}/ci", "--force")
    shell.ok("project", "rm", team)
    shell.ok("user", "rm", name)
    assert name not in shell.ok("user", "ls")


def test_keys_and_quotas(shell: Shell) -> None:
    team, key = shell.name("team"), shell.name("key")
    shell.ok("project", "create", team)
    assert "2.0 GiB" in shell.ok("quota", "set", team, "--memory", "2G", "--instances", "1")
    quota = json.loads(shell.ok("quota", "show", team, "--json"))
    assert (quota["quotas"]["memory"], quota["quotas"]["instances"], quota["usage"]["instances"]) == (2**31, 1, 0)
    secret = shell.ok("key", "create", key, "--project", team, "--scope", "*.view", "--lifetime", "1h").strip()
    env = shell.env(POLYVISOR_URL=shell.url, POLYVISOR_API_KEY=secret)
    assert shell("ps", env=env).returncode == 0
    refused = shell("run", "--detach", "busybox", env=env)
    assert (refused.returncode, b"may not create" in refused.stderr) == (125, True)
    assert secret[:10] in shell.ok("key", "ls")
    shell.ok("key", "rm", key)
    assert shell("ps", env=env).returncode == 1
    assert "none" in shell.ok("quota", "set", team, "--memory", "0")
    shell.ok("project", "rm", team)
