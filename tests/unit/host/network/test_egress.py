"""Policies as rules and as a resolver's lines, in both frames, and what a host knows beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given

from polyvisor.host.network import egress, enclosed, packages, passt, walls
from polyvisor.host.network.user import UserNetwork
from polyvisor.model.egress import OPEN, EgressPolicy
from polyvisor.model.faults import WrongState
from polyvisor.model.host import Blueprint
from polyvisor.model.instance import Address
from polyvisor.ports.hypervisor import UserNic
from unit.host.network.test_names import blueprint
from unit.model.test_egress import policies

FACTS = egress.Facts(("packages.example",), ("192.0.2.7",))
NOTHING = EgressPolicy(False, False, False)
NAMED = replace(NOTHING, domains=("a.example",))


@given(policies())
def test_what_is_never_open_is_refused_before_all_else(policy: EgressPolicy) -> None:
    lines = egress.rules(policy, FACTS, "n")
    assert lines[0] == "ct direction reply accept" and lines[-1] == "goto refuse"
    assert "169.254.0.0/16" in lines[1] and "192.0.2.7" in lines[1] and lines[1].endswith("goto refuse")
    marks = [way.mark for way in egress.ways(policy, FACTS, "n")]
    assert all(mark >> 31 == 1 for mark in marks) and len(set(marks)) == len(marks)
    assert (policy.open or "53, 853" in lines[2]) and len(lines) == 3 + (not policy.open) + len(marks) + bool(marks)


def test_a_reason_keeps_its_mark_over_other_policies() -> None:
    both = replace(NAMED, domains=("b.example", "a.example"), cidrs=("10.0.0.0/8",))
    marks = {way.reason: way.mark for way in egress.ways(both, FACTS, "n")}
    assert [way.mark for way in egress.ways(NAMED, FACTS, "other")] == [marks["name a.example"]]
    assert egress.ways(replace(NOTHING, cidrs=("2001:db8::/32",)), FACTS, "n") == []  # no network has any


def test_a_resolver_answers_for_what_is_open() -> None:
    def lines(policy: EgressPolicy | None) -> list[str]:
        return [line for line in egress.resolver(policy, FACTS, "n", "1.1.1.1", "t") if "=" in line and "/" in line]

    servers = egress.resolver(NAMED, FACTS, "n", "192.0.0.3", "t")
    (address_set,) = egress.sets(NAMED, FACTS, "n")
    assert "server=/a.example/192.0.0.3" in servers and f"nftset=/a.example/4#inet#t#{address_set}" in servers
    assert "server=192.0.0.3" not in servers and "cache-size=0" in servers
    assert lines(NOTHING) == [] and len(lines(replace(NOTHING, allow_package_managers=True))) == 2
    assert "server=1.1.1.1" in egress.resolver(replace(NOTHING, allow_http=True), FACTS, "n", "1.1.1.1", "t")


def test_an_enclosures_rules_replace_those_before_and_keep_what_stays() -> None:
    words = enclosed.filled(NAMED, FACTS, ("nold", *enclosed.sets(NAMED, FACTS)))
    assert words.count("delete set") == 1 and "delete set inet egress nold\n" in words
    assert "policy drop" in words and 'out oifname "lo" accept' in words
    assert words.index("flush chain inet egress out") < words.index("add rule inet egress out")


def test_what_uses_vaults_is_led_to_who_puts_credentials_in_and_nobody_else_is() -> None:
    led = f"dnat ip to {enclosed.OPENER[0]}:{enclosed.OPENER[1]}"
    assert led not in enclosed.filled(OPEN, FACTS)
    words = enclosed.filled(OPEN, replace(FACTS, opened=True))
    (rule,) = [line for line in words.splitlines() if line.endswith(led)]
    assert "tcp dport 443" in rule and f"meta mark != {enclosed.OPENER_MARK:#x}" in rule
    assert egress.in_force(OPEN, FACTS) != egress.in_force(OPEN, replace(FACTS, opened=True))
    let_in = next(line for line in words.splitlines() if "ct status dnat accept" in line)
    assert words.index(let_in) < words.index("goto refuse")  # which is closed to who was not led there


def test_an_enclosures_command_lines() -> None:
    nic = UserNic(
        (("tcp", 18000, 80), ("udp", 19000, 53)), enclosure=enclosed.enclosure("x", NAMED, FACTS, "10.128.1.3")
    )
    address = Address("02:00:00:00:00:01", "10.128.1.15", 24, "10.128.1.2", "10.128.1.3")
    assert nic.enclosure
    line = enclosed.argv((7, 8, 9, 10), nic, nic.enclosure, address, "eth0")
    outer, inner = line[: line.index("--")], line[line.index("--") :]
    assert " ".join(outer).count("127.0.0.1/18000:18000") == 1 and "127.0.0.1/18000:80" in inner
    assert "listen-address=10.128.1.3\n" in nic.enclosure.resolver
    assert {"--tcp-ns", "--udp-ns", "--no-map-gw"} <= set(outer)
    assert inner[4:8] == ["polyvisor-egress-x", "9", "10", "10.128.1.3"] and inner[inner.index("--fd") + 1] == "7"
    bare = enclosed.argv((7, 8, 9, 10), replace(nic, forwards=()), nic.enclosure, address, None)
    assert bare[bare.index("--tcp-ports") + 1] == "none" and passt.ports(replace(nic, forwards=()), named=True) == []


def test_a_wall_is_raised_changed_and_razed() -> None:
    wall = walls.Wall("pvone", "10.77.0.10", NAMED, FACTS, 5300)
    words = walls.raised(wall)
    assert "fences { 10.77.0.10 : jump pvone }" in words and "resolvers { 10.77.0.10 : 5300 }" in words
    wider = replace(wall, policy=OPEN, port=0)
    after = walls.raised(wider, wall)
    assert f"delete set inet polyvisor-egress {wall.sets[0]}\n" in after and wider.sets == []
    assert "delete element inet polyvisor-egress resolvers { 10.77.0.10 }\n" in after
    gone = walls.razed(wall)
    assert gone.index("delete element") < gone.index("delete chain") < gone.index("delete set")
    assert words in walls.table("br0", [wall], IPv4Network("10.77.0.0/16"), 8443)


def _with(policy: EgressPolicy | None) -> Blueprint:
    plain = blueprint("x")
    return replace(plain, spec=replace(plain.spec, egress=policy))


async def test_only_what_was_launched_into_an_enclosure_can_be_told() -> None:
    network = UserNetwork(real=False)
    nic = network.nic(_with(None))
    assert nic and nic.enclosure is None and network.enforced(_with(NAMED))
    with pytest.raises(WrongState) as caught:
        network.require_enforceable(_with(NAMED))
    assert caught.value.field == "egress"
    nic = network.nic(_with(OPEN))
    assert nic and nic.enclosure and network.enforced(_with(OPEN)) and not network.enforced(_with(NAMED))
    network.require_enforceable(_with(NAMED))
    await network.enforce(_with(NAMED))
    assert network.enforced(_with(NAMED)) and not network.enforced(_with(None))
    await network.unplug(_with(NAMED))
    with pytest.raises(WrongState):
        network.require_enforceable(_with(NAMED))


async def test_what_an_earlier_server_told_is_told_again() -> None:
    network = UserNetwork(real=False)
    await network.start([_with(NAMED)])
    assert not network.enforced(_with(NAMED))
    await network.enforce(_with(NAMED))
    assert network.enforced(_with(NAMED))


def test_a_spare_is_enclosed_since_it_may_become_anybodys() -> None:
    plain = blueprint("x")
    spare = replace(plain, spec=replace(plain.spec, bare=True, origin="s"))
    nic = UserNetwork(real=False).nic(spare)
    assert nic and nic.enclosure and "out accept" in nic.enclosure.rules


def test_the_hosts_addresses() -> None:
    trie = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 198.51.100.1
        /32 host LOCAL
     |-- 198.51.100.255
        /32 link BROADCAST
"""
    assert egress.local_addresses(trie) == ("127.0.0.1", "198.51.100.1")
    assert "127.0.0.1" in egress.local_addresses(Path("/proc/net/fib_trie").read_text())


