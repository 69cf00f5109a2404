"""What a machine may reach, in the words of nftables and dnsmasq. Pure; both network modes put them into frames of
their own.

A connection remembers in its mark why it was let out. When the policy changes, those go on whose reason still holds,
and every other one is asked about anew with its next packet: so what is not allowed any more is cut, and what is, is
not. A name has a set of the addresses that it was told to have, which forgets them after a while: `dnsmasq` answers
for nothing else, remembers nothing, and tells the set before it tells the guest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from polyvisor.model.egress import EgressPolicy, mark_of

LASTS = 600  # seconds that an address of a name stays open; a new connection begins them anew
_TTL = 5  # seconds that a guest may remember an answer: far fewer, so that it seldom outlives the address
_NEVER = ("127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "255.255.255.255")
_REASON = 0x80000000  # no mark of ours for other purposes has this bit


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host knows beside the policy: names of package registries, addresses that are open to no machine, and
    whether what the machine says to others at port 443 is led to who puts credentials in."""

    packages: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """One way out: why, and which packets; by name, that, and the set of its addresses."""

    reason: str
    match: str = ""
    name: str = ""
    set: str = ""

    @property
    def mark(self) -> int:
        """What connections are marked with that go this way."""
        return _REASON | int.from_bytes(hashlib.sha256(self.reason.encode()).digest()[:4])


def ways(policy: EgressPolicy | None, facts: Facts, prefix: str) -> list[Way]:
    """All ways out; sets are called `prefix` and something."""
    if policy is None or policy.open:
        return [Way("open")]
    found = [Way(f"port {port}", f"meta l4proto {{ tcp, udp }} th dport {port} ") for port in policy.ports]
    found += [Way(f"range {cidr}", f"ip daddr {cidr} ") for cidr in policy.cidrs if ":" not in cidr]
    for name in policy.names(facts.packages):
        address_set = prefix + hashlib.sha256(name.encode()).hexdigest()[:12]
        found.append(Way(f"name {name}", f"ip daddr @{address_set} ", name, address_set))
    return found


def sets(policy: EgressPolicy | None, facts: Facts, prefix: str) -> list[str]:
    """The sets of addresses that its rules look into, by name."""
    return [way.set for way in ways(policy, facts, prefix) if way.set]


def declared(name: str) -> str:
    """Such a set."""
    return f"set {name} {{ type ipv4_addr; size 4096; flags dynamic,timeout; timeout {LASTS}s; }}"


def rules(policy: EgressPolicy | None, facts: Facts, prefix: str) -> list[str]:
    """What becomes of a packet that the machine sends. `refuse` is a chain that every frame has.

    Without a policy, in a place that could have one, the world is open and nothing of the host's is closed.
    """
    if policy is None:
        return ["accept"]
    found = ways(policy, facts, prefix)
    lines = ["ct direction reply accept", f"ip daddr {{ {', '.join((*_NEVER, *facts.closed))} }} goto refuse"]
    if not policy.open:
        lines.append("meta l4proto { tcp, udp } th dport { 53, 853 } goto refuse")
    if found:
        lines.append(f"ct mark {{ {', '.join(dict.fromkeys(hex(way.mark) for way in found))} }} accept")
    for way in found:
        renew = f"update @{way.set} {{ ip daddr }} " if way.set else ""
        lines.append(f"{way.match}{renew}ct mark set {way.mark:#x} accept")
    return [*lines, "goto refuse"]


REFUSE = ("meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited")


def resolver(policy: EgressPolicy | None, facts: Facts, prefix: str, upstream: str, table: str) -> list[str]:
    """The lines of a dnsmasq that answers for what is open, from `upstream`, and refuses all else."""
    lines = ["no-resolv", "no-hosts", "no-poll", "bind-interfaces", "cache-size=0", f"max-ttl={_TTL}", "filter-AAAA"]
    if policy is None or policy.resolves_all:
        lines.append(f"server={upstream}")
    for way in ways(policy, facts, prefix):
        if way.name:
            lines += [f"server=/{way.name}/{upstream}", f"nftset=/{way.name}/4#inet#{table}#{way.set}"]
    return lines


def in_force(policy: EgressPolicy | None, facts: Facts) -> str:
    """A short name for the policy with those facts: what is in force is anew where either changes."""
    return mark_of(policy) + hashlib.sha256(repr(facts).encode()).hexdigest()[:8]


def local_addresses(trie: str) -> tuple[str, ...]:
    """The host's own addresses, from the kernel's table (`/proc/net/fib_trie`)."""
    found, last = set[str](), ""
    for line in trie.splitlines():
        words = line.split()
        if words[:1] == ["|--"]:
            last = words[1]
        elif words[-1:] == ["LOCAL"]:
            found.add(last)
    return tuple(sorted(found))


def joined(lines: Sequence[str], indent: str = "    ") -> str:
    """Rules, one a line."""
    return "".join(f"{indent}{line}\n" for line in lines)
