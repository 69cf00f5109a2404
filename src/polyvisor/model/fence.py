"""From which addresses a credential holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from polyvisor.model.faults import Invalid

_MOST = 200
Net = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Fence:
    """Networks from which a credential holds, and others from which it does not.

    With any `allow`, it holds from there alone, whatever `deny` says; without, from everywhere but `deny`.
    """

    allow: tuple[Net, ...] = ()
    deny: tuple[Net, ...] = ()

    def lets(self, address: str) -> bool:
        """Whether it holds from that address; from one that is not known only where there is no fence."""
        if not self.allow and not self.deny:
            return True
        try:
            here = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(here, IPv6Address) and here.ipv4_mapped is not None:
            here = here.ipv4_mapped
        if self.allow:
            return any(here in net for net in self.allow)
        return not any(here in net for net in self.deny)


NO_FENCE = Fence()


def fence(allow: Iterable[str], deny: Iterable[str]) -> Fence:
    """Of networks and addresses as people write them. :raise Invalid: one is none, or is allowed and denied."""
    allowed, denied = _nets(allow, "allow"), _nets(deny, "deny")
    for net in denied:
        if any(net.network_address in other and net.broadcast_address in other for other in allowed):
            raise Invalid(f"deny: {shown(net)} is allowed", field="deny")
    return Fence(allowed, denied)


def shown(net: Net) -> str:
    """As people write it."""
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def _nets(words: Iterable[str], field: str) -> tuple[Net, ...]:
    found: dict[Net, None] = {}
    for word in words:
        try:
            found[ip_network(word, strict=False)] = None
        except ValueError as error:
            raise Invalid(f"{field}: {word[:64]!r} is no address and no network", field=field) from error
    if len(found) > _MOST:
        raise Invalid(f"{field}: at most {_MOST} networks", field=field)
    return tuple(found)
