"""User mode: which host ports are taken, and the command line of the way out."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

import pytest

from polyvisor.host.network import enclosed, passt
from polyvisor.host.network.user import UserNetwork, _Told
from polyvisor.model.egress import OPEN
from polyvisor.model.faults import Busy, Invalid
from polyvisor.model.host import Blueprint
from polyvisor.model.instance import Address
from polyvisor.model.spec import Port
from polyvisor.ports.hypervisor import UserNic
from unit.host.network.test_names import blueprint


def wanting(*ports: Port) -> Blueprint:
    plain = blueprint("x")
    return replace(plain, spec=replace(plain.spec, ports=ports))


def test_free_ports_are_all_different() -> None:
    nic = UserNetwork().nic(wanting(*(Port(n) for n in range(1, 60))))
    assert nic is not None and len({host for _, host, _ in nic.forwards}) == 59


def test_a_taken_port_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(Busy, match=f"tcp port {port} of the host is taken") as caught:
            UserNetwork().nic(wanting(Port(80), Port(80, port)))
    assert caught.value.field == "ports"


def test_a_port_that_needs_rights_is_refused() -> None:
    with pytest.raises(Invalid, match="1024") as caught:
        UserNetwork().check(wanting(Port(80, 80)))
    assert caught.value.field == "ports"
    UserNetwork().check(wanting(Port(80), Port(80, 8080)))


def test_passt_leads_in_by_loopback_and_out_by_one_interface() -> None:
    address = Address("02:00:00:00:00:01", "10.128.1.15", 24, "10.128.1.2", "10.128.1.3")
    line = passt.argv(7, UserNic((("tcp", 18000, 80), ("udp", 19000, 53))), address, "eth0", 200001)
    words = " ".join(line)
    assert "--no-map-gw" in line and "--outbound-if4 eth0" in words and "--runas 200001:200001" in words
    assert "--tcp-ports 127.0.0.1/18000:80" in words and "--udp-ports 127.0.0.1/19000:53" in words


async def test_rules_are_for_the_enclosure_and_not_for_who_has_its_process_id_by_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered: list[int] = []

    async def change(pid: int, *_: object) -> None:
        entered.append(pid)

    monkeypatch.setattr(enclosed, "change", change)
    network, plain = UserNetwork(), blueprint("x")
    policy = replace(plain, spec=replace(plain.spec, egress=OPEN))
    network._told[policy.id] = _Told(pid=os.getpid())
    await network.enforce(policy)
    assert entered == [0]
    assert enclosed.called(os.getpid()) == enclosed.called(0) == ""
