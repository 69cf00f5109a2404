"""`Network`: where the instances' addresses come from, in one of two modes with one meaning of `Address`."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from polyvisor.model.faults import NoCapacity
from polyvisor.model.ids import InstanceId
from polyvisor.model.instance import Address


class NetworkMode(StrEnum):
    """`user`: each VM behind user-mode NAT of its own, nothing on the host is touched. `bridge`: one NAT bridge."""

    USER = "user"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Network:
    """The default network of a host. In user mode `subnet` is cut into one /24 per instance."""

    mode: NetworkMode
    subnet: ipaddress.IPv4Network
    name: str = "default"

    @property
    def gateway(self) -> str:
        """The bridge's own address (bridge mode)."""
        return str(self.subnet.network_address + 1)


@dataclass(frozen=True, slots=True)
class HostNic:
    """A network of the operator's that machines may be put into: `bridge` is a Linux bridge that is there already."""

    name: str
    number: int
    bridge: str
    description: str = ""


def bridged_mac(id: InstanceId, index: int) -> str:
    """The MAC of a machine's NIC on a bridge of the operator's, the first, second and so on."""
    return mac_of(InstanceId(f"{id}/{index}"))


def mac_of(id: InstanceId) -> str:
    """A locally administered MAC: a pure function of the id, 40 bits of it."""
    digest = hashlib.sha256(id.encode()).digest()[:5]
    return ":".join(["02", *(f"{b:02x}" for b in digest)])


def user_address(network: Network, id: InstanceId, number: int) -> Address:
    """The address inside the instance's own user-mode subnet; equal ones never meet, so wrapping is harmless."""
    slots = 2 ** (24 - network.subnet.prefixlen)
    base = network.subnet.network_address + (number % slots) * 256
    return Address(mac_of(id), str(base + 15), 24, str(base + 2), str(base + 3))


def bridge_address(network: Network, id: InstanceId, taken: Collection[str]) -> Address:
    """The lowest free address of the bridge's subnet; the first ten are kept for the host.

    :raise NoCapacity: the subnet is full.
    """
    used = set(taken)
    free = next((ip for ip in addresses(network) if ip not in used), None)
    if free is None:
        raise NoCapacity("the network has no free address")
    return Address(mac_of(id), free, network.subnet.prefixlen, network.gateway, network.gateway)


def addresses(network: Network) -> Iterator[str]:
    """The addresses that may be given to instances, in order, one at a time: a subnet may hold millions."""
    first = int(network.subnet.network_address) + 10
    last = int(network.subnet.broadcast_address)
    return (str(ipaddress.IPv4Address(n)) for n in range(first, last))
