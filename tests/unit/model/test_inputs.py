"""What people write: names, sizes, times, specs."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.faults import Invalid, NoCapacity
from polyvisor.model.ids import Digest, InstanceId, check_name, is_id, machine_uuid, mint
from polyvisor.model.network import Network, NetworkMode, addresses, bridge_address, mac_of, user_address
from polyvisor.model.spec import (
    MAX_DISK,
    MAX_MEMORY,
    MAX_VCPUS,
    MIN_DISK,
    MIN_MEMORY,
    CloudInit,
    Firmware,
    Port,
    RestartPolicy,
    Shape,
    Spec,
    check_spec,
)
from polyvisor.model.units import GIB, MIB, Bytes, Seconds, parse_duration, parse_size, show_size

SPEC = Spec(Digest("sha256:" + "a" * 64), "busybox", Shape.MICRO, Firmware.NONE, 1, Bytes(256 * MIB), Bytes(GIB))
FULL = replace(SPEC, shape=Shape.FULL, firmware=Firmware.UEFI)


def test_ids_are_of_one_form_and_never_the_same() -> None:
    some = {mint() for _ in range(2000)}
    assert len(some) == 2000
    assert all(is_id(id) for id in some)
    assert not any(is_id(text) for text in ("", "a" * 23, "a" * 25, "1" + "a" * 23, "A" * 24, "a" * 23 + "\n"))


def test_a_machines_uuid_follows_from_its_id() -> None:
    one, two = InstanceId(mint()), InstanceId(mint())
    assert machine_uuid(one) == machine_uuid(one) != machine_uuid(two)


@pytest.mark.parametrize("name", ["a", "A1", "web-1", "a.b_c-d", "x" * 63])
def test_good_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", ".", "..", "a/b", "a b", "a\n", "é", "x" * 64, "a\0", "../a", "a."])
def test_bad_names_are_refused_with_their_field(name: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_name(name, "volume")
    assert refused.value.field == "volume"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (7, 7), ("0", 0), ("1073741824", GIB), ("512M", 512 * MIB), ("1GiB", GIB), ("1.5 gb", GIB * 3 // 2),
        (" 2 G ", 2 * GIB), ("1kb", 1024), ("3b", 3), ("1T", 1024 * GIB), ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text, "memory") == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1e9", "0x10", "1 2", "nan", "inf", "9" * 400, "1ib", "١"])
def test_bad_sizes_are_refused_with_their_field(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_size(text, "memory")
    assert refused.value.field == "memory"


@pytest.mark.parametrize(
    ("text", "seconds"), [(5, 5), (0.5, 0.5), ("90", 90), ("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("2D", 172800)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text, "grace") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1x", "1h 30m", "1e3", float("nan"), float("inf"), "9" * 400, "1h30"])
def test_bad_durations_are_refused_with_their_field(text: str | float) -> None:
    with pytest.raises(Invalid) as refused:
        parse_duration(text, "grace")
    assert refused.value.field == "grace"


@given(st.text(max_size=40))
def test_no_text_breaks_the_readers_of_units(text: str) -> None:
    for read in (parse_size, parse_duration):
        try:
            assert read(text, "x") >= 0
        except Invalid as refused:
            assert refused.field == "x"


def test_sizes_are_shown_for_people() -> None:
    assert [show_size(n) for n in (5, 2048, 256 * MIB, 3 * GIB, 5000 * GIB)] == [
        "5 B", "2.0 KiB", "256.0 MiB", "3.0 GiB", "4.9 TiB",
    ]  # fmt: skip


def test_good_specs_pass_as_they_are() -> None:
    for spec in (SPEC, FULL, replace(FULL, cloud_init=CloudInit("#cloud-config"))):
        assert check_spec(spec) is spec
    edges = replace(SPEC, vcpus=MAX_VCPUS, memory=MAX_MEMORY, disk=MAX_DISK, grace=Seconds(0.0))
    assert check_spec(edges) is edges


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("vcpus", {"vcpus": 0}),
        ("vcpus", {"vcpus": MAX_VCPUS + 1}),
        ("memory", {"memory": Bytes(MIN_MEMORY - 1)}),
        ("memory", {"memory": Bytes(MAX_MEMORY + 1)}),
        ("disk", {"disk": Bytes(MIN_DISK - 1)}),
        ("disk", {"disk": Bytes(MAX_DISK + 1)}),
        ("grace", {"grace": Seconds(-1.0)}),
        ("grace", {"grace": Seconds(3601.0)}),
        ("grace", {"grace": Seconds(float("nan"))}),
        ("hostname", {"hostname": "a_b"}),
        ("hostname", {"hostname": "-a"}),
        ("hostname", {"hostname": "a\n"}),
        ("hostname", {"hostname": "x" * 64}),
        ("env", {"env": (("", ""),)}),
        ("env", {"env": (("A\0", ""),)}),
        ("env", {"env": (("A=B", ""),)}),
        ("env", {"env": (("A", "x\0"),)}),
        ("env", {"env": (("A", "x" * 300_000),)}),
        ("command", {"argv": ("a\0",)}),
        ("env", {"argv": ("x" * 300_000,)}),
        ("cwd", {"cwd": "relative"}),
        ("cwd", {"cwd": "/a\0"}),
        ("user", {"user": "a\0"}),
        ("ports", {"ports": (Port(0),)}),
        ("ports", {"ports": (Port(65536),)}),
        ("ports", {"ports": (Port(80, -1),)}),
        ("ports", {"ports": (Port(80, protocol="sctp"),)}),
        ("ports", {"ports": (Port(80, 8080), Port(81, 8080))}),
        ("ports", {"ports": (Port(80),), "network": False}),
        ("restart", {"restart": RestartPolicy(attempts=-1)}),
        ("restart", {"restart": RestartPolicy(backoff=Seconds(-1.0))}),
        ("restart", {"restart": RestartPolicy(backoff=Seconds(float("inf")))}),
        ("labels", {"labels": (("", "x"),)}),
        ("labels", {"labels": (("a", "x"), ("a", "y"))}),
        ("labels", {"labels": (("a", "x\0"),)}),
        ("labels", {"labels": (("a" * 254, ""),)}),
        ("labels", {"labels": (("a", "x" * 4097),)}),
        ("labels", {"labels": tuple((f"k{n}", "") for n in range(129))}),
        ("command", {"shape": Shape.FULL, "argv": ("ls",)}),
        ("cloud_init", {"cloud_init": CloudInit("#cloud-config")}),
    ],
)
def test_a_bad_field_of_a_spec_is_named(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        check_spec(replace(SPEC, **change))
    assert refused.value.field == field


def test_the_same_port_number_may_be_taken_once_by_each_protocol() -> None:
    check_spec(replace(SPEC, ports=(Port(53, 5353), Port(53, 5353, "udp"), Port(80), Port(80))))


def test_secrets_are_not_shown_by_repr() -> None:
    shown = repr(replace(FULL, env=(("KEY", "hunter2"),), cloud_init=CloudInit("password: hunter2")))
    assert "hunter2" not in shown


def a_network(mode: NetworkMode, subnet: str) -> Network:
    return Network(mode, ipaddress.IPv4Network(subnet))


def test_addresses_follow_from_the_number_and_macs_from_the_id() -> None:
    network, id = a_network(NetworkMode.USER, "10.128.0.0/9"), InstanceId(mint())
    one, two = user_address(network, id, 1), user_address(network, id, 2)
    assert (one.ip, one.gateway, one.dns, one.prefix) == ("10.128.1.15", "10.128.1.2", "10.128.1.3", 24)
    assert two.ip == "10.128.2.15"
    assert user_address(network, id, 2**15 + 1) == one
    assert one.mac == mac_of(id)
    assert int(one.mac[:2], 16) & 3 == 2  # locally administered, for one machine


def test_a_bridge_gives_each_free_address_once_and_then_says_that_there_is_none() -> None:
    network, taken = a_network(NetworkMode.BRIDGE, "10.77.0.0/28"), list[str]()
    for _ in addresses(network):
        taken.append(bridge_address(network, InstanceId(mint()), taken).ip)
    assert taken == ["10.77.0.10", "10.77.0.11", "10.77.0.12", "10.77.0.13", "10.77.0.14"]
    with pytest.raises(NoCapacity):
        bridge_address(network, InstanceId(mint()), taken)
