"""Connections to bridge-mode instances, as this host's packet filter tracks them.

From the host, conntrack knows them, with how far they are; those that end between two looks it still knows for a
while. Between guests of a project frames pass below it: there a set of the bridge's table remembers for some seconds
who sent something to whom.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from time import monotonic

from polyvisor.host.network import rules
from polyvisor.host.run import run
from polyvisor.model.faults import Unsupported
from polyvisor.model.ids import InstanceId
from polyvisor.model.network import Network
from polyvisor.model.standby import Connection

_LIMIT = 20.0
_MOST = 256 << 20
_FRESH = 0.5  # seconds: all instances are looked at together
_OPEN = frozenset({"SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT"})  # bytes may still go one way at least


@dataclass(frozen=True, slots=True)
class Flow:
    """One connection; `id` tells it from others with the same ends."""

    id: str
    to: str
    connection: Connection
    open: bool
    ours: bool = False


def tracked(text: str) -> list[Flow]:
    """What `conntrack -L -o id` says of TCP."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[0] != "tcp":
            continue
        facts: dict[str, str] = {}
        for word in words[4:]:
            name, _, value = word.partition("=")
            facts.setdefault(name, value)  # the first direction comes first
        try:
            connection = Connection(facts["src"], int(facts["dport"]))
            ours = int(facts.get("mark", "0")) == rules.OURS
            found.append(Flow(facts["id"], facts["dst"], connection, words[3] in _OPEN, ours))
        except (KeyError, ValueError):
            continue
    return found


def passed(text: str) -> list[Flow]:
    """What `nft -j list set` says of the set of those who sent something a moment ago."""
    found = []
    for row in json.loads(text or "{}").get("nftables", []):
        for element in row.get("set", {}).get("elem", []):
            source, to, port = element["elem"]["val"]["concat"]
            found.append(Flow(f"{source} {port}", to, Connection(source, int(port)), open=True))
    return found


class Flows:
    """Of this host, looked at anew when the last look is too old."""

    def __init__(self, network: Network) -> None:
        self._subnet = str(network.subnet)
        self._turn = asyncio.Lock()
        self._flows: dict[str, list[Flow]] = {}
        self._until = 0.0
        self._known: dict[InstanceId, frozenset[str]] = {}

    def renew(self) -> None:
        """The next look is not an old one."""
        self._until = 0.0

    async def seen(self, id: InstanceId, ip: str) -> tuple[list[Connection], list[Connection]]:
        """Those that are open to that address, and those that were made and have ended since this was asked last.

        :raise Unsupported: the tool is not installed. :raise Internal: it fails.
        """
        async with self._turn:
            if monotonic() >= self._until:
                self._flows = await self._look()
                self._until = monotonic() + _FRESH
            flows = [flow for flow in self._flows.get(ip, []) if not flow.ours]
        ids = frozenset(flow.id for flow in flows)
        new = ids - self._known.get(id, ids)
        self._known[id] = ids
        over = [flow.connection for flow in flows if flow.id in new and not flow.open]
        return [flow.connection for flow in flows if flow.open], over

    async def _look(self) -> dict[str, list[Flow]]:
        ask = ["conntrack", "-L", "-f", "ipv4", "-p", "tcp", "--orig-dst", self._subnet, "-o", "id"]
        lists = await asyncio.gather(
            run(ask, timeout=_LIMIT, max_output=_MOST),
            run(["nft", "-j", "list", "set", "bridge", rules.TABLE, rules.CALLS], timeout=_LIMIT, max_output=_MOST),
        )
        return await asyncio.to_thread(_by_address, lists[0].out.decode(), lists[1].out.decode())

    async def forget(self, id: InstanceId, ip: str) -> None:
        """Its guest is gone, and whoever has the address next starts without connections: conntrack would count those
        that nobody ended for days."""
        self._known.pop(id, None)
        self.renew()
        with contextlib.suppress(Unsupported):  # not installed: whoever asks is told
            await run(["conntrack", "-D", "-f", "ipv4", "--orig-dst", ip], timeout=_LIMIT, check=False)


def _by_address(connections: str, calls: str) -> dict[str, list[Flow]]:
    found: dict[str, list[Flow]] = {}
    for flow in [*tracked(connections), *passed(calls)]:
        found.setdefault(flow.to, []).append(flow)
    return found
