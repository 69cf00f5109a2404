"""An instance's address in the network, given once and kept."""

from __future__ import annotations

from dataclasses import replace

from polyvisor.model.instance import Address, Instance
from polyvisor.model.network import Network, NetworkMode, bridge_address, user_address
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
