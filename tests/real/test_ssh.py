"""OpenSSH's clients into a guest that has neither a network nor an SSH server."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import stat
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from real.guests import lasting
from serving import Server


@dataclass(frozen=True, slots=True)
class Way:
    """Into one guest."""

    vm: str
    folder: Path
    port: str

    def argv(self, program: str, *words: str, port: str = "-p") -> list[str]:
        """A client, told nothing but where and by which key."""
        options = [
            "-F", "none", "-i", str(self.folder / "key"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.folder / 'known'}",
            "-o", "LogLevel=ERROR", port, self.port,
        ]  # fmt: skip
        return [program, *options, *words]

    def run(self, program: str, *words: str, stdin: bytes = b"", port: str = "-p") -> tuple[int, bytes, bytes]:
        """Its exit code, and what it says."""
        done = subprocess.run(self.argv(program, *words, port=port), input=stdin, capture_output=True, timeout=90)
        return done.returncode, done.stdout, done.stderr

    def ssh(self, *words: str, stdin: bytes = b"", flags: tuple[str, ...] = ()) -> tuple[int, bytes, bytes]:
        """A command there."""
        return self.run("ssh", *flags, f"{self.vm}@127.0.0.1", *words, stdin=stdin)

    def at(self, path: str) -> str:
        """A file there."""
        return f"{self.vm}@127.0.0.1:{path}"


@pytest.fixture
def way(another: Callable[..., Server], tmp_path: Path) -> Iterator[Way]:
    """A guest of a server with a gateway, and a key for it."""
    server = another("--ssh-listen", "127.0.0.1:0")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    server.cli("ssh-key", "add", str(tmp_path / "key.pub"), check=True)
    where = json.loads((server.data / "bootstrap.json").read_text())["ssh"]
    assert stat.S_IMODE((server.data / "ssh_host_ed25519_key").stat().st_mode) == 0o600
    with lasting(server, network=False, env={"OWN": "1"}) as vm:
        yield Way(vm, tmp_path, where.rpartition(":")[2])


def commands(way: Way) -> None:
    """Bytes, codes, signals, variables."""
    assert way.ssh("echo out; echo err >&2; echo $OWN $HOME; exit 3") == (3, b"out\n1 /root\n", b"err\n")
    data = os.urandom(1_000_000)
    assert way.ssh("cat", stdin=data) == (0, data, b"")
    assert way.ssh("kill -TERM $$")[0] == 255  # as ssh(1) has it of a command that a signal ended
    code, _, err = way.run("ssh", "nonesuch@127.0.0.1", "true")
    assert code == 255 and b"Permission denied (publickey)" in err


def files(way: Way) -> None:
    """By the old protocol and the new one."""
    data = os.urandom(1_000_000)
    (way.folder / "tree" / "below").mkdir(parents=True)
    (way.folder / "tree" / "data").write_bytes(data)
    (way.folder / "tree" / "below" / "run").write_text("#!/bin/sh\necho ran\n")
    (way.folder / "tree" / "below" / "run").chmod(0o755)
    assert way.run("scp", "-O", "-rpq", str(way.folder / "tree"), way.at("/root/old"), port="-P") == (0, b"", b"")
    assert way.ssh("/root/old/below/run; wc -c < /root/old/data") == (0, b"ran\n1000000\n", b"")
    assert way.run("scp", "-O", "-rq", way.at("/root/old"), str(way.folder / "back"), port="-P") == (0, b"", b"")
    assert (way.folder / "back" / "data").read_bytes() == data
    script = (
        f"mkdir d\ncd d\nput {way.folder}/tree/data f\nrename f g\nsymlink g s\nchmod 600 g\nls -l\n"
        f"rm s\nget g {way.folder}/got\nls /etc\n-mkdir /root/d\n"
    )
    code, out, err = way.run("sftp", "-q", "-b", "-", f"{way.vm}@127.0.0.1", stdin=script.encode(), port="-P")
    assert code == 0 and b"passwd" in out and b"-rw-------" in out, (out, err)
    assert (way.folder / "got").read_bytes() == data
    assert way.ssh("ls -a /root/d")[1].split() == [b".", b"..", b"g"]


def ports(way: Way) -> None:
    """The guest's own loopback, by a guest without a network."""
    way.ssh(
        "ip link set lo up 2>/dev/null; mkdir -p /srv; echo hello > /srv/index.html; httpd -p 127.0.0.1:8000 -h /srv"
    )
    code, out, _ = way.ssh(flags=("-W", "localhost:8000"), stdin=b"GET / HTTP/1.0\r\n\r\n")
    assert code == 0 and out.startswith(b"HTTP/1.1 200") and out.endswith(b"hello\n"), out


async def terminal_of(way: Way, line: bytes, answer: bytes) -> None:
    """One of another size, in which a shell is at home that takes a line."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    os.set_blocking(ours, False)
    process = await asyncio.create_subprocess_exec(
        *way.argv("ssh", "-tt", f"{way.vm}@127.0.0.1"), stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    said = b""
    os.write(ours, line + b"stty size; exit 5\n")
    async with asyncio.timeout(60):
        while process.returncode is None:
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):
                said += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode == 5 and b"40 100" in said and answer in said, said


async def test_a_guest_is_entered_by_ssh(way: Way) -> None:
    commands(way)
    await terminal_of(way, b"echo at $((40+2))\n", b"at 42")
    files(way)
    ports(way)
