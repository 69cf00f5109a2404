"""Bridge mode: one bridge with NAT, a TAP per instance, DHCP and DNS by dnsmasq, rules by nftables.

Everything we make carries our name (`polyvisor` tables, `pv…` devices, the bridge's alias), so that what is left over
can be recognised. The truth about devices is asked of the kernel each time. The rules are written as a whole when we
start, in one transaction that running guests do not notice, and by single elements afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from polyvisor.host.network import egress, rules, walls
from polyvisor.host.network.names import Names, domain
from polyvisor.host.network.resolvers import Resolvers
from polyvisor.host.network.tap import exists
from polyvisor.host.network.walls import Wall
from polyvisor.host.paths import Paths
from polyvisor.host.run import run
from polyvisor.host.vaults.gate import SharedGate, require_gate
from polyvisor.model.egress import OPEN
from polyvisor.model.faults import Internal, Invalid, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.model.network import Network
from polyvisor.ports.hypervisor import TapNic
from polyvisor.ports.network import Forwards

_TAP = "pv"
_TAP_LENGTH = 15  # what the kernel takes for a device name
_LIMIT = 20.0
_NAME = re.compile(rf"(?!{_TAP})[A-Za-z0-9][A-Za-z0-9_.-]{{0,14}}")


def tap_name(id: InstanceId) -> str:
    """The TAP device of an instance: the kernel allows 15 characters, 13 of them tell instances apart."""
    return (_TAP + id)[:_TAP_LENGTH]


class BridgeNetwork:
    """A NetworkDriver over iproute2, nftables and dnsmasq."""

    def __init__(
        self, paths: Paths, network: Network, bridge: str, packages: Sequence[str] = (), gate: SharedGate | None = None
    ) -> None:
        """`packages`: names of package registries, for those that may reach them. `gate` is where what machines with
        vaults say is led to."""
        if not _NAME.fullmatch(bridge):
            raise Invalid(
                f"network.bridge: 1 to 15 letters, digits, '_', '.' or '-', not beginning with {_TAP!r}",
                field="network.bridge",
            )
        self.network = network
        self._bridge = bridge
        self._alias = paths.run.name  # whose bridge it is
        self._names = Names(paths, network, bridge)
        self._facts = egress.Facts(tuple(packages))
        self._resolvers = Resolvers(paths.network / "resolvers", network.gateway)
        self._gate = gate
        self._walls: dict[InstanceId, Wall] = {}
        self._whole: set[InstanceId] = set()  # whose wall we have raised, or seen that it needs none
        self._members: dict[InstanceId, rules.Member] = {}
        self._marks: dict[str, int] = {}  # by project; written anew with the tables, so they need not outlive us
        self._turn = asyncio.Lock()

    # -- shared parts --------------------------------------------------------------------------------------------

    async def start(self, known: Sequence[Blueprint]) -> None:
        """See NetworkDriver. :raise Unsupported: this process may not make bridges."""
        wanted = [b for b in known if b.address is not None]
        self._members = {b.id: self._member(b) for b in wanted}
        self._walls = {b.id: wall for b in wanted if (wall := self._wall(b, self._resolvers.port(b.id))) is not None}
        self._whole = {b.id for b in wanted if b.spec.egress is None or b.spec.egress.open}  # by what is loaded now
        try:
            await self._make_bridge()
            if self._gate is not None:
                await self._gate.start(str(self.network.gateway))
            self._admit(wanted)
            await self._load()
            await self._rejoin()
        except (Internal, OSError) as error:
            raise Unsupported(
                "bridge mode needs root and the tools ip and nft",
                field="network",
                private=getattr(error, "private", str(error)),
            ) from error
        await self._names.start(wanted)

    def _member(self, blueprint: Blueprint) -> rules.Member:
        assert blueprint.address
        mark = self._marks.setdefault(blueprint.project, len(self._marks) + 1)
        address, spec = blueprint.address, blueprint.spec
        return rules.Member(
            tap_name(blueprint.id), address.mac, address.ip, mark, spec.download_rate, spec.upload_rate,
            spec.egress is not None,
        )  # fmt: skip

    def _wall(self, blueprint: Blueprint, port: int) -> Wall | None:
        assert blueprint.address
        policy, led = blueprint.spec.egress, bool(blueprint.spec.vaults)
        if policy is None and not led:
            return None
        way = walls.way_of(blueprint.number) if led else 0
        return Wall(tap_name(blueprint.id), blueprint.address.ip, policy or OPEN, self._facts, port, way)

    def _admit(self, those: Iterable[Blueprint]) -> None:
        """Who puts credentials in knows them by their addresses."""
        for one in those:
            if self._gate is not None and one.address is not None:
                if one.spec.vaults:
                    self._gate.admit(one.address.ip, one.id, walls.way_of(one.number))
                else:
                    self._gate.dismiss(one.address.ip)

    async def _make_bridge(self) -> None:
        """Its MAC is given, or it would change with the devices that join and leave."""
        device = self._bridge
        if not exists(device):
            mac = "02:" + hashlib.sha256(device.encode()).digest()[:5].hex(":")
            await _ip(
                f"link add {device} address {mac} type bridge stp_state 0",
                f"link set {device} alias {self._alias}",
            )
        elif (await _links("dev", device))[0].get("ifalias") != self._alias:
            raise Unsupported(f"network.bridge: {device} is there already and not ours", field="network.bridge")
        address = f"{self.network.gateway}/{self.network.subnet.prefixlen}"
        await _ip(f"addr replace {address} dev {device}", f"link set {device} up")
        await asyncio.to_thread(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1")

    async def _load(self) -> None:
        """The rules as a whole."""
        words = rules.table(self.network, self._bridge, list(self._members.values()))
        opener = self._gate.port if self._gate is not None else 0
        await _nft(words + walls.table(self._bridge, self._walls.values(), self.network.subnet, opener))

    async def _change(self, words: str) -> None:
        """Some elements; the whole where that fails, since somebody may have flushed all rules."""
        try:
            await _nft(words)
        except Internal:
            await self._load()

    async def _rejoin(self) -> None:
        """Devices of running guests that have lost their bridge, because somebody deleted it or we were cut short."""
        ours = {member.tap for member in self._members.values()}
        taps = await self._taps()
        lost = [row["ifname"] for row in taps if row["ifname"] in ours and "master" not in row]
        there = {row["ifname"] for row in taps}
        known = [self._neighbour(member) for member in self._members.values() if member.tap in there]
        if lost or known:
            await _ip(*(f"link set {name} master {self._bridge} up" for name in lost), *known)
        for member in self._members.values():
            if member.download and exists(member.tap):
                await _slow(member)

    async def close(self) -> None:
        """See NetworkDriver."""
        if self._gate is not None:
            await self._gate.close()

    async def stop(self) -> None:
        """See NetworkDriver."""
        await self._names.stop()
        for row in await self._taps():
            await _ip(f"link del {row['ifname']}", check=False)
        await self._resolvers.sweep(())
        for table in (f"inet {rules.TABLE}", f"bridge {rules.TABLE}", f"inet {walls.TABLE}"):
            await run(["nft", "delete", "table", *table.split()], timeout=_LIMIT, check=False)
        await _ip(f"link del {self._bridge}", check=False)

    # -- one instance --------------------------------------------------------------------------------------------

    def check(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        require_gate(blueprint, self._gate is not None)
        if blueprint.spec.ports:
            raise Unsupported("ports: in bridge mode the host reaches the instance at its own address", field="ports")

    async def plug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver. The rules come first: the device is never up without them."""
        name = tap_name(blueprint.id)
        await self._names.add(blueprint)
        port = await self._resolver(blueprint)
        async with self._turn:
            member = await self._guard(blueprint, port)
            made = [] if exists(name) else [f"tuntap add {name} mode tap vnet_hdr"]
            if made:
                await _ip(*made)
            if member.download:
                await _slow(member)
            await _ip(f"link set {name} master {self._bridge} up", self._neighbour(member))

    async def _guard(self, blueprint: Blueprint, port: int) -> rules.Member:
        """Rules and wall, the new ones in the place of those that were there."""
        id = blueprint.id
        was, wall_was = self._members.get(id), self._walls.pop(id, None)
        member = self._members[id] = self._member(blueprint)
        self._admit([blueprint])
        words = rules.guard(member)
        if was is not None and was != member:
            words = rules.unguard(was) + words
        wall = self._wall(blueprint, port)
        if wall is not None:
            self._walls[id] = wall
            words += walls.raised(wall, wall_was)
        elif wall_was is not None:
            words += walls.razed(wall_was)
        await self._change(words)
        self._whole.add(id)
        return member

    async def _resolver(self, blueprint: Blueprint) -> int:
        """The port of its own resolver, which answers as its policy has it; 0: it asks the one of all."""
        policy = blueprint.spec.egress
        if policy is None or policy.open or blueprint.address is None:
            await self._resolvers.remove(blueprint.id)
            return 0
        prefix = Wall(tap_name(blueprint.id), "", policy, self._facts).prefix
        lines = egress.resolver(policy, self._facts, prefix, self.network.gateway, walls.TABLE)
        return await self._resolvers.ensure(blueprint.id, lines)

    def enforced(self, blueprint: Blueprint) -> bool:
        """See NetworkDriver. A spare that somebody has taken over is his project's from then on as well."""
        id = blueprint.id
        if id not in self._members or blueprint.address is None:
            return True
        wall = self._walls.get(id)
        same = wall == self._wall(blueprint, wall.port if wall is not None else 0)
        answers = wall is None or not wall.port or self._resolvers.runs(id)
        return id in self._whole and same and answers and self._members[id] == self._member(blueprint)

    def require_enforceable(self, blueprint: Blueprint) -> None:
        """See NetworkDriver. It always can."""

    async def enforce(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        await self.plug(blueprint)

    def _neighbour(self, member: rules.Member) -> str:
        """The host need not ask who has that address: while the guest is being restored nobody would answer."""
        return f"neigh replace {member.ip} lladdr {member.mac} dev {self._bridge} nud permanent"

    async def unplug(self, blueprint: Blueprint) -> None:
        """See NetworkDriver."""
        if blueprint.address is None:
            return
        name = tap_name(blueprint.id)
        async with self._turn:
            member = self._members.pop(blueprint.id, None) or self._member(blueprint)
            if exists(name):
                await _ip(f"link del {name}")
            await _ip(f"neigh del {member.ip} dev {self._bridge}", check=False)
            if self._gate is not None:
                self._gate.forget(blueprint.address.ip)
            wall = self._walls.pop(blueprint.id, None)
            self._whole.discard(blueprint.id)
            await self._change(rules.unguard(member) + (walls.razed(wall) if wall is not None else ""))
        await self._resolvers.remove(blueprint.id)
        self._names.remove(blueprint)

    def nic(self, blueprint: Blueprint) -> TapNic | None:
        """See NetworkDriver."""
        return None if blueprint.address is None else TapNic(tap_name(blueprint.id))

    def reach(self, blueprint: Blueprint, forwards: Forwards, port: int) -> tuple[str, int] | None:
        """See NetworkDriver."""
        return None if blueprint.address is None else (blueprint.address.ip, port)

    def domain(self, blueprint: Blueprint) -> str:
        """See NetworkDriver."""
        return domain(blueprint.project)

    async def _taps(self) -> list[dict[str, Any]]:
        """TAP devices with a name of ours, on our bridge or on none."""
        rows = await _links("type", "tun")
        return [row for row in rows if row["ifname"].startswith(_TAP) and row.get("master") in (self._bridge, None)]

    async def sweep(self, known: Collection[InstanceId]) -> None:
        """See NetworkDriver."""
        await self._resolvers.sweep(known)
        wanted = {tap_name(id) for id in known}
        for row in await self._taps():
            if row["ifname"] not in wanted:
                await _ip(f"link del {row['ifname']}", check=False)


async def _ip(*lines: str, check: bool = True) -> None:
    """Several changes by one process."""
    await run(["ip", "-batch", "-"], stdin="\n".join(lines).encode() + b"\n", timeout=_LIMIT, check=check)


async def _slow(member: rules.Member) -> None:
    """What comes to a guest leaves its device at that rate; it goes with the device."""
    size = rules.burst(member.download)
    shape = ["tbf", "rate", f"{member.download}bps", "burst", str(size), "latency", "400ms"]  # bps: bytes a second
    await run(["tc", "qdisc", "replace", "dev", member.tap, "root", *shape], timeout=_LIMIT)


async def _nft(words: str) -> None:
    """One transaction: all of it or nothing."""
    await run(["nft", "-f", "-"], stdin=words.encode(), timeout=_LIMIT)


async def _links(*which: str) -> list[dict[str, Any]]:
    done = await run(["ip", "-j", "link", "show", *which], timeout=_LIMIT)
    return [row for row in json.loads(done.out or b"[]") if row]
