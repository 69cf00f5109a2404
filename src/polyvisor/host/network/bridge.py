"""Bridge mode: one bridge with NAT, a TAP per instance, DHCP and DNS by dnsmasq, rules by nftables.

Everything we make carries our name (`polyvisor` table, `pv…` devices, the bridge), so that what is left over can be
recognised. The truth about it is asked of the kernel each time; the only files are dnsmasq's reservations.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path

from polyvisor.host.network import rules
from polyvisor.host.paths import Paths
from polyvisor.host.run import run
from polyvisor.host.spawn import spawn
from polyvisor.model.faults import Internal, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.network import Network
from polyvisor.ports.hypervisor import TapNic

_TAP = "pv"
_TAP_LENGTH = 15  # what the kernel takes for a device name
_LIMIT = 20.0


def tap_name(id: InstanceId) -> str:
    """The TAP device of an instance: the kernel allows 15 characters, 13 of them tell instances apart."""
    return (_TAP + id)[:_TAP_LENGTH]


class BridgeNetwork:
    """A NetworkDriver over iproute2, nftables and dnsmasq."""

    def __init__(self, paths: Paths, network: Network, bridge: str) -> None:
        self._network = network
        self._bridge = bridge
        self._hosts = paths.network / "hosts"
        self._leases = paths.network / "leases"
        self._pid_file = paths.network / "dnsmasq.pid"
        self._log = paths.network / "dnsmasq.log"
        self._turn = asyncio.Lock()

    # -- shared parts --------------------------------------------------------------------------------------------

    async def start(self, known: Sequence[Blueprint]) -> None:
        """See NetworkDriver. :raise Unsupported: this process may not make bridges."""
        self._hosts.mkdir(exist_ok=True)
        wanted = {b.id: b for b in known if b.address is not None}
        for file in self._hosts.iterdir():
            if file.name not in wanted:
                file.unlink()
        for blueprint in wanted.values():
            self._reserve(blueprint)
        try:
            await self._make_bridge()
            await run(["nft", "-f", "-"], stdin=rules.table(self._network, self._bridge).encode(), timeout=_LIMIT)
        except Internal as error:
            raise Unsupported(
                "bridge mode needs root and the tools ip and nft", field="network", private=error.private
            ) from error
        for blueprint in wanted.values():
            await self._guard(blueprint)
        await self._start_dnsmasq()

    async def _make_bridge(self) -> None:
        if not Path(f"/sys/class/net/{self._bridge}").exists():
            await run(["ip", "link", "add", self._bridge, "type", "bridge", "stp_state", "0"], timeout=_LIMIT)
        address = f"{self._network.gateway}/{self._network.subnet.prefixlen}"
        await run(["ip", "addr", "replace", address, "dev", self._bridge], timeout=_LIMIT)
        await run(["ip", "link", "set", self._bridge, "up"], timeout=_LIMIT)
        await asyncio.to_thread(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")

    def _dnsmasq(self) -> int | None:
        """The pid of our dnsmasq, proven by its command line."""
        try:
            pid = int(self._pid_file.read_text())
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self._pid_file).encode() in line else None

    async def _start_dnsmasq(self) -> None:
        """Ours from an earlier run goes on with leases in its memory; it only reads the reservations again."""
        if (pid := self._dnsmasq()) is not None:
            os.kill(pid, signal.SIGHUP)
            return
        argv = [
            "dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", f"--pid-file={self._pid_file}", "--user=root",
            f"--interface={self._bridge}", "--bind-interfaces", "--except-interface=lo", "--no-hosts", "--no-ping",
            f"--dhcp-range={self._network.subnet.network_address},static,{self._network.subnet.netmask},1h",
            f"--dhcp-hostsdir={self._hosts}", f"--dhcp-leasefile={self._leases}", "--dhcp-authoritative",
            f"--dhcp-option=option:router,{self._network.gateway}",
            f"--dhcp-option=option:dns-server,{self._network.gateway}",
            "--domain=polyvisor.internal", "--expand-hosts", "--local=/polyvisor.internal/", "--stop-dns-rebind",
            "--rebind-localhost-ok", "--log-facility=-",
        ]  # fmt: skip
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            pid = await asyncio.to_thread(spawn, argv, fds=(), output=log)
        finally:
            os.close(log)
        for _ in range(250):
            if self._dnsmasq() is not None:
                return
            if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
                break
            await asyncio.sleep(0.02)
        raise Unsupported("dnsmasq does not start", field="network", private=self._log.read_text()[-2000:])

    async def stop(self) -> None:
        """See NetworkDriver."""
        if (pid := self._dnsmasq()) is not None:
            await _end(pid)
        for name in await self._taps():
            await run(["ip", "link", "del", name], timeout=_LIMIT, check=False)
        await run(["nft", "delete", "table", "inet", rules.TABLE], timeout=_LIMIT, check=False)
        await run(["nft", "delete", "table", "bridge", rules.TABLE], timeout=_LIMIT, check=False)
        await run(["ip", "link", "del", self._bridge], timeout=_LIMIT, check=False)
        for file in (self._pid_file, self._leases, self._log):
            file.unlink(missing_ok=True)

    # -- one instance --------------------------------------------------------------------------------------------

    def check(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        if blueprint.spec.ports:
            raise Unsupported("ports: in bridge mode the host reaches the instance at its own address", field="ports")

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        name = tap_name(blueprint.id)
        self._reserve(blueprint)
        async with self._turn:
            if not Path(f"/sys/class/net/{name}").exists():
                await run(["ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr"], timeout=_LIMIT)
            await run(["ip", "link", "set", name, "master", self._bridge], timeout=_LIMIT)
            await self._guard(blueprint)
            await run(["ip", "link", "set", name, "up"], timeout=_LIMIT)

    async def _guard(self, blueprint: Blueprint) -> None:
        """The instance may speak with its own addresses only."""
        await run(["nft", "-f", "-"], stdin=rules.guard(*_facts(blueprint)).encode(), timeout=_LIMIT)

    def _reserve(self, blueprint: Blueprint) -> None:
        """Tell dnsmasq the instance's address and name; it watches the directory."""
        assert blueprint.address
        name = blueprint.spec.hostname or blueprint.name
        label = name.replace(".", "-").replace("_", "-")
        line = f"{blueprint.address.mac},{blueprint.address.ip},{label},infinite\n"
        file = self._hosts / blueprint.id
        if not file.exists() or file.read_text() != line:
            file.write_text(line)

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver. dnsmasq forgets a reservation only when it reads the directory anew."""
        if blueprint.address is None:
            return
        name = tap_name(blueprint.id)
        async with self._turn:
            if Path(f"/sys/class/net/{name}").exists():
                await run(["ip", "link", "del", name], timeout=_LIMIT)
            words = rules.unguard(*_facts(blueprint)).encode()
            await run(["nft", "-f", "-"], stdin=words, timeout=_LIMIT, check=False)
        file = self._hosts / blueprint.id
        if file.exists():
            file.unlink()
            if (pid := self._dnsmasq()) is not None:
                os.kill(pid, signal.SIGHUP)

    def nic(self, blueprint: Blueprint) -> TapNic | None:
        """See NetworkDriver."""
        return None if blueprint.address is None else TapNic(tap_name(blueprint.id))

    async def _taps(self) -> list[str]:
        done = await run(["ip", "-j", "link", "show", "type", "tun"], timeout=_LIMIT, check=False)
        with contextlib.suppress(ValueError):
            return [row["ifname"] for row in json.loads(done.out or b"[]") if self._is_ours(row)]
        return []

    def _is_ours(self, row: dict[str, object]) -> bool:
        return str(row.get("ifname", "")).startswith(_TAP) and row.get("master") in (self._bridge, None)

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """See NetworkDriver."""
        wanted = {tap_name(id) for id in known}
        for name in await self._taps():
            if name not in wanted:
                await run(["ip", "link", "del", name], timeout=_LIMIT, check=False)


def _facts(blueprint: Blueprint) -> tuple[str, str, str, str]:
    assert blueprint.address
    return tap_name(blueprint.id), blueprint.address.mac, blueprint.address.ip, blueprint.project


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError, ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False


async def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            if _is_zombie(pid) or not Path(f"/proc/{pid}").exists():
                return
            await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
