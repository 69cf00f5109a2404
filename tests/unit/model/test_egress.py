"""What a policy means: lists are all there is, flags are ports, and nothing is reached that was not said."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyvisor.model.egress import (
    OPEN,
    EgressPolicy,
    check_egress,
    is_below,
    mark_of,
    parse_cidr,
    parse_domain,
    parse_policy,
)
from polyvisor.model.faults import Invalid

_LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(_LABELS, min_size=1, max_size=4).map(".".join)
ADDRESSES = st.ip_addresses(v=4).map(str)
RANGES = st.tuples(st.ip_addresses(), st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}")
PORTS = st.integers(1, 65535)


@st.composite
def policies(draw: st.DrawFn) -> EgressPolicy:
    http, https, packages = (draw(st.booleans()) for _ in range(3))
    domains, cidrs = draw(st.lists(NAMES, max_size=3)), draw(st.lists(RANGES, max_size=3))
    return parse_policy(
        allow_http=http, allow_https=https, allow_package_managers=packages, domains=domains, cidrs=cidrs
    )


@given(policies())
def test_what_is_parsed_is_what_is_checked(policy: EgressPolicy) -> None:
    assert check_egress(policy) == policy
    assert EgressPolicy() == OPEN and OPEN.open


@given(policies(), ADDRESSES, PORTS)
def test_without_a_name_only_ranges_and_ports_are_reached(policy: EgressPolicy, address: str, port: int) -> None:
    listed = any(ipaddress.ip_address(address) in ipaddress.ip_network(cidr) for cidr in policy.cidrs)
    wanted = policy.open or (port not in (53, 853) and (listed or port in policy.ports))
    assert policy.reaches(address, port) == wanted
    if policy.listed and not listed:
        assert not policy.reaches(address, port)


@given(policies(), NAMES, NAMES, ADDRESSES)
def test_what_resolves_is_what_is_reached_by_name(policy: EgressPolicy, name: str, package: str, address: str) -> None:
    if not policy.resolves_all:
        assert policy.resolves(name, [package]) == policy.reaches(address, 4242, [name], [package]) or any(
            ipaddress.ip_address(address) in ipaddress.ip_network(cidr) for cidr in policy.cidrs
        )
    for above in policy.domains:
        assert policy.resolves(f"{name}.{above}") and policy.reaches(address, 4242, [f"{name}.{above}"])
        assert is_below(above, above) and not is_below("x" + above, above)
    assert policy.allow_package_managers <= policy.reaches(address, 4242, [package], [package])


@given(policies())
def test_flags_matter_where_there_are_no_lists(policy: EgressPolicy) -> None:
    flags = (policy.allow_http, policy.allow_https)
    if policy.listed:
        assert policy.ports == () and not policy.open
    else:
        assert policy.open == all(flags) and policy.ports == (
            () if all(flags) else (80,) * flags[0] + (443,) * flags[1]
        )


@pytest.mark.parametrize(
    ("text", "name"),
    [("Example.COM.", "example.com"), ("*.a.example", "a.example"), ("bücher.example", "xn--bcher-kva.example"),
     (" _dmarc.x ", "_dmarc.x"), ("localhost", "localhost")],
)  # fmt: skip
def test_names_as_dns_has_them(text: str, name: str) -> None:
    assert parse_domain(text) == name


@pytest.mark.parametrize(
    "text",
    ["", ".", "*", "*.", "a..b", "-a.b", "a-.b", "a b", "a/b", "a#b", "a\nb", "1.2.3.4", "a." + "b" * 64,
     ".".join(["a" * 60] * 5), "*.*.a", "http://a", "a:80", "\ud800", "é" * 70 + ".x"],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_domain(text, "egress.domains")
    assert caught.value.field == "egress.domains"


def test_ranges() -> None:
    assert parse_cidr("10.1.2.3/8") == "10.0.0.0/8" and parse_cidr(" 1.2.3.4 ") == "1.2.3.4/32"
    assert parse_cidr("2001:db8::1/32") == "2001:db8::/32"
    for text in ("", "10.0.0.0/33", "example.com", "1.2.3", "1.2.3.4/8 accept"):
        with pytest.raises(Invalid):
            parse_cidr(text)


def test_there_is_an_end_to_lists() -> None:
    for domains, cidrs in ((["a.b"] * 257, []), ([], ["1.2.3.4"] * 257)):
        with pytest.raises(Invalid, match="more than 256"):
            parse_policy(allow_http=True, allow_https=True, allow_package_managers=True, domains=domains, cidrs=cidrs)


@given(policies(), policies())
def test_a_mark_is_a_policys(one: EgressPolicy, other: EgressPolicy) -> None:
    assert (mark_of(one) == mark_of(other)) == (one == other) and mark_of(None) == "" != mark_of(one)


@pytest.mark.timeout(60)
def test_a_name_that_is_too_long_is_not_even_looked_at() -> None:
    for text in ("é" * 3_000_000, "é." * 1_500_000):  # IDNA takes minutes for it
        with pytest.raises(Invalid, match="is not a name"):
            parse_domain(text)


def test_a_range_is_of_no_device() -> None:
    with pytest.raises(Invalid, match="not a range"):
        parse_cidr("fe80::1%eth0")