def test_registries_are_what_the_hosts_package_managers_are_set_to(tmp_path: Path) -> None:
    texts = {
        "etc/apt/sources.list": "# deb http://no.example/ x\ndeb [arch=amd64] http://Deb.example/debian x main\n",
        "etc/apt/sources.list.d/more.sources": "URIs: https://one.example/a\n https://two.example/b\nSuites: x\n",
        "etc/pip.conf": "[global]\nindex-url = https://me:secret@pip.example:84/simple\ntrusted-host = no.example\n",
        "home/.config/pip/pip.conf": "[global]\nextra-index-url =\n    https://extra.example/simple\n",
        "home/.npmrc": "registry=https://npm.example/\n@own:registry=https://own.example/\n//no.example/:_authToken=x\n",
    }
    for name, text in texts.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    variables = {"HOME": str(tmp_path / "home"), "PIP_INDEX_URL": "https://env.example/ http://10.0.0.1/simple"}
    assert packages.registries(variables, tmp_path) == (
        "deb.example", "one.example", "two.example", "pip.example", "extra.example", "npm.example", "own.example",
        "env.example",
    )  # fmt: skip
    assert packages.registries({}, tmp_path / "nowhere") == ()
    assert not re.search("secret", " ".join(packages.registries(variables, tmp_path)))
