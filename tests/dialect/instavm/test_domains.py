"""Custom domains by upstream's client, with a name server of the test's own (instavm.md §1.10)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from instavm import CustomDomainError, InstaVM

from dialect.instavm.conftest import Caller, Json, fresh
from dialect.served import Served, serving
from nameserver import NameServer, name_server
from polyvisor.dialects.instavm import domains, shares
from polyvisor.dialects.instavm.door import Call
from polyvisor.engine.domains import _Budget
from polyvisor.host.hypervisor.fake.proxy import FakeProxy
from polyvisor.model.faults import Busy
from polyvisor.model.principal import SYSTEM

pytestmark = pytest.mark.asyncio(loop_scope="session")
TARGET = "vms.test"


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    """Who is asked."""
    with name_server() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def near(names: NameServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server that takes domains."""
    settings = {
        "instavm.image": "busybox", "instavm.domains": TARGET, "instavm.dns": f"127.0.0.1:{names.port}",
        "instavm.dns_private": "true", "ingress.tls_domains": "example.com", "ingress.acme_email": "op@example.com",
    }  # fmt: skip
    async with serving(tmp_path_factory.mktemp("near") / "data", settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def here(near: Served) -> AsyncIterator[Caller]:
    """Its operator."""
    async with httpx.AsyncClient(base_url=near.url, trust_env=False, timeout=30) as client:
        yield Caller(client, near.key)


@pytest_asyncio.fixture(loop_scope="session")
async def other(near: Served, here: Caller) -> Caller:
    """Somebody with a project there."""
    return Caller(here.http, await near.stranger())


@pytest.fixture
def sdk(near: Served, monkeypatch: pytest.MonkeyPatch) -> InstaVM:
    """Upstream's client."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return InstaVM(near.key, base_url=near.url, auto_start_session=False)


@pytest.fixture
def proxy(near: Served) -> FakeProxy:
    """What is served."""
    found = near.parts.host.proxy
    assert isinstance(found, FakeProxy)
    return found


async def by(work: Callable[..., Any], *words: Any, **more: Any) -> Any:
    """A call of the client, which blocks."""
    return await asyncio.to_thread(work, *words, **more)


async def share(caller: Caller, **more: Any) -> Json:
    """A share of a new VM, public unless it is said otherwise."""
    made = await caller.vm(share={"port": 3000, "is_public": True} | more)
    found: Json = made["share"]
    return found


def domain() -> str:
    """A name that nobody has asked for."""
    return f"{fresh('app')}.example.com"


def led(proxy: FakeProxy, name: str) -> list[tuple[int, bool, bool, bool]]:
    """How it is served: port, TLS, redirect, whether a token is asked for."""
    rules = [route.rule for route in proxy.routes if route.rule.hostname == name]
    return [(one.port, one.tls, one.redirect, one.guard is not None) for one in rules]


def prove(names: NameServer, told: Json) -> None:
    """Its owner writes what he was told to."""
    record = told["setup"]["txt_record"]
    names.put(record["name"], "TXT", f'"{record["value"]}"')


async def test_from_the_create_to_the_certificate_and_the_end(
    sdk: InstaVM, here: Caller, names: NameServer, proxy: FakeProxy
) -> None:
    way, name = await share(here), domain()
    made = await by(sdk.custom_domains.create, name.upper(), way["share_id"], "manual")
    assert isinstance(made["id"], int)
    wanted = {
        "domain": name, "share_id": way["share_id"], "status": "pending", "url": None, "last_error": None,
        "dns_provider": "manual", "verified_at": None,
    }  # fmt: skip
    assert made | wanted == made
    setup = made["setup"]
    assert setup["txt_record"]["name"] == f"_instavm.{name}"
    assert setup["cname"] == {"name": name, "target": TARGET}
    assert setup["verify_endpoint"] == f"/v1/custom-domains/{made['id']}/verify"
    with pytest.raises(CustomDomainError, match=f"there is no TXT record at _instavm.{name}"):
        await by(sdk.custom_domains.verify_and_wait, made["id"], poll_interval=0.5)
    assert led(proxy, name) == []
    names.put(f"_instavm.{name}", "TXT", '"something else"')
    failed = await by(sdk.custom_domains.verify, made["id"])
    assert (failed["status"], "'something else'" in failed["last_error"]) == ("failed", True)
    prove(names, made)
    proxy.withheld[name] = ""
    assert (await by(sdk.custom_domains.verify, made["id"]))["status"] == "verified"
    assert led(proxy, name) == [(443, True, True, False)]
    health = await by(sdk.custom_domains.health, made["id"])
    assert (health["cert_present"], health["key_present"], health["proxy_active"]) == (False, False, True)
    del proxy.withheld[name]
    issued = await by(sdk.custom_domains.verify_and_wait, made["id"], poll_interval=0.5)
    assert (issued["status"], issued["url"], issued["last_error"]) == ("issued", f"https://{name}/", None)
    health = await by(sdk.custom_domains.health, made["id"])
    assert (health["cert_present"], health["key_present"], health["proxy_active"]) == (True, True, True)
    assert issued in await by(sdk.custom_domains.list)
    assert await by(sdk.custom_domains.get, made["id"]) == issued
    assert (await by(sdk.custom_domains.delete, made["id"]))["status"] == "deleted"
    assert led(proxy, name) == []
    await here.refused(404, f"GET /v1/custom-domains/{made['id']}")
    again = await by(sdk.custom_domains.create, name, way["share_id"], "manual")
    assert (again["id"] != made["id"], again["setup"]["txt_record"]) == (True, setup["txt_record"])


async def test_a_certificate_that_is_not_given_is_told_and_asked_for_again(
    here: Caller, names: NameServer, proxy: FakeProxy
) -> None:
    way, name = await share(here), domain()
    made = await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    prove(names, made)
    proxy.withheld[name] = "connection refused"
    line = f"POST /v1/custom-domains/{made['id']}/verify"
    await here.ok(line)
    told = await here.ok(f"GET /v1/custom-domains/{made['id']}")
    assert (told["status"], told["last_error"]) == ("failed", "connection refused")
    del proxy.withheld[name]
    assert (await here.ok(line))["status"] == "issued"


async def test_a_port_that_cannot_be_had_is_told_and_changes_nothing(
    here: Caller, names: NameServer, proxy: FakeProxy
) -> None:
    way, name = await share(here), domain()
    made = await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    prove(names, made)
    before = proxy.routes
    proxy.fail.append(Busy("port 443 of this host is taken", subject="443"))
    told = await here.ok(f"POST /v1/custom-domains/{made['id']}/verify")
    assert (told["status"], told["last_error"]) == ("failed", "port 443 of this host is taken")
    assert proxy.routes == before
    assert await here.ok(f"GET /v1/shares/{way['share_id']}") == way
    proxy.fail.append(Busy("port 443 of this host is taken", subject="443"))
    await here.refused(409, f"PATCH /v1/shares/{way['share_id']}", {"is_public": False})
    assert await here.ok(f"GET /v1/shares/{way['share_id']}") == way
    assert proxy.routes == before
    assert (await here.ok(f"POST /v1/custom-domains/{made['id']}/verify"))["status"] == "issued"


async def test_it_follows_its_share(here: Caller, names: NameServer, proxy: FakeProxy) -> None:
    way, (one, two) = await share(here), (domain(), domain())
    for name in (one, two):
        made = await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
        prove(names, made)
        assert (await here.ok(f"POST /v1/custom-domains/{made['id']}/verify"))["status"] == "issued"
    line = f"PATCH /v1/shares/{way['share_id']}"
    for is_public in (False, True, False):
        told = await here.ok(line, {"is_public": is_public})
        assert told["url"] == way["url"]
        for name in (one, two):
            assert led(proxy, name) == [(443, True, True, not is_public)]
    await here.ok(f"DELETE /v1/custom-domains/{made['id']}")
    assert (led(proxy, two), led(proxy, one)) == ([], [(443, True, True, True)])
    await here.ok(line, {"revoke": True})
    assert led(proxy, one) == []
    assert not [found for found in (await here.ok("GET /v1/custom-domains"))["domains"] if found["domain"] == one]


async def test_it_goes_with_its_vm(near: Served, here: Caller, names: NameServer, proxy: FakeProxy) -> None:
    name = domain()
    made = await here.vm(share={"port": 3000}, custom_domain={"domain": name})
    told = made["custom_domain"]
    assert (told["domain"], told["status"], told["share_id"]) == (name, "pending", made["share"]["share_id"])
    prove(names, told)
    assert (await here.ok(f"POST /v1/custom-domains/{told['id']}/verify"))["status"] == "issued"
    assert led(proxy, name) == [(443, True, True, True)]
    await here.ok(f"DELETE /v1/vms/{made['vm_id']}")
    call = Call(near.parts.engine, SYSTEM, near.parts.config.sandboxes())
    await shares.sweep(call)
    await domains.sweep(call)
    assert led(proxy, name) == []
    await here.refused(404, f"GET /v1/custom-domains/{told['id']}")


async def test_it_can_be_deleted_while_its_share_waits_to_be_swept(
    here: Caller, names: NameServer, proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def later(call: Call) -> None:
        """Nothing is swept."""

    for module in (shares, domains):
        monkeypatch.setattr(module, "sweep", later)
    name = domain()
    made = await here.vm(share={"port": 3000}, custom_domain={"domain": name})
    told = made["custom_domain"]
    prove(names, told)
    await here.ok(f"POST /v1/custom-domains/{told['id']}/verify")
    await here.ok(f"DELETE /v1/vms/{made['vm_id']}")
    assert led(proxy, name) != []
    await here.ok(f"DELETE /v1/custom-domains/{told['id']}")
    assert led(proxy, name) == []
    await here.refused(404, f"GET /v1/shares/{made['share']['share_id']}")


async def test_it_is_one_projects(
    here: Caller, other: Caller, near: Served, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, theirs, name = await share(here), await share(other), domain()
    made = await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    body = {"domain": f"{name}.", "share_id": theirs["share_id"]}
    for caller in (other, here):
        asked = body if caller is other else body | {"share_id": way["share_id"]}
        assert "already in use" in await caller.refused(409, "POST /v1/custom-domains", asked)
    assert "already in use" in await other.refused(
        409, "POST /v1/vms", {"share": {"port": 1}, "custom_domain": {"domain": name}}
    )
    for line in ("GET", "DELETE"):
        await other.refused(404, f"{line} /v1/custom-domains/{made['id']}")
    await other.refused(404, f"POST /v1/custom-domains/{made['id']}/verify")
    await other.refused(404, "POST /v1/custom-domains", {"domain": domain(), "share_id": way["share_id"]})
    assert (await other.ok("GET /v1/custom-domains"))["domains"] == []
    # Who never shows that it is his does not keep it from its owner for ever.
    monkeypatch.setattr(domains, "_KEPT", timedelta(0))
    taken = await other.ok("POST /v1/custom-domains", body)
    assert taken["setup"]["txt_record"]["value"] != made["setup"]["txt_record"]["value"]
    await here.refused(404, f"GET /v1/custom-domains/{made['id']}")
    prove(names, made)  # another project's proof
    assert (await other.ok(f"POST /v1/custom-domains/{taken['id']}/verify"))["status"] == "failed"
    prove(names, taken)
    assert (await other.ok(f"POST /v1/custom-domains/{taken['id']}/verify"))["status"] == "issued"
    await here.refused(409, "POST /v1/custom-domains", body | {"share_id": way["share_id"]})
    # An ingress for that name is the project's as well.
    vm = (await near.make())["name"]
    rule = {"hostname": name, "instance": vm, "target_port": 80, "port": 80}
    refused = await near.http.post("/api/v1/ingresses", json={"name": fresh("in"), "rules": [rule]})
    assert refused.status_code == 409


async def test_who_shows_that_it_is_his_does_not_wait_for_who_does_not(
    here: Caller, other: Caller, names: NameServer, proxy: FakeProxy
) -> None:
    way, theirs, name = await share(here), await share(other), domain()
    squat = {"domain": name, "share_id": theirs["share_id"]}
    kept = await other.ok("POST /v1/custom-domains", squat)
    for _ in range(2):  # who never shows anything begins his day anew
        await other.ok(f"DELETE /v1/custom-domains/{kept['id']}")
        kept = await other.ok("POST /v1/custom-domains", squat)
    for line, body in (
        ("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]}),
        ("POST /v1/vms", {"share": {"port": 1}, "custom_domain": {"domain": name}}),
    ):
        said = await here.refused(409, line, body)
    found = re.search(r"TXT record '(\S+)' at (\S+) ", said)
    assert found is not None and found[2] == f"_instavm.{name}"
    assert found[1] != kept["setup"]["txt_record"]["value"]
    names.put(found[2], "TXT", f'"{found[1]}"')
    made = await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    assert made["setup"]["txt_record"]["value"] == found[1]
    await other.refused(404, f"GET /v1/custom-domains/{kept['id']}")
    assert (await here.ok(f"POST /v1/custom-domains/{made['id']}/verify"))["status"] == "issued"
    prove(names, kept)
    said = await other.refused(409, "POST /v1/custom-domains", squat)  # what was shown is not taken away
    assert "TXT" not in said and led(proxy, name) == [(443, True, True, False)]


async def test_the_name_servers_are_not_asked_all_the_time(near: Served, here: Caller, names: NameServer) -> None:
    many = Caller(here.http, await near.stranger())
    way, name = await share(many), domain()
    made = await many.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    line = f"POST /v1/custom-domains/{made['id']}/verify"
    answers = await asyncio.gather(*(many.ask(line) for _ in range(40)))
    assert sorted(one.status_code for one in answers) == [200] * 30 + [429] * 10
    (late, *_) = [one for one in answers if one.status_code == 429]
    assert 1 <= int(late.headers["Retry-After"]) <= 60
    assert names.asked.count(f"TXT _instavm.{name}") == 30
    assert (await many.ok(f"GET /v1/custom-domains/{made['id']}"))["status"] == "failed"
    await here.ok("GET /v1/custom-domains")
    theirs = await share(here)
    mine = await here.ok("POST /v1/custom-domains", {"domain": domain(), "share_id": theirs["share_id"]})
    assert (await here.ok(f"POST /v1/custom-domains/{mine['id']}/verify"))["status"] == "failed"  # others may ask


async def test_a_zone_that_does_not_answer_keeps_no_other_project_waiting(
    near: Served, here: Caller, names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = Caller(here.http, await near.stranger()), Caller(here.http, await near.stranger())
    told = []
    for caller in (slow, quick):  # the older one first
        made = await caller.vm(share={"port": 3000}, custom_domain={"domain": domain()})
        told.append((caller, made, made["custom_domain"]["id"]))

    withdrawn = domains._withdrawn

    async def waits(call: Call, one: domains.Domain) -> str:
        if one.key == told[0][2]:
            await asyncio.Event().wait()
        return await withdrawn(call, one)

    monkeypatch.setattr(domains, "_withdrawn", waits)
    monkeypatch.setattr(domains, "_PATIENCE", 1.0)
    for caller, made, _ in told:
        await caller.ok(f"DELETE /v1/vms/{made['vm_id']}")
    call = Call(near.parts.engine, SYSTEM, near.parts.config.sandboxes())
    await shares.sweep(call)
    async with asyncio.timeout(20):
        await domains.sweep(call)
    await quick.refused(404, f"GET /v1/custom-domains/{told[1][2]}")
    await slow.ok(f"GET /v1/custom-domains/{told[0][2]}")
    monkeypatch.undo()
    await domains.sweep(call)
    await slow.refused(404, f"GET /v1/custom-domains/{told[0][2]}")


async def test_an_authority_is_not_asked_all_the_time(
    near: Served, here: Caller, names: NameServer, proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = Caller(here.http, await near.stranger())
    way, name = await share(many), domain()
    made = await many.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})
    prove(names, made)
    proxy.withheld[name] = "connection refused"
    monkeypatch.setattr(near.parts.engine.domains, "_orders", _Budget(3, 3600.0, "certificates are asked for"))
    line = f"POST /v1/custom-domains/{made['id']}/verify"
    for _ in range(3):  # each is tried anew
        await many.ok(line)
    before = proxy.routes
    assert "at most 3 times" in await many.refused(429, line)
    assert proxy.routes == before and led(proxy, name) != []
    del proxy.withheld[name]
    assert (await many.ok(f"GET /v1/custom-domains/{made['id']}"))["status"] == "issued"  # the proxy tries by itself


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ["é" * 1_000_000, "é." * 500_000])
async def test_a_name_that_is_too_long_is_not_even_looked_at(here: Caller, text: str) -> None:
    for line, body, field in (
        ("POST /v1/custom-domains", {"domain": text, "share_id": "shr_none"}, "domain"),
        ("POST /v1/vms", {"share": {"port": 1}, "custom_domain": {"domain": text}}, "custom_domain.domain"),
        ("POST /v1/egress/vm/none", {"allowed_domains": [text]}, "allowed_domains"),
    ):
        await here.wrong(field, line, body)


RFC2136 = {
    "server": "127.0.0.1:53",
    "zone": "example.com",
    "key_name": "k",
    "key_secret": "c2VjcmV0IHNlY3JldCBzZWNyZXQ=",
}


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("domain", {"domain": "nodots"}),
        ("domain", {"domain": "*.example.com"}),
        ("domain", {"domain": "127.0.0.1"}),
        ("domain", {"domain": "a_b.example.com"}),
        ("domain", {"domain": "a" * 64 + ".example.com"}),
        ("domain", {"domain": TARGET}),
        (
            "domain",
            {
                "domain": ".".join(["a" * 60] * 4) + ".com",
                "dns_provider": "rfc2136",
                "dns_credentials": RFC2136 | {"zone": "a.com"},
            },
        ),
        ("dns_provider", {"dns_provider": "cloudflare", "dns_credentials": {"api_token": "hush"}}),
        ("dns_credentials", {"dns_provider": "manual", "dns_credentials": {"api_token": "hush"}}),
        ("dns_credentials", {"dns_credentials": {"api_token": "hush"}}),
        ("dns_credentials.server", {"dns_provider": "rfc2136"}),
        (
            "dns_credentials.key_secret",
            {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"key_secret": "hush"}},
        ),
        ("dns_credentials.zone", {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"zone": "example.org"}}),
        ("dns_credentials.server", {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"server": "a b"}}),
        ("dns_credentials.server", {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"server": "é" * 300}}),
        ("dns_credentials.key_name", {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"key_name": ".."}}),
        (
            "dns_credentials.key_algorithm",
            {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"key_algorithm": "hmac-md5"}},
        ),
        ("dns_credentials", {"dns_provider": "rfc2136", "dns_credentials": RFC2136 | {"hush": "hush"}}),
    ],
)
async def test_what_is_wrong_with_one(here: Caller, field: str, more: Json) -> None:
    body = {"domain": domain(), **more}
    before = (await here.ok("GET /v1/vms/"), await here.ok("GET /v1/custom-domains"))
    answer = await here.ask("POST /v1/custom-domains", body | {"share_id": "shr_none"})
    told = await here.ask("POST /v1/vms", {"share": {"port": 1}, "custom_domain": body})
    for refused, prefix in ((answer, ""), (told, "custom_domain.")):
        assert refused.status_code == 422, refused.text
        (first,) = refused.json()["detail"]
        assert ".".join(map(str, first["loc"])) == f"body.{prefix}{field}"
        assert "hush" not in refused.text.replace("'hush'", "")
    assert (await here.ok("GET /v1/vms/"), await here.ok("GET /v1/custom-domains")) == before


async def test_what_there_is_not(here: Caller, root: Caller) -> None:
    await here.wrong("custom_domain", "POST /v1/vms", {"custom_domain": {"domain": domain()}})
    await here.wrong("share_id", "POST /v1/custom-domains", {"domain": domain()})
    await here.refused(404, "POST /v1/custom-domains", {"domain": domain(), "share_id": "shr_none"})
    await here.refused(404, "GET /v1/custom-domains/2147483647")
    for key in ("0", "x", str(2**40)):
        await here.wrong("domain_id", f"GET /v1/custom-domains/{key}", place="path")
    half = json.dumps({"domain": "\ud800.example.com", "share_id": "\ud800"})
    headers = {"X-API-Key": here.key, "Content-Type": "application/json"}
    assert (await here.http.post("/v1/custom-domains", content=half, headers=headers)).status_code == 422
    # A server that has nowhere to lead them.
    way = await root.vm(share={"port": 3000})
    body = {"domain": domain(), "share_id": way["share"]["share_id"]}
    (refused,) = await root.refused(422, "POST /v1/custom-domains", body)
    assert "instavm.domains is not set" in refused["msg"]
    assert (await root.ok("GET /v1/custom-domains")) == {"domains": []}


async def test_a_zone_that_takes_changes(
    sdk: InstaVM, here: Caller, near: Served, names: NameServer, proxy: FakeProxy, caplog: pytest.LogCaptureFixture
) -> None:
    way, name = await share(here), domain()
    told = names.credentials
    made = await by(sdk.custom_domains.create, name, way["share_id"], "rfc2136", told)
    assert made["setup"]["written"] == [f"TXT _instavm.{name}", f"CNAME {name}"]
    assert names.text(f"_instavm.{name}") == {made["setup"]["txt_record"]["value"]}
    assert names.records[name, "CNAME"] == {f"{TARGET}."}
    issued = await by(sdk.custom_domains.verify_and_wait, made["id"], poll_interval=0.5)
    assert issued["status"] == "issued"
    async with near.parts.store.read() as unit:
        kept = [row.data for row in await unit.rows.of("instavm", ["custom-domain"]) if row.name == name]
    for text in (json.dumps([made, issued]), caplog.text, *kept):
        assert told["key_secret"] not in text
        assert told["key_name"] not in text
    gone = await by(sdk.custom_domains.delete, made["id"])
    assert gone["last_error"] is None
    assert not [key for key in names.records if key[0].endswith(name)]


async def test_by_the_command_line(near: Served, here: Caller, names: NameServer, tmp_path: Path) -> None:
    way, name = await share(here), domain()
    (tmp_path / "zone.json").write_text(json.dumps(names.credentials))
    env = {
        "INSTAVM_BASE_URL": near.url, "INSTAVM_API_KEY": near.key, "HOME": str(tmp_path), "PATH": os.environ["PATH"],
    }  # fmt: skip
    program = str(Path(sys.executable).with_name("instavm"))

    async def cli(*words: str, code: int = 0) -> str:
        argv = [program, "domain", *words]
        done = await by(subprocess.run, argv, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done
        return str(done.stdout + done.stderr)

    given = ["--dns-provider", "rfc2136", "--credentials-file", str(tmp_path / "zone.json")]
    said = await cli("create", way["share_id"], name, *given)
    assert f"TXT   _instavm.{name}" in said
    assert f"CNAME {name}  ->  {TARGET}" in said
    (id,) = [str(one["id"]) for one in (await here.ok("GET /v1/custom-domains"))["domains"] if one["domain"] == name]
    assert "status=issued" in await cli("verify", id, "--wait", "--poll-interval", "0.5")
    assert "Proxy active: True" in await cli("health", id)
    assert name in await cli("ls")
    assert f"Deleted custom domain {id}" in await cli("rm", id, "--yes")
    assert name not in await cli("ls")
    await cli("create", way["share_id"], name, "--dns-provider", "cloudflare", code=1)


async def test_a_zone_that_takes_none_of_them(here: Caller, names: NameServer) -> None:
    way, good = await share(here), names.credentials
    body = {"share_id": way["share_id"], "dns_provider": "rfc2136"}
    before, vms = dict(names.records), await here.ok("GET /v1/vms/")
    for wrong, said in (
        ({"key_secret": RFC2136["key_secret"]}, "key"),
        ({"key_name": "unknown"}, "key"),
        ({"server": "127.0.0.1:1"}, "does not answer"),
    ):
        name = domain()
        asked = body | {"domain": name, "dns_credentials": good | wrong}
        (refused,) = await here.refused(422, "POST /v1/custom-domains", asked)
        assert (refused["loc"], said in refused["msg"]) == (["body", "dns_credentials"], True), refused
        await here.refused(422, "POST /v1/vms", {"share": {"port": 1}, "custom_domain": asked})
        await here.ok("POST /v1/custom-domains", {"domain": name, "share_id": way["share_id"]})  # nobody has it
    assert (names.records, await here.ok("GET /v1/vms/")) == (before, vms)
    # What is there by another hand is not touched.
    name = domain()
    names.put(name, "A", "192.0.2.1")
    made = await here.ok("POST /v1/custom-domains", body | {"domain": name, "dns_credentials": good})
    assert made["setup"]["written"] == [f"TXT _instavm.{name}"]
    names.deaf = True
    try:
        assert "DNS records are left" in (await here.ok(f"DELETE /v1/custom-domains/{made['id']}"))["last_error"]
    finally:
        names.deaf = False
    assert names.records[name, "A"] == {"192.0.2.1"}


async def test_name_servers_that_are_near_are_for_nobody(tmp_path: Path, names: NameServer) -> None:
    settings = {"instavm.image": "busybox", "instavm.domains": "192.0.2.9", "instavm.domain_port": "8443"}
    async with (
        serving(tmp_path / "data", settings) as served,
        httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as http,
    ):
        caller = Caller(http, served.key)
        way, name = await share(caller), domain()
        body = {"domain": name, "share_id": way["share_id"]}
        more = {"dns_provider": "rfc2136", "dns_credentials": names.credentials}
        (refused,) = await caller.refused(422, "POST /v1/custom-domains", body | more)
        assert "public addresses alone" in refused["msg"]
        setup = (await caller.ok("POST /v1/custom-domains", body))["setup"]
        assert setup["cname"] is None
        assert setup["address_record"] == {"name": name, "type": "A", "value": "192.0.2.9"}
