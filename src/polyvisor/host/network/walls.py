"""What bridge-mode instances may reach, in a table of its own: a chain for each that has a policy. Pure.

It stands beside the bridge's tables, which are written anew as a whole: here the addresses of names are kept, and the
chains are changed one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from polyvisor.host.network import egress
from polyvisor.host.network.rules import ASKS
from polyvisor.model.egress import EgressPolicy

TABLE = "polyvisor-egress"
_IN = f"inet {TABLE}"


@dataclass(frozen=True, slots=True)
class Wall:
    """Around one instance. `port` is where its own resolver listens; 0: it asks everybody's."""

    tap: str
    ip: str
    policy: EgressPolicy
    facts: egress.Facts
    port: int = 0

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


def table(bridge: str, walls: Iterable[Wall]) -> str:
    """The table with these, in one transaction; the addresses of names that are there stay."""
    parts = ("map fences", "map resolvers", "chain refuse", "chain forward", "chain prerouting")
    return (
        f"""
table {_IN} {{
  map fences {{ type ipv4_addr : verdict; }}
  map resolvers {{ type ipv4_addr : inet_service; }}
  chain refuse {{ }}
  chain forward {{ type filter hook forward priority filter - 5; policy accept; }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
}}
"""
        + "".join(f"flush {kind} {_IN} {name}\n" for kind, name in (part.split() for part in parts))
        + "".join(f"add rule {_IN} refuse {line}\n" for line in egress.REFUSE)
        + f'add rule {_IN} forward iifname "{bridge}" ip saddr vmap @fences\n'
        + f'add rule {_IN} prerouting iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport 53 '
        + f"ip saddr @resolvers ct mark set {ASKS} redirect to :ip saddr map @resolvers\n"
        + "".join(raised(wall) for wall in walls)
    )


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
    return words + (f"add element {_IN} resolvers {{ {wall.ip} : {wall.port} }}\n" if wall.port else "")


def _rules(wall: Wall) -> list[str]:
    return egress.rules(wall.policy, wall.facts, wall.prefix)


def razed(wall: Wall) -> str:
    """One less."""
    words = f"delete element {_IN} fences {{ {wall.ip} }}\n"
    words += f"delete element {_IN} resolvers {{ {wall.ip} }}\n" if wall.port else ""
    words += f"flush chain {_IN} {wall.tap}\ndelete chain {_IN} {wall.tap}\n"
    return words + "".join(f"delete set {_IN} {name}\n" for name in wall.sets)
