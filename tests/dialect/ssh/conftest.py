"""The gateway over the fake hypervisor, and OpenSSH's own clients."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from dialect.served import Served, serving
from polyvisor.gateway.limits import Limits
from polyvisor.gateway.listener import Gateway, open_gateway
from polyvisor.server.bootstrap import write_private
from polyvisor.server.listeners import bind


@dataclass(frozen=True, slots=True)
class Ended:
    """A client's run."""

    code: int
    out: bytes
    err: bytes


@dataclass(frozen=True, slots=True)
class Ssh:
    """A gateway, and a folder with keys."""

    served: Served
    gateway: Gateway
    port: int
    folder: Path

    def key(self, name: str, kind: str = "ed25519") -> Path:
        """A key pair's private half."""
        path = self.folder / name
        if not path.exists():
            argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"{name}@test", "-f", str(path)]
            subprocess.run(argv, check=True)
        return path

    def public(self, name: str) -> str:
        """Its public half."""
        return self.key(name).with_suffix(".pub").read_text()

    async def run(self, *argv: str, key: str = "one", stdin: bytes = b"", port: str = "-p") -> Ended:
        """A client of OpenSSH's, told nothing but where and by which key."""
        options = [
            "-F", "none", "-i", str(self.key(key)), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={self.folder / 'known'}",
            "-o", "LogLevel=ERROR", port, str(self.port),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            argv[0], *options, *argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
        return Ended(process.returncode or 0, out, err)

    async def ssh(self, vm: str, *words: str, key: str = "one", stdin: bytes = b"", flags: Sequence[str] = ()) -> Ended:
        """A command there."""
        return await self.run("ssh", *flags, f"{vm}@127.0.0.1", *words, key=key, stdin=stdin)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def ssh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ssh]:
    """It; the operator has the key `one`."""
    folder = tmp_path_factory.mktemp("ssh")
    async with serving(folder / "data") as served:
        sock = bind("127.0.0.1:0", "ssh.listen")
        gateway = await open_gateway(served.parts.engine, sock, folder / "data", Limits(user="appuser"), write_private)
        made = Ssh(served, gateway, sock.getsockname()[1], folder)
        body = {"public_key": made.public("one")}
        assert (await served.http.post("/api/v1/ssh-keys", json=body)).status_code == 201
        yield made
        await gateway.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vm(ssh: Ssh) -> str:
    """The name of an instance of the operator's."""
    return str((await ssh.served.make())["name"])
