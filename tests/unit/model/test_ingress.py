"""Host names, captures, and who they lead to."""

from __future__ import annotations

import pytest

from polyvisor.model.ingress import Rule, TlsPolicy, overlap


@pytest.mark.parametrize(
    ("hostname", "target", "host", "name"),
    [
        ("a.example.com", "web", "A.Example.com.", "web"),
        ("a.example.com", "web", "b.example.com", None),
        ("{vm}.example.com", "{vm}", "one.example.com", "one"),
        ("{vm}.example.com", "{vm}", "ONE.EXAMPLE.COM", "one"),
        ("{vm}.example.com", "{vm}", "example.com", None),
        ("{vm}.example.com", "{vm}", ".example.com", None),
        ("{vm}.example.com", "{vm}", "a.b.example.com", None),
        ("{vm}.{env}.example.com", "{env}", "a.b.example.com", "b"),
        ("dev.{vm}.example.com", "{vm}", "dev.b.example.com", "b"),
        ("dev.{vm}.example.com", "{vm}", "prod.b.example.com", None),
    ],
)
def test_a_host_names_an_instance(hostname: str, target: str, host: str, name: str | None) -> None:
    assert Rule(hostname, target, 80).called(host) == name


def test_sites_are_compared_without_case_and_without_the_captures_names() -> None:
    assert Rule("{a}.Example.com", "{a}", 80).site == Rule("{b}.example.COM", "{b}", 80).site == "*.example.com"
    assert overlap("*.example.com", "a.example.com")
    assert overlap("*.b.com", "a.*.com")
    assert not overlap("*.example.com", "a.b.example.com")
    assert not overlap("a.example.com", "b.example.com")


@pytest.mark.parametrize(
    ("domains", "site", "allowed"),
    [
        (("*",), "a.b", True), (("a.b",), "a.b", True), (("a.b",), "x.a.b", False), (("*.a.b",), "x.a.b", True),
        (("*.a.b",), "a.b", False), (("*.a.b",), "y.x.a.b", False), (("*.a.b",), "*.a.b", True),
        (("a.b",), "*.b", False), ((), "a.b", False),
    ],
)  # fmt: skip
def test_for_which_names_certificates_may_be_had(domains: tuple[str, ...], site: str, allowed: bool) -> None:
    assert TlsPolicy(domains).allows(site) is allowed
