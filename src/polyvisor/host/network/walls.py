"""What bridge-mode instances may reach, in a table of its own: a chain for each that has a policy. Pure.

It stands beside the bridge's tables, which are written anew as a whole: here the addresses of names are kept, and the
chains are changed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from polyvisor.host.network import egress
from polyvisor.host.network.rules import ASKS, LED
from polyvisor.model.egress import EgressPolicy

TABLE = "polyvisor-egress"
_IN = f"inet {TABLE}"
WAYS, WAYS_MASK = 0x77000000, 0xFF000000


def way_of(number: int) -> int:
    """The mark of packets that go on for the instance of that number."""
    return WAYS | (number & ~WAYS_MASK & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Wall:
    """Around one instance. `port` is where its own resolver listens; 0: it asks everybody's. `way` is the mark of
    packets that go on for it, where what it says at port 443 is led to who puts credentials in; 0: it is not."""

    tap: str
    ip: str
    policy: EgressPolicy
    facts: egress.Facts
    port: int = 0
    way: int = 0

    @property
    def mark(self) -> str:
        """A short name for what it lets through."""
        return egress.in_force(self.policy, self.facts)

    @property
    def prefix(self) -> str:
        """How the names of its sets begin."""
        return f"{self.tap}_"

    @property
    def sets(self) -> Sequence[str]:
        """They."""
        return egress.sets(self.policy, self.facts, self.prefix)


def table(bridge: str, walls: Iterable[Wall], subnet: IPv4Network, opener: int) -> str:
    """The table with these, in one transaction; the addresses of names that are there stay. `opener` is the port at
    which somebody puts credentials in; 0: nobody does."""
    parts = (
        "map fences", "map resolvers", "map ways", "set led", "chain refuse", "chain forward", "chain prerouting",
        "chain output",
    )  # fmt: skip
    return (
        f"""
table {_IN} {{
  map fences {{ type ipv4_addr : verdict; }}
  map resolvers {{ type ipv4_addr : inet_service; }}
  map ways {{ type mark : verdict; }}
  set led {{ type ipv4_addr; }}
  chain refuse {{ }}
  chain output {{ type filter hook output priority filter - 5; policy accept; }}
  chain forward {{ type filter hook forward priority filter - 5; policy accept; }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
}}
"""
        + "".join(f"flush {kind} {_IN} {name}\n" for kind, name in (part.split() for part in parts))
        + "".join(f"add rule {_IN} refuse {line}\n" for line in egress.REFUSE)
        + f'add rule {_IN} forward iifname "{bridge}" ip saddr vmap @fences\n'
        + f'add rule {_IN} prerouting iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport 53 '
        + f"ip saddr @resolvers ct mark set {ASKS} redirect to :ip saddr map @resolvers\n"
        + (_opened(bridge, subnet, opener) if opener else "")
        + "".join(raised(wall) for wall in walls)
    )


def _opened(bridge: str, subnet: IPv4Network, opener: int) -> str:
    """Who is led is led there, and what goes on for him does so by his own rules: otherwise it would be this host's,
    who reaches himself and everybody on the bridge."""
    led = f'iifname "{bridge}" ip saddr @led ip daddr != {subnet} tcp dport 443 ct mark set {LED} redirect to :{opener}'
    ours = f"meta mark & {WAYS_MASK:#x} == {WAYS:#x}"
    lines = [
        f"{ours} fib daddr type local goto refuse",
        f"{ours} ip daddr {subnet} goto refuse",
        "meta mark vmap @ways",
    ]
    words = f"add rule {_IN} prerouting {led}\n"
    return words + "".join(f"add rule {_IN} output {line}\n" for line in [*lines, f"{ours} goto refuse"])


def raised(wall: Wall, was: Wall | None = None) -> str:
    """One more, or in the place of the one that `was` there for the same instance."""
    gone = [name for name in was.sets if name not in wall.sets] if was is not None else []
    words = f"add chain {_IN} {wall.tap}\nflush chain {_IN} {wall.tap}\n"
    words += "".join(f"add {egress.declared(f'{_IN} {name}')}\n" for name in wall.sets)
    words += "".join(f"add rule {_IN} {wall.tap} {line}\n" for line in _rules(wall))
    words += "".join(f"delete set {_IN} {name}\n" for name in gone)
    words += f"add element {_IN} fences {{ {wall.ip} : jump {wall.tap} }}\n"
    if was is not None and was.port and was.port != wall.port:
        words += f"delete element {_IN} resolvers {{ {was.ip} }}\n"
    if was is not None and was.way and was.way != wall.way:
        words += _unled(was)
    if wall.way:
        words += (
            f"add element {_IN} ways {{ {wall.way:#x} : jump {wall.tap} }}\nadd element {_IN} led {{ {wall.ip} }}\n"
        )
    return words + (f"add element {_IN} resolvers {{ {wall.ip} : {wall.port} }}\n" if wall.port else "")


def _unled(wall: Wall) -> str:
    return f"delete element {_IN} ways {{ {wall.way:#x} }}\ndelete element {_IN} led {{ {wall.ip} }}\n"


def _rules(wall: Wall) -> list[str]:
    return egress.rules(wall.policy, wall.facts, wall.prefix)


def razed(wall: Wall) -> str:
    """One less."""
    words = f"delete element {_IN} fences {{ {wall.ip} }}\n"
    words += f"delete element {_IN} resolvers {{ {wall.ip} }}\n" if wall.port else ""
    words += _unled(wall) if wall.way else ""
    words += f"flush chain {_IN} {wall.tap}\ndelete chain {_IN} {wall.tap}\n"
    return words + "".join(f"delete set {_IN} {name}\n" for name in wall.sets)
