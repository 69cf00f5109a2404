"""Addresses: the lowest free one."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from polyvisor.model.faults import NoCapacity
from polyvisor.model.ids import InstanceId
from polyvisor.model.network import Network, NetworkMode, addresses, bridge_address, mac_of

I = InstanceId("i" * 24)  # noqa: E741 - short on purpose


def network(subnet: str) -> Network:
    return Network(NetworkMode.BRIDGE, ipaddress.IPv4Network(subnet))


def test_the_lowest_free_address_is_given() -> None:
    net = network("10.77.0.0/16")
    first = list(itertools.islice(addresses(net), 3))
    assert first == ["10.77.0.10", "10.77.0.11", "10.77.0.12"]
    given = bridge_address(net, I, [first[0], first[2]])
    assert (given.ip, given.prefix, given.gateway, given.dns) == (first[1], 16, "10.77.0.1", "10.77.0.1")


def test_a_full_subnet_has_no_room() -> None:
    net = network("192.0.2.0/28")
    assert list(addresses(net))[-1] == "192.0.2.14"
    with pytest.raises(NoCapacity):
        bridge_address(net, I, list(addresses(net)))


def test_a_mac_is_local_and_for_one() -> None:
    assert int(mac_of(I)[:2], 16) & 3 == 2
    assert mac_of(I) == mac_of(I) != mac_of(InstanceId("j" * 24))
