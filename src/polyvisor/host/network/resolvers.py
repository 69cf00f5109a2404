"""A resolver of its own for each bridge-mode instance whose policy is about names: who asks another one is led to it.

Each is a dnsmasq on the bridge's address, at a port that is in its file and stays with the instance.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from polyvisor.host.network import dnsmasq
from polyvisor.model.ids import InstanceId

_PORT = "port="


class Resolvers:
    """Them and the files that they were begun with, below `folder`."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._user, self._group, _ = dnsmasq.account()

    def _file(self, id: InstanceId) -> Path:
        return self._folder / f"{id}.conf"

    def _pid_file(self, id: InstanceId) -> Path:
        return self._folder / f"{id}.pid"

    def port(self, id: InstanceId) -> int:
        """Where the instance's listens; 0: it has none."""
        try:
            lines = self._file(id).read_text().splitlines()
        except FileNotFoundError:
            return 0
        return next((int(line.removeprefix(_PORT)) for line in lines if line.startswith(_PORT)), 0)

    def runs(self, id: InstanceId) -> bool:
        """Whether it answers."""
        return dnsmasq.pid_in(self._pid_file(id)) is not None

    async def ensure(self, id: InstanceId, lines: Sequence[str]) -> int:
        """It answers as these lines say; its port. :raise Unsupported: it does not start."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        port = self.port(id) or _free(self._address)
        text = "".join(f"{line}\n" for line in (f"{_PORT}{port}", f"listen-address={self._address}", *lines))
        file, pid = self._file(id), dnsmasq.pid_in(self._pid_file(id))
        if pid is not None and file.exists() and file.read_text() == text:
            return port
        if pid is not None:
            await dnsmasq.end(pid)
        part = file.with_suffix(".part")
        part.write_text(text)
        part.replace(file)
        line = [
            "dnsmasq", f"--conf-file={file}", "--keep-in-foreground", f"--pid-file={self._pid_file(id)}",
            f"--user={self._user}", f"--group={self._group}", "--log-facility=/dev/null",
        ]  # fmt: skip
        await dnsmasq.begin(line, self._pid_file(id), file.with_suffix(".log"))
        return port

    async def remove(self, id: InstanceId) -> None:
        """Nothing of it is left."""
        if (pid := dnsmasq.pid_in(self._pid_file(id))) is not None:
            await dnsmasq.end(pid)
        for suffix in (".conf", ".pid", ".log", ".part"):
            (self._folder / f"{id}{suffix}").unlink(missing_ok=True)

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """Those of no known instance are gone."""
        for file in self._folder.glob("*.conf") if self._folder.exists() else ():
            if file.stem not in known:
                await self.remove(InstanceId(file.stem))


def _free(address: str) -> int:
    """A port at which nobody listens there, for either protocol."""
    while True:
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            stream.bind((address, 0))
            port: int = stream.getsockname()[1]
            try:
                datagrams.bind((address, port))
            except OSError:
                continue
            return port
