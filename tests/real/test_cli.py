"""The command as people use it, on real guests: streams, exit codes, a terminal, copies."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from real.guests import lasting
from serving import POLYVISOR, Server

LIMIT = 60.0


@pytest.fixture(scope="module")
def vm(base: Server) -> Iterator[str]:
    """One guest for the whole module."""
    with lasting(base, memory="128M", name="cli-vm") as id:
        yield id


def test_run_shows_the_output_and_ends_with_the_workloads_code(base: Server) -> None:
    done = base.cli("run", "--name", "cli-run", "busybox", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    try:
        assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 3)
        assert base.cli("wait", "cli-run").stdout == b"3\n"
        assert json.loads(base.cli("inspect", "--json", "cli-run", check=True).stdout)["exit"]["code"] == 3
    finally:
        base.cli("rm", "cli-run", check=True)


def test_exec_keeps_streams_apart(base: Server, vm: str) -> None:
    done = base.cli("exec", vm, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


def test_ten_mebibytes_through_standard_input_and_back(base: Server, vm: str) -> None:
    data = os.urandom(10 * 2**20)
    done = base.cli("exec", "-i", vm, "--", "cat", stdin=data)
    assert done.returncode == 0 and done.stdout == data


def test_a_shell_has_a_terminal_that_resizes(base: Server, vm: str) -> None:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    env = os.environ | {"POLYVISOR_DATA": str(base.data), "TERM": "xterm"}
    shell = subprocess.Popen(
        [POLYVISOR, "shell", vm], stdin=its, stdout=its, stderr=its, env=env, start_new_session=True
    )
    try:
        await_text(ours, b"#")
        os.write(ours, b"stty size\n")
        await_text(ours, b"30 100")
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 41, 133, 0, 0))
        shell.send_signal(signal.SIGWINCH)
        end = time.monotonic() + LIMIT
        while b"41 133" not in type_and_read(ours, b"stty size\n"):
            assert time.monotonic() < end
        os.write(ours, b"exit 5\n")
        assert shell.wait(timeout=LIMIT) == 5
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
        os.close(its)


def await_text(fd: int, wanted: bytes) -> bytes:
    """What the terminal shows, up to the text."""
    shown, end = b"", time.monotonic() + LIMIT
    while wanted not in shown:
        assert select.select([fd], [], [], max(0, end - time.monotonic()))[0], shown
        shown += os.read(fd, 65536)
    return shown


def type_and_read(fd: int, keys: bytes) -> bytes:
    """What the terminal shows within half a second of some keys."""
    os.write(fd, keys)
    shown = b""
    while select.select([fd], [], [], 0.5)[0]:
        shown += os.read(fd, 65536)
    return shown


def test_copies_go_both_ways(base: Server, vm: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_bytes(os.urandom(100_000))
    (tree / "link").symlink_to("deep/file")
    base.cli("cp", str(tree), f"{vm}:/root", check=True)
    back = tmp_path / "back"
    base.cli("cp", f"{vm}:/root/tree", str(back), check=True)
    assert (back / "deep" / "file").read_bytes() == (tree / "deep" / "file").read_bytes()
    assert (back / "link").readlink() == Path("deep/file")


@pytest.mark.parametrize("path", ["relative", "/no/such/thing", "/srv/../../../../no/such"])
def test_a_copy_of_what_is_not_there_writes_nothing(base: Server, vm: str, tmp_path: Path, path: str) -> None:
    done = base.cli("cp", f"{vm}:{path}", str(tmp_path / "here"))
    assert done.returncode not in (0, None) and done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_console_log_and_the_hypervisors_words_can_be_read(base: Server, vm: str) -> None:
    assert base.cli("logs", "--vmm", vm).returncode == 0
    assert b"running" in base.cli("ps", check=True).stdout


def test_doctor_finds_an_accelerator_that_runs_code(base: Server) -> None:
    done = base.cli("doctor", "--json")
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0 and found["accelerator"]["ok"]
    assert any(word in found["accelerator"]["text"] for word in ("kvm", "tcg"))
