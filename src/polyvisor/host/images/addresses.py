"""Whether a registry's name leads out into the world, or to what only this machine or its neighbours can reach."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
_LIMIT = 10.0


def is_public(address: str) -> bool:
    """Whether anybody may be led there. An IPv6 address that wraps an IPv4 one is judged by that."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _NAT64:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if found.teredo or (inner is not None and not is_public(str(inner))):
            return False
    return found.is_global and not found.is_multicast


async def addresses(host: str, port: int) -> Sequence[str]:
    """All that the name stands for; none when it stands for nothing."""
    look = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.wait_for(look, _LIMIT)
    except (OSError, UnicodeError, OverflowError, TimeoutError):
        return []
    return list(dict.fromkeys(str(row[4][0]) for row in found))


async def public_addresses(host: str, port: int) -> Sequence[str]:
    """All that the name stands for, or none when a single one of them is not public."""
    found = await addresses(host, port)
    return found if all(map(is_public, found)) else []


def split(registry: str) -> tuple[str, int]:
    """Host and port of `host[:port]`."""
    if registry.startswith("["):
        host, _, rest = registry[1:].partition("]")
        return host, int(rest.removeprefix(":") or 443)
    host, _, port = registry.partition(":")
    return host, int(port or 443)
