"""An instance's places in networks: its address in ours, given once and kept, and the operator's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyvisor.model.faults import NotFound
from polyvisor.model.instance import Address, Instance
from polyvisor.model.network import Network, NetworkMode, bridge_address, user_address
from polyvisor.ports.host import Host
from polyvisor.ports.store import Unit


async def give_address(unit: Unit, network: Network, instance: Instance) -> Instance:
    """The instance with an address, if it is to be in the network. :raise NoCapacity: the subnet is full."""
    if not instance.spec.network or instance.address is not None:
        return instance
    address: Address
    if network.mode is NetworkMode.USER:
        address = user_address(network, instance.id, instance.number)
    else:
        address = bridge_address(network, instance.id, await unit.instances.addresses())
    await unit.instances.give(instance.id, address, unique=network.mode is NetworkMode.BRIDGE)
    return replace(instance, address=address)


def require_nics(host: Host, names: Sequence[str]) -> None:
    """:raise NotFound: the host has no NIC of one of these names."""
    known = {nic.name for nic in host.nics()}
    for name in names:
        if name not in known:
            raise NotFound(f"nics: the host has no NIC {name[:80]!r}", field="nics", subject=name)
