"""DHCP and DNS of the bridge: one dnsmasq, told by files, one per instance and kind.

It runs under a user of its own, which may not enter the data directory; so what it reads lies in a directory of the
system's run files. Names are per project, `db.PROJECT.polyvisor.internal`, with the project's domain as the search
domain of its guests: nobody can take another project's name. Names that clients send are ignored, and no name stands
in a DHCP line, where some words have a meaning of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

from polyvisor.host.network import dnsmasq
from polyvisor.host.paths import Paths
from polyvisor.model.host import Blueprint
from polyvisor.model.network import Network

ZONE = "polyvisor.internal"
_OPEN = 10_000  # questions that others have not answered yet; with 150, as it has them, one guest keeps all from asking
_KINDS = ("hosts", "names", "options")  # reservations and records per instance, options per project


def label(text: str) -> str:
    """`text` as one part of a DNS name."""
    return re.sub("[^a-z0-9]", "-", text.lower()).strip("-")[:63].rstrip("-") or "x"


def domain(project: str) -> str:
    """Where the names of a project live."""
    return f"{label(project)}.{ZONE}"


def files(blueprint: Blueprint) -> dict[str, tuple[str, str]]:
    """What dnsmasq reads about an instance: kind → (file name, text)."""
    assert blueprint.address
    tag, zone = label(blueprint.project), domain(blueprint.project)
    called = dict.fromkeys(label(name) for name in (blueprint.spec.hostname, blueprint.name) if name)
    names = " ".join(f"{name}.{zone}" for name in called)
    return {
        "hosts": (blueprint.id, f"{blueprint.address.mac},set:{tag},{blueprint.address.ip},infinite\n"),
        "names": (blueprint.id, f"{blueprint.address.ip} {names}\n"),
        "options": (tag, f"tag:{tag},option:domain-name,{zone}\ntag:{tag},option:domain-search,{zone}\n"),
    }


class Names:
    """The one dnsmasq of a bridge and the files it reads."""

    def __init__(self, paths: Paths, network: Network, bridge: str) -> None:
        self._told = paths.run
        self._pid_file = paths.network / "dnsmasq.pid"
        self._leases = paths.network / "leases"
        self._log = paths.network / "dnsmasq.log"
        self._user, self._group, self._gid = dnsmasq.account()
        self._argv = [
            "dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", f"--pid-file={self._pid_file}",
            f"--user={self._user}", f"--group={self._group}", "--log-facility=-",
            f"--interface={bridge}", "--bind-dynamic", "--except-interface=lo", "--no-hosts", "--no-ping",
            f"--dhcp-range={network.subnet.network_address},static,{network.subnet.netmask},1h",
            f"--dhcp-hostsdir={self._told / 'hosts'}", f"--dhcp-optsdir={self._told / 'options'}",
            f"--hostsdir={self._told / 'names'}", f"--dhcp-leasefile={self._leases}", "--dhcp-authoritative",
            "--dhcp-ignore-names", f"--dhcp-option=option:router,{network.gateway}",
            f"--dhcp-option=option:dns-server,{network.gateway}",
            f"--local=/{ZONE}/", "--domain-needed", "--bogus-priv", f"--dns-forward-max={_OPEN}",
        ]  # fmt: skip

    async def start(self, known: Iterable[Blueprint]) -> None:
        """Exactly the instances in `known` are told, and dnsmasq runs with the options of this version."""
        self._make_folders()
        wanted = {(kind, name): text for b in known for kind, (name, text) in files(b).items()}
        for kind in _KINDS:
            for file in (self._told / kind).iterdir():
                if (kind, file.name) not in wanted:
                    file.unlink()
        for (kind, name), text in wanted.items():
            _write(self._told / kind / name, text)
        await self.ensure()
        self._reread()

    def _make_folders(self) -> None:
        self._told.mkdir(mode=0o750, exist_ok=True)
        with contextlib.suppress(OSError):  # a root that is confined to some ids: dnsmasq runs as root there
            os.chown(self._told, 0, self._gid)
        self._told.chmod(0o750)
        for kind in _KINDS:
            (self._told / kind).mkdir(exist_ok=True)
            (self._told / kind).chmod(0o755)

    async def ensure(self) -> None:
        """dnsmasq runs. One that was started with other options is replaced. :raise Unsupported: it does not start."""
        pid = self._pid()
        if pid is not None and dnsmasq.command_of(pid) == self._argv:
            return
        if pid is not None:
            await dnsmasq.end(pid)
        await dnsmasq.begin(self._argv, self._pid_file, self._log)

    def _pid(self) -> int | None:
        return dnsmasq.pid_in(self._pid_file)

    def _reread(self) -> None:
        if (pid := self._pid()) is not None:
            os.kill(pid, signal.SIGHUP)

    async def add(self, blueprint: Blueprint) -> None:
        """The instance's address and names; dnsmasq watches the directories."""
        for kind, (name, text) in files(blueprint).items():
            _write(self._told / kind / name, text)
        await self.ensure()

    def remove(self, blueprint: Blueprint) -> None:
        """Forget the instance. A reservation is only forgotten when all are read anew."""
        found = [self._told / kind / blueprint.id for kind in ("hosts", "names")]
        there = [file for file in found if file.exists()]
        for file in there:
            file.unlink()
        if there:
            self._reread()

    async def stop(self) -> None:
        """Nothing of it is left."""
        if (pid := self._pid()) is not None:
            await dnsmasq.end(pid)
        for kind in _KINDS:
            folder = self._told / kind
            for file in folder.iterdir() if folder.exists() else ():
                file.unlink()
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
        with contextlib.suppress(FileNotFoundError):
            self._told.rmdir()
        for file in (self._pid_file, self._leases, self._log):
            file.unlink(missing_ok=True)


def _write(file: Path, text: str) -> None:
    """Under a name that dnsmasq overlooks, then renamed, so that it never reads half a line."""
    if file.exists() and file.read_text() == text:
        return
    part = file.with_name(f".{file.name}")
    part.write_text(text)
    part.chmod(0o644)
    part.replace(file)
