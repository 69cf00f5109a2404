"""The rules as text: whole in one transaction, and one element less without regard to the others."""

from __future__ import annotations

import ipaddress

from polyvisor.host.network import rules
from polyvisor.model.network import Network, NetworkMode

NET = Network(NetworkMode.BRIDGE, ipaddress.IPv4Network("10.77.0.0/16"))
ONE = rules.Member("pvone", "02:00:00:00:00:01", "10.77.0.10", 1)
TWO = rules.Member("pvtwo", "02:00:00:00:00:02", "10.77.0.11", 2)


def test_the_whole_holds_every_member() -> None:
    text = rules.table(NET, "br0", [ONE, TWO])
    assert 'elements = { "pvone" . 10.77.0.10, "pvtwo" . 10.77.0.11 }' in text
    assert 'elements = { "pvone" : 1, "pvtwo" : 2 }' in text
    for family in ("inet", "bridge"):
        assert text.index(f"delete table {family} polyvisor\n") < text.index(f"table {family} polyvisor {{\n")


def test_without_members_there_are_no_elements() -> None:
    assert "elements" not in rules.table(NET, "br0", [])


def test_a_member_is_added_before_it_is_deleted() -> None:
    lines = rules.unguard(ONE).splitlines()
    assert [line.split()[0] for line in lines] == ["add"] * 4 + ["delete"] * 4
    assert rules.guard(ONE).splitlines() == lines[:4]
