"""Ingresses of servers with settings of their own: for which names TLS may be asked; what a later server serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypeman import AsyncHypeman

from dialect.hypeman.making import make
from dialect.hypeman.test_ingress import asked, rule
from dialect.served import serving
from polyvisor.host.hypervisor.fake.proxy import FakeProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_names_that_no_certificate_may_be_had_for(tmp_path: Path) -> None:
    settings = {"ingress.tls_domains": "example.com, *.Example.com", "ingress.acme_email": "op@example.com"}
    async with (
        serving(tmp_path / "data", settings) as served,
        AsyncHypeman(api_key=served.key, base_url=served.url, max_retries=0) as sdk,
    ):
        vm = await make(sdk)
        for host in ("example.org", "a.b.example.com"):
            refused = await served.http.post("/ingresses", json=asked(rule(host, vm.name, tls=True)))
            assert (refused.status_code, refused.json()["code"]) == (400, "domain_not_allowed")
        pattern = await served.http.post("/ingresses", json=asked(rule("{a}.example.com", "{a}", tls=True)))
        assert (pattern.status_code, pattern.json()["code"]) == (400, "bad_request")
        for host, tls in (("example.com", True), ("A.example.com", True), ("example.org", False)):
            assert (await sdk.ingresses.create(**asked(rule(host, vm.name, tls=tls)))).rules[0].tls is tls
        await sdk.instances.delete(vm.id)


async def test_a_later_server_serves_what_an_earlier_one_did(tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "data") as served,
        AsyncHypeman(api_key=served.key, base_url=served.url, max_retries=0) as sdk,
    ):
        made = await sdk.ingresses.create(**asked(rule("{a}.example.com", "{a}")))
    async with serving(tmp_path / "data") as served:
        proxy = served.parts.host.proxy
        assert isinstance(proxy, FakeProxy)
        assert [(route.ingress, route.rule.site) for route in proxy.routes] == [(made.id, "*.example.com")]
