"""The rules as text: whole in one transaction, and one element less without regard to the others."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

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


def test_a_limit_of_what_is_sent_comes_and_goes_with_its_member() -> None:
    slow = replace(TWO, upload=1_000_000)
    limit = "rate over 1000000 bytes/second burst 262144 bytes;"
    text = rules.table(NET, "br0", [ONE, slow])
    assert f"limit pvtwo {{ {limit} }}" in text and 'elements = { "pvtwo" : "pvtwo" }' in text
    lines = rules.unguard(slow).splitlines()
    assert lines[0] == f"add limit bridge polyvisor pvtwo {{ {limit} }}"
    assert lines[-2:] == [
        'delete element bridge polyvisor uploads { "pvtwo" : "pvtwo" }', "delete limit bridge polyvisor pvtwo",
    ]  # fmt: skip
