"""Images, volumes, events, hosts, operations, settings, completion, and what holds for every command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dialect.cli.conftest import Shell


def test_images_are_pulled_imported_listed_and_deleted(shell: Shell, tmp_path: Path) -> None:
    name = shell.name("registry.example/app")
    assert shell.ok("pull", name) == f"{name}:latest\n"
    (tmp_path / "image.tar").write_bytes(b"x")
    imported = shell.name("registry.example/own")
    assert shell.ok("images", "import", imported, str(tmp_path / "image.tar")) == f"{imported}:latest\n"
    piped = shell.name("registry.example/own")
    assert shell.ok("images", "import", piped, "-", stdin=b"x") == f"{piped}:latest\n"
    names = [text for image in json.loads(shell.ok("images", "ls", "--json")) for text in image["names"]]
    assert {f"{name}:latest", f"{imported}:latest", f"{piped}:latest"} <= set(names)
    assert name in shell.ok("images", "ls")
    assert shell.ok("images", "rm", name) == f"{name}:latest\n"
    gone = shell("images", "rm", name, imported, "--json")
    assert (gone.returncode, json.loads(gone.stderr)["kind"]) == (1, "NotFound")
    assert shell("pull", "nonesuch").returncode == 1


def test_volumes_from_create_to_rm(shell: Shell) -> None:
    vm, volume = shell.vm(), shell.name("v")
    assert shell.ok("volumes", "create", volume, "1G") == f"{volume}\n"
    assert json.loads(shell.ok("volumes", "inspect", volume, "--json"))["size"] == 2**30
    assert "1.0 GiB" in shell.ok("volumes", "inspect", volume)
    assert shell.ok("volumes", "attach", vm, f"{volume}:/data") == f"{volume}\n"
    assert f"{volume} at /data (attached)" in shell.ok("inspect", vm)
    assert shell("volumes", "rm", volume).returncode == 1
    assert json.loads(shell.ok("volumes", "resize", volume, "2G", "--json"))["size"] == 2**31
    assert volume in [row["name"] for row in json.loads(shell.ok("volumes", "ls", "--json"))]
    assert json.loads(shell.ok("volumes", "detach", vm, volume, "--json"))["volumes"] == []
    assert shell.ok("volumes", "rm", volume) == f"{volume}\n"
    wrong = shell("volumes", "create", "x", "lots")
    assert (wrong.returncode, wrong.stderr) == (1, b"error: size: 'lots' is not a size such as 512M or 2G\n")


def test_events_are_told_and_followed(shell: Shell) -> None:
    volume = shell.name("v")
    before = [json.loads(line) for line in shell.ok("events", "--no-follow", "--json").splitlines()]
    last = before[-1]["seq"] if before else 0
    with shell.begin("events", "--after", str(last), "--json") as following:
        shell.ok("volumes", "create", volume, "1G")
        assert following.stdout is not None
        event = json.loads(following.stdout.readline())
        following.terminate()
        following.communicate(timeout=30)
    assert (event["kind"], event["data"]) == ("volume.created", {"name": volume})
    assert f"volume.created {event['subject']} name={volume}" in shell.ok("events", "--no-follow", "--after", str(last))


def test_hosts_and_operations(shell: Shell) -> None:
    vm = shell.vm()
    assert json.loads(shell.ok("hosts", "--json"))[0]["hypervisor"] == "fake"
    assert "fake 1" in shell.ok("hosts")
    assert [op["verb"] for op in json.loads(shell.ok("operations", vm, "--json"))] == ["create"]
    assert "create" in shell.ok("operations")


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_a_shell_is_taught_to_complete(shell: Shell, kind: str) -> None:
    assert "_POLYVISOR_COMPLETE" in shell.ok("completion", kind)


def test_words_are_completed(shell: Shell) -> None:
    env = shell.env(_POLYVISOR_COMPLETE="complete_bash", COMP_WORDS="polyvisor vol", COMP_CWORD="1")
    assert shell(env=env).stdout.split() == [b"volumes"]


def test_address_and_key_from_the_environment_come_first(shell: Shell, tmp_path: Path) -> None:
    facts = json.loads((shell.data / "bootstrap.json").read_text())
    bare = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    given = shell("ps", env=bare | {"POLYVISOR_URL": facts["url"], "POLYVISOR_API_KEY": facts["api_key"]})
    assert given.returncode == 0
    over_tls = shell("ps", env=shell.env(POLYVISOR_URL=facts["tls_url"]))
    assert over_tls.returncode == 0, over_tls.stderr
    wrong = shell("ps", "--json", env=shell.env(POLYVISOR_API_KEY="wrong"))
    assert (wrong.returncode, json.loads(wrong.stderr)["kind"]) == (1, "Unauthenticated")
    nothing = shell("ps", env=bare)
    assert (nothing.returncode, b"no server is known" in nothing.stderr) == (1, True)


def test_the_local_key_is_not_shown_to_another_server(shell: Shell) -> None:
    refused = shell("ps", env=shell.env(POLYVISOR_URL="http://127.0.0.1:9"))
    assert (refused.returncode, refused.stderr) == (1, b"error: no key for http://127.0.0.1:9: set POLYVISOR_API_KEY\n")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_broken_bootstrap_file_is_said_to_be_broken(shell: Shell, tmp_path: Path, text: str) -> None:
    (tmp_path / "bootstrap.json").write_text(text)
    broken = shell("ps", env=shell.env(POLYVISOR_DATA=str(tmp_path)))
    assert (broken.returncode, b"bootstrap" in broken.stderr, b"Traceback" in broken.stderr) == (1, True, False)


def test_a_server_that_is_away_is_said_to_be_away(shell: Shell) -> None:
    env = shell.env(POLYVISOR_URL="http://127.0.0.1:9", POLYVISOR_API_KEY="pv_secret")
    for words in (["ps"], ["exec", "x", "true"], ["logs", "x"]):
        away = shell(*words, env=env)
        assert away.returncode in (1, 125)
        assert away.stderr.startswith(b"error: cannot talk to http://127.0.0.1:9")
        assert b"pv_secret" not in away.stderr


def test_serve_says_why_it_cannot(shell: Shell, tmp_path: Path) -> None:
    second = shell("serve", "--hypervisor", "fake", "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0")
    assert (second.returncode, b"another polyvisor server uses" in second.stderr) == (1, True)
    taken = shell(
        "serve", "--hypervisor", "fake", "--data", str(tmp_path), "--listen", shell.url.removeprefix("http://")
    )
    assert (taken.returncode, b"server.listen: cannot listen" in taken.stderr) == (1, True)
    (tmp_path / "config.toml").write_text("[server]\ncolour = 'red'\n")
    wrong = shell("serve", "--config", str(tmp_path / "config.toml"))
    assert (wrong.returncode, b"server.colour" in wrong.stderr) == (2, True)


def test_what_a_stranger_named_cannot_move_the_terminals_cursor(shell: Shell) -> None:
    name = shell.vm(labels={"x": "\x1b[2J\x07"})
    assert "\x1b" not in shell.ok("inspect", name)


def test_version_needs_no_server(shell: Shell) -> None:
    assert re.match(r"polyvisor \d", shell.ok("version"))
    assert set(json.loads(shell.ok("version", "--json"))) == {"version"}


@pytest.mark.parametrize("words", [["--help"], ["ps"]])
def test_no_client_command_loads_the_server(shell: Shell, words: list[str]) -> None:
    heavy = {"fastapi", "sqlalchemy", "uvicorn", "alembic", "starlette", "argon2", "polyvisor.server", "websockets"}
    script = (
        "import sys; sys.argv[0] = 'polyvisor'\nfrom polyvisor.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"sys.exit(', '.join({heavy} & sys.modules.keys()) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words], env=shell.env(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_doctor_says_what_this_host_can_do(shell: Shell) -> None:
    done = shell("doctor", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["disk"]["ok"]
    assert done.returncode == int(any(row["needed"] and not row["ok"] for row in rows.values()))
