"""What Caddy is told, and what is read of what it says."""

from __future__ import annotations

from typing import Any

import pytest

from polyvisor.host.ingress.document import Settings, document, listened, ports
from polyvisor.host.ingress.gateway import host_of
from polyvisor.model.ids import IngressId
from polyvisor.model.ingress import Guard, Route, Rule

GUARD = Guard("X-Door", "s" * 32)


def routes(*rules: Rule) -> list[Route]:
    """Of one ingress."""
    return [Route(IngressId("i" * 24), number, rule) for number, rule in enumerate(rules)]


def served(whole: dict[str, Any], port: int) -> list[tuple[str, str]]:
    """(host, last handler) of each route at a port, in their order."""
    found = whole["apps"]["http"]["servers"][f"port-{port}"]["routes"]
    return [(r.get("match", [{"host": ["-"]}])[0]["host"][0], r["handle"][-1]["handler"]) for r in found]


def test_names_come_before_patterns_and_what_is_left_is_not_found() -> None:
    some = routes(Rule("{a}.{b}.c", "{a}", 80), Rule("{a}.b.c", "{a}", 80), Rule("a.b.c", "x", 80), Rule("d", "x", 80))
    proxy = "reverse_proxy"
    assert served(document(some, Settings()), 80) == [
        ("a.b.c", proxy), ("d", proxy), ("*.b.c", proxy), ("*.*.c", proxy), ("-", "static_response")
    ]  # fmt: skip


def test_a_guard_is_asked_for_before_anybody_is_found_and_not_passed_on() -> None:
    first, second, _ = document(routes(Rule("a.b", "x", 80, guard=GUARD)), Settings())["apps"]["http"]["servers"][
        "port-80"
    ]["routes"]
    assert first["match"] == [{"host": ["a.b"], "header": {"X-Door": ["s" * 32]}}]
    assert first["handle"][0] == {"handler": "headers", "request": {"delete": ["X-Door"]}}
    assert (second["match"], second["handle"][0]["status_code"]) == ([{"host": ["a.b"]}], 403)


def test_tls_has_certificates_and_a_redirect_of_its_own_port() -> None:
    some = routes(
        Rule("a.b", "x", 80, 8443, tls=True, redirect=True), Rule("c.d", "x", 80, 443, tls=True, redirect=True)
    )
    whole = document(some, Settings("::1"))
    assert ports(some) == listened(whole) == {80, 443, 8443}
    assert whole["apps"]["http"]["servers"]["port-443"]["listen"] == ["[::1]:443"]
    assert "tls_connection_policies" not in whole["apps"]["http"]["servers"]["port-80"]
    told = [r["handle"][0]["headers"]["Location"][0] for r in whole["apps"]["http"]["servers"]["port-80"]["routes"][:2]]
    assert told == [f"https://{{http.request.host}}{port}{{http.request.uri}}" for port in (":8443", "")]
    policy = whole["apps"]["tls"]["automation"]["policies"][0]
    assert (policy["subjects"], policy["issuers"]) == (["a.b", "c.d"], [{"module": "internal"}])
    public = document(some, Settings(email="op@example.com", ca="https://ca.example.com/dir"))
    issuer = {"module": "acme", "email": "op@example.com", "ca": "https://ca.example.com/dir"}
    assert public["apps"]["tls"]["automation"]["policies"][0]["issuers"] == [issuer]


@pytest.mark.parametrize(
    ("head", "host"),
    [
        (b"GET / HTTP/1.1\r\nHost: a.b:8080\r\nX: y\r\n\r\n", "a.b"),
        (b"GET / HTTP/1.1\r\nhost: A.b\r\n\r\n", "A.b"),
        (b"GET / HTTP/1.1\r\nX: y\r\nHost: a.b\r\n\r\n", ""),
        (b"GET", ""),
        (b"", ""),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\n", "\xff"),
    ],
)
def test_the_host_is_read_where_caddy_writes_it(head: bytes, host: str) -> None:
    assert host_of(head) == host
