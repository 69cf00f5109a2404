"""Where a tenant may have the server go."""

from __future__ import annotations

import pytest

from polyvisor.host.images.addresses import is_public, public_addresses, split


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_the_worlds_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:0:0::1", "name", "",
    ],
)  # fmt: skip
def test_what_only_we_or_our_neighbours_reach_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "2130706433", "0x7f000001", "127.1", "localhost", "a" * 300])
async def test_no_spelling_of_loopback_leads_anywhere(host: str) -> None:
    assert await public_addresses(host, 443) == []


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        ("r.example", ("r.example", 443)), ("r.example:5000", ("r.example", 5000)),
        ("[::1]", ("::1", 443)), ("[fd00::1]:80", ("fd00::1", 80)),
    ],
)  # fmt: skip
def test_a_registry_is_a_host_and_a_port(registry: str, expected: tuple[str, int]) -> None:
    assert split(registry) == expected
