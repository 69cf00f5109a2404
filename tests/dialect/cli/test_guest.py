"""exec, shell, console, logs, cp: into a guest and out of it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import tarfile
import termios
from pathlib import Path

import pytest

from dialect.cli.conftest import PROGRAM, Shell


@pytest.fixture(scope="module")
def vm(shell: Shell) -> str:
    """A ready instance."""
    return shell.vm()


def test_exec_leaves_with_the_commands_output_and_code(shell: Shell, vm: str) -> None:
    done = shell("exec", vm, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert shell("exec", vm, "uname", "-a").stdout == b"Linux fake 0.0 x86_64\n"
    assert shell("exec", vm, "nonesuch").returncode == 127


def test_exec_passes_stdin_only_when_told(shell: Shell, vm: str) -> None:
    data = os.urandom(300_000)
    assert shell("exec", "-i", vm, "cat", stdin=data).stdout == data
    assert shell("exec", vm, "cat", stdin=data).stdout == b""


def test_exec_passes_variables(shell: Shell, vm: str) -> None:
    done = shell("exec", "-e", "A=b=c", "-e", "PASSED", "-e", "ABSENT", vm, "env", env=shell.env(PASSED="on"))
    assert set(done.stdout.decode().splitlines()) == {"A=b=c", "PASSED=on"}


def test_exec_has_codes_for_what_is_not_the_commands_doing(shell: Shell, vm: str) -> None:
    assert shell("exec", "--timeout", "0.1", vm, "sleep", "60").returncode == 124
    missing = shell("exec", "nope", "true")
    assert (missing.returncode, missing.stderr) == (125, b"error: no instance 'nope'\n")


def test_exec_is_interrupted_quietly(shell: Shell, vm: str) -> None:
    with shell.begin("exec", vm, "sh", "-c", "echo up; sleep 600") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=30) == (b"", b"")
    assert running.returncode == 130


def test_a_broken_pipe_is_quiet(shell: Shell, vm: str) -> None:
    with shell.begin("exec", "-i", vm, "cat") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        running.stdin.write(b"x" * 100)
        running.stdin.flush()
        assert running.stderr.read() == b""
        running.stdin.close()
        assert running.wait(30) == 141


def test_a_shell_has_our_terminals_size_and_every_keystroke(shell: Shell, vm: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 44, 0, 0))
    words = [PROGRAM, "exec", "-it", vm, "sh", "-c", "stty; env; cat; stty"]
    before = termios.tcgetattr(theirs)
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, env=shell.env(TERM="vt220")) as running:
        assert until(ours, b"TERM=vt220").startswith(b"33 44")
        os.write(ours, b"\x03typed")  # a Ctrl-C is theirs, not ours
        until(ours, b"\x03typed")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 11, 22, 0, 0))
        running.send_signal(signal.SIGWINCH)
        running.send_signal(signal.SIGWINCH)
        running.terminate()
        running.wait(30)
    assert before[3] & termios.ECHO
    os.close(theirs)
    os.close(ours)


def test_shell_takes_the_program_that_is_named(shell: Shell, vm: str) -> None:
    done = shell("shell", "--shell", "cat", vm, stdin=b"hello")
    assert (done.returncode, done.stdout) == (0, b"hello")
    assert shell("shell", "nope").returncode == 125


def until(fd: int, wanted: bytes) -> bytes:
    """What comes until `wanted` has."""
    heard = b""
    while wanted not in heard:
        assert select.select([fd], [], [], 20)[0], heard
        heard += os.read(fd, 4096)
    return heard


def test_the_console_shows_and_takes(shell: Shell) -> None:
    name = shell.vm()
    with shell.begin("console", name) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == b"fake console\n"
        running.stdin.write(b"typed\n")
        running.stdin.flush()
        assert running.stdout.readline() == b"typed\n"
        running.stdin.close()
        shell.ok("stop", "--force", name)
        assert running.wait(30) == 0


def test_logs_follow_to_the_end_and_count_lines(shell: Shell) -> None:
    name = shell.name()
    shell.ok("run", "-d", "--name", name, "busybox", "--", "sh", "-c", "echo 1; echo 2; echo 3; echo no >&2; sleep 0.3")
    followed = shell("logs", "-f", name)
    assert (followed.stdout, followed.stderr) == (b"1\n2\n3\n", b"no\n")
    tail = shell("logs", "--tail", "2", name)
    assert (tail.stdout, tail.stderr) == (b"3\n", b"no\n")
    assert shell.ok("logs", "--tail", "0", name) == ""
    both = shell("logs", "-f", "-n", "1", name)
    assert (both.stdout, both.stderr) == (b"", b"no\n")
    records = [json.loads(line) for line in shell.ok("logs", "--json", name).splitlines()]
    assert [record["stream"] for record in records] == ["start", "stdout", "stdout", "stdout", "stderr", "exit"]
    assert shell.ok("logs", "--vmm", name) == ""


def there(shell: Shell, vm: str, path: str) -> bytes:
    """A file of the guest."""
    return shell.http.get(f"/instances/{vm}/files", params={"path": path}).raise_for_status().content


def test_cp_of_a_file_both_ways(shell: Shell, vm: str, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (tmp_path / "f").write_bytes(data)
    shell.ok("cp", str(tmp_path / "f"), f"{vm}:/dir/g")
    shell.ok("cp", f"{vm}:/dir/g", str(tmp_path / "h"))
    assert (tmp_path / "h").read_bytes() == data
    shell.ok("cp", f"{vm}:/dir/g", str(tmp_path))
    assert (tmp_path / "g").read_bytes() == data
    shell.ok("cp", str(tmp_path / "f"), f"{vm}:/dir")
    assert there(shell, vm, "/dir/f") == data


def test_cp_of_a_directory_both_ways(shell: Shell, vm: str, tmp_path: Path) -> None:
    (tmp_path / "d" / "sub").mkdir(parents=True)
    (tmp_path / "d" / "sub" / "f").write_bytes(b"deep")
    (tmp_path / "d" / "top").write_bytes(b"top")
    shell.ok("cp", str(tmp_path / "d"), f"{vm}:/new")  # not there: it becomes the directory
    assert there(shell, vm, "/new/sub/f") == b"deep"
    shell.ok("cp", str(tmp_path / "d"), f"{vm}:/new")  # there: into it
    assert there(shell, vm, "/new/d/top") == b"top"
    shell.ok("cp", f"{tmp_path}/d/.", f"{vm}:/new")
    assert there(shell, vm, "/new/top") == b"top"
    shell.ok("cp", f"{vm}:/new/d", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "f").read_bytes() == b"deep"
    shell.ok("cp", f"{vm}:/new/d", str(tmp_path / "back"))
    assert (tmp_path / "back" / "d" / "top").read_bytes() == b"top"
    shell.ok("cp", f"{vm}:/new/d/.", str(tmp_path))
    assert (tmp_path / "top").read_bytes() == b"top"


def test_cp_of_tar_streams(shell: Shell, vm: str) -> None:
    sent = io.BytesIO()
    with tarfile.open(fileobj=sent, mode="w") as archive:
        member = tarfile.TarInfo("x/y")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"hi"))
    assert shell("cp", "-", f"{vm}:/tars", stdin=sent.getvalue()).returncode == 0
    with tarfile.open(fileobj=io.BytesIO(shell("cp", f"{vm}:/tars/x", "-").stdout)) as archive:
        assert archive.getnames() == ["x/y"]


def test_cp_says_what_does_not_fit(shell: Shell, vm: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "f").write_text("x")
    shell.http.put(f"/instances/{vm}/files", params={"path": "/fit/dir/f"}, content=b"x").raise_for_status()
    for source, target, text in [
        (f"{vm}:/nope", str(tmp_path), "does not exist"),
        (str(tmp_path / "nope"), f"{vm}:/x", "does not exist"),
        (f"{vm}:/fit/dir", str(tmp_path / "file"), "is not a directory"),
        (f"{vm}:/fit/dir/f", f"{tmp_path}/nope/", "is not a directory"),
        (str(tmp_path / "dir"), f"{vm}:/fit/dir/f", "is a file"),
        (f"{vm}:/fit/dir/f", f"{tmp_path}/nope/deep", "No such file"),
    ]:
        wrong = shell("cp", source, target)
        assert (wrong.returncode, text in wrong.stderr.decode()) == (1, True), wrong.stderr
