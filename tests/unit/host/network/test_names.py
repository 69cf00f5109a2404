"""What dnsmasq is told: nothing in it can be read as a word of its own or as another line."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from polyvisor.host.network.names import domain, files, label
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import Digest, InstanceId, ProjectId
from polyvisor.model.instance import Address
from polyvisor.model.spec import Firmware, Shape, Spec
from polyvisor.model.units import MIB, Bytes


def blueprint(name: str, project: str = "p" * 24, hostname: str = "") -> Blueprint:
    size = Bytes(64 * MIB)
    spec = Spec(Digest("d"), "busybox", Shape.MICRO, Firmware.NONE, 1, size, size, hostname=hostname)
    address = Address("02:00:00:00:00:01", "10.77.0.10", 16, "10.77.0.1", "10.77.0.1")
    return Blueprint(InstanceId("i" * 24), 1, ProjectId(project), name, spec, address)


def test_a_reservation_holds_no_name() -> None:
    for name in ("ignore", "infinite", "12h", "123", "db"):
        _, line = files(blueprint(name))["hosts"]
        assert line == f"02:00:00:00:00:01,set:{'p' * 24},10.77.0.10,infinite\n"


def test_names_are_a_projects_own() -> None:
    one, other = (files(blueprint("db", project * 24))["names"][1] for project in "pq")
    assert one == f"10.77.0.10 db.{'p' * 24}.polyvisor.internal\n" and other != one


def test_hostname_and_name_are_both_found() -> None:
    zone = domain("p" * 24)
    assert files(blueprint("web.1", hostname="www"))["names"][1] == f"10.77.0.10 www.{zone} web-1.{zone}\n"
    assert files(blueprint("WWW", hostname="www"))["names"][1] == f"10.77.0.10 www.{zone}\n"


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_becomes_one_line_of_plain_labels(name: str, project: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label(name))
    for _, text in files(blueprint(name, project, name)).values():
        assert all(re.fullmatch(r"[a-z0-9:,. -]+", line) for line in text.splitlines())
        assert text.count("\n") == (2 if text.startswith("tag:") else 1)
