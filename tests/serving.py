"""A real server as a child process, as a user would start it; shared by the tests that need one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polyvisor.client import Client

POLYVISOR = str(Path(sys.executable).with_name("polyvisor"))
START_LIMIT = 60.0


class Server:
    """`polyvisor serve` on a data directory, on ports of its own. `prefix` goes before the command (a namespace)."""

    def __init__(self, data: Path, *flags: str, prefix: Sequence[str] = ()) -> None:
        self.data = data
        self._argv = [
            *prefix, POLYVISOR, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0",
            *flags,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.log = data.parent / f"{data.name}.log"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Server:
        """Start it and wait for its one line."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._argv, stdout=subprocess.PIPE, stderr=log, env=_environment())
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_LIMIT)
        line = self.process.stdout.readline() if readable else b""
        if not line.startswith(b"ready "):
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            raise AssertionError(f"no ready line but {line!r}; the log ends:\n{self.log.read_text()[-3000:]}")
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """`bootstrap.json`."""
        facts: dict[str, Any] = json.loads((self.data / "bootstrap.json").read_text())
        return facts

    def client(self, key: str | None = None) -> Client:
        """A client of it, the operator's unless told otherwise."""
        return Client(self.facts["url"], key or self.facts["api_key"])

    def cli(
        self, *words: str, stdin: bytes | None = None, timeout: float = 120, check: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """The `polyvisor` command against it."""
        env = _environment() | {"POLYVISOR_DATA": str(self.data)}
        how: dict[str, Any] = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([POLYVISOR, *words], capture_output=True, timeout=timeout, env=env, check=False, **how)
        if check and done.returncode:
            raise AssertionError(f"{words}: exit {done.returncode}: {done.stdout!r} {done.stderr!r}")
        return done

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(timeout=30)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def _environment() -> dict[str, str]:
    """Ours without a word to polyvisor in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POLYVISOR_")}


def machines_of(data: Path) -> list[int]:
    """The pids of every hypervisor process that holds a file below `data`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if b"qemu-system" not in (folder / "cmdline").read_bytes().split(b"\0")[0]:
                continue
            links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(data)) for link in links):
            found.append(int(folder.name))
    return found


def await_gone(pids: list[int], limit: float = 10.0) -> None:
    """Until none of these processes exists."""
    end = time.monotonic() + limit
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.02)
