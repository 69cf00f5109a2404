"""The installed `polyvisor` command, against a server of its own that the same command runs."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = str(Path(sys.executable).with_name("polyvisor"))
_numbers = itertools.count()


@dataclass(frozen=True)
class Shell:
    """Where commands are typed."""

    data: Path
    url: str
    http: httpx.Client  # for what a test needs but is not about

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a command."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "POLYVISOR_DATA": str(self.data), "COLUMNS": "120", **more}

    def __call__(
        self, *words: str, stdin: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [PROGRAM, *words], env=self.env() if env is None else env, input=stdin or b"", capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip

    def ok(self, *words: str, stdin: bytes | None = None) -> str:
        """What a command that succeeds says."""
        done = self(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr.decode())
        return done.stdout.decode()

    def begin(self, *words: str, **env: str) -> subprocess.Popen[bytes]:
        """Begin a command whose end is not waited for."""
        pipe = subprocess.PIPE
        return subprocess.Popen([PROGRAM, *words], env=self.env(**env), stdin=pipe, stdout=pipe, stderr=pipe)

    def name(self, word: str = "vm") -> str:
        """A name that no other test has."""
        return f"{word}-{next(_numbers)}"

    def vm(self, **fields: Any) -> str:
        """The name of a ready instance."""
        body = {"image": "busybox", "name": self.name(), **fields}
        self.http.post("/instances", json=body, params={"wait": "ready"}).raise_for_status()
        return str(body["name"])

    def record(self, name: str) -> dict[str, Any]:
        """What the server says of an instance."""
        found: dict[str, Any] = self.http.get(f"/instances/{name}").raise_for_status().json()
        return found


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A server, and commands for it."""
    data = tmp_path_factory.mktemp("cli") / "data"
    words = [
        "serve",
        "--hypervisor",
        "fake",
        "--data",
        str(data),
        "--listen",
        "127.0.0.1:0",
        "--tls-listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(
        [PROGRAM, *words, "--log-level", "warning"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            assert select.select([server.stdout], [], [], 60)[0], "the server is not ready"
            ready = server.stdout.readline().decode().split()
            assert ready[0] == "ready", server.stderr.read()
            key = json.loads((data / "bootstrap.json").read_text())["api_key"]
            headers = {"X-API-Key": key}
            with httpx.Client(base_url=f"{ready[1]}/api/v1", headers=headers, trust_env=False, timeout=30) as http:
                yield Shell(data, ready[1], http)
        finally:
            server.send_signal(signal.SIGTERM)
            _, said = server.communicate(timeout=30)
        assert server.returncode == 0, said
        assert b"Traceback" not in said, said.decode()
