"""What is typed wrongly is a usage error, exit code 2, before anything is asked of a server."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest
import typer
from typer.testing import CliRunner

from polyvisor.cli import parse
from polyvisor.cli.app import app


@pytest.mark.parametrize(
    "line",
    [
        "run", "run --colour busybox", "run -p x busybox", "run -p 0 busybox", "run -p 1:99999 busybox",
        "run -v v:rel busybox", "run -v :/x busybox", "run -v v:/x:rx busybox", "run -e =x busybox",
        "run --label x busybox", "run --restart maybe busybox", "run --restart always:x busybox",
        "run -d -t busybox", "run -d --rm busybox", "run --json busybox", "run --env-file /no busybox",
        "run --rate x busybox", "run --health ftp://:1/ busybox", "run --health= busybox",
        "run --ssh-key /no busybox",
        "run --user-data /no busybox", "run --entrypoint ' busybox", "exec x", "exec",
        "rm", "rm --all x", "nonesuch", "cp a b", "cp a:/b c:/d", "cp ./a:b c", "logs --vmm -f x", "logs --tail -1 x",
        "completion tcsh", "wait", "wait --timeout x y", "volumes", "volumes nonesuch", "volumes attach x v:rel",
        "images import x.example/y /no/such/file", "ps --label x", "update x --label y", "events --after x",
        "ingress create i -r x", "ingress create i -r x=y", "ingress create i -r x:y=z:80", "ingress create i",
        "ingress create i -r x=y:80 --guard X=/no",
        "serve --network token-ring", "serve --hypervisor hope", "serve --log-level loud", "operations --limit 0",
    ],
)  # fmt: skip
def test_a_wrong_line_is_a_usage_error(line: str) -> None:
    done = CliRunner().invoke(app, line.split(" "), env={"POLYVISOR_DATA": "/nonexistent"})
    assert (done.exit_code, "Traceback" in done.output) == (2, False), done.output


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("http://:8080/a?b", {"probe": "http", "port": 8080, "tls": False, "path": "/a?b"}),
        ("https://:443", {"probe": "http", "port": 443, "tls": True, "path": "/"}),
        ("tcp://:22", {"probe": "tcp", "port": 22}),
        ("sh -c 'exit 0'", {"probe": "exec", "command": ["sh", "-c", "exit 0"]}),
        (None, None),
    ],
)
def test_a_health_check_is_read(text: str | None, check: dict[str, object] | None) -> None:
    assert parse.health(text) == check


@pytest.mark.parametrize(
    ("text", "flags", "domains", "cidrs"),
    [
        ("deny", (False, False, False), [], []),
        ("https, packages", (False, True, True), [], []),
        ("a.example,*.b.example,10.0.0.0/8,1.2.3.4", (False, False, False), ["a.example", "*.b.example"],
         ["10.0.0.0/8", "1.2.3.4"]),
        ("packages,2001:db8::/32", (False, False, True), [], ["2001:db8::/32"]),
    ],
)  # fmt: skip
def test_what_may_be_reached_is_read(
    text: str, flags: tuple[bool, bool, bool], domains: list[str], cidrs: list[str]
) -> None:
    names = ("allow_http", "allow_https", "allow_package_managers")
    assert parse.egress(text) == {**dict(zip(names, flags, strict=True)), "domains": domains, "cidrs": cidrs}
    assert parse.egress(None) is None and parse.egress("open") == {}


@pytest.mark.parametrize("text", ["", " , ", "open,http", "deny,a.example"])
def test_what_contradicts_itself_is_not_read(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not open"):
        parse.egress(text)


@pytest.mark.parametrize(
    ("text", "port"),
    [("80", (80, 0, "tcp")), ("8080:80", (80, 8080, "tcp")), ("53/udp", (53, 0, "udp")), ("5:6/tcp", (6, 5, "tcp"))],
)
def test_a_port_is_read(text: str, port: tuple[int, int, str]) -> None:
    found = parse.port(text)
    assert (found.guest, found.host, found.protocol) == port


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("v", ("v", "", False, None)), ("v:/x", ("v", "/x", False, None)), ("v:/x:ro", ("v", "/x", True, None)),
        ("v:/x:ro+1G", ("v", "/x", True, "1G")),
    ],
)  # fmt: skip
def test_a_mount_is_read(text: str, mount: tuple[str, str, bool, str | None]) -> None:
    found = parse.mount(text)
    assert (found.volume, found.path, found.read_only, found.overlay) == mount


@pytest.mark.parametrize("text", ["v:/x:rw+1G", "v:/x:+1G", "v:x", ":/x", "v:/x:wo"])
def test_a_mount_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse.mount(text)


def test_variables_come_from_files_then_flags_then_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    monkeypatch.delenv("NOBODYS", raising=False)
    (tmp_path / "env").write_text("#c\n\nA=file\nB=x=y\nOURS\n")
    found = parse.environment(["A=flag", "NOBODYS"], [tmp_path / "env"])
    assert found == {"A": "flag", "B": "x=y", "OURS": "1"}


def test_the_dashes_before_a_command_are_not_of_it() -> None:
    assert parse.command(["--", "a", "--", "b"]) == ["a", "--", "b"]
    assert parse.command(None) == []
    assert parse.entrypoint("") == []
    assert parse.entrypoint("sh -c 'a b'") == ["sh", "-c", "a b"]
    assert parse.entrypoint(None) is None


def test_a_token_says_whose_it_is_and_what_it_may(tmp_path: Path) -> None:
    secret = "s" * 43
    (tmp_path / "bootstrap.json").write_text(json.dumps({"api_key": "k", "jwt_secret": secret}))
    env = {"POLYVISOR_DATA": str(tmp_path)}
    line = ["token", "--subject", "ci", "--scope", "instance:read", "--scope", "image:read", "--duration", "1h30m"]
    done = CliRunner().invoke(app, line, env=env)
    assert done.exit_code == 0, done.output
    claims = jwt.decode(done.output.strip(), secret, algorithms=["HS256"])
    assert (claims["sub"], claims["permissions"]) == ("ci", ["instance:read", "image:read"])
    assert claims["exp"] - claims["iat"] == 5400
    plain = CliRunner().invoke(app, ["token", "--subject", "ci"], env=env)
    assert "permissions" not in jwt.decode(plain.output.strip(), secret, algorithms=["HS256"])


@pytest.mark.parametrize("line", ["token", "token --subject x --duration 5", "token --subject x"])
def test_a_token_needs_a_subject_a_duration_and_a_secret(line: str) -> None:
    done = CliRunner().invoke(app, line.split(" "), env={"POLYVISOR_DATA": "/nonexistent"})
    assert (done.exit_code, "Traceback" in done.output) == (2, False)
