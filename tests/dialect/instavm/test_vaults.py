"""Vaults, by upstream's client where it has a method: what is put in is used and never told (instavm.md §1.12)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from instavm import InstaVM

from dialect.instavm.conftest import Caller, Json, Served, fresh
from dialect.instavm.test_code import away, sdk
from polyvisor.model.ids import InstanceId
from polyvisor.model.vault import TEMPLATES, Opening

pytestmark = pytest.mark.asyncio(loop_scope="session")
__all__ = ["sdk"]  # fixtures
SECRET = "sk-never-told-5f1c"
OTHER = "sk-never-told-either"


async def filled(caller: Caller, *names: str, host: str = "api.openai.com") -> str:
    """A vault with credentials, and a service for the first one."""
    id: str = (await caller.ok("POST /v1/vaults", {"name": fresh("vault")}))["id"]
    for name in names:
        await caller.ok(f"POST /v1/vaults/{id}/credentials", {"name": name, "value": SECRET})
    auth = {"type": "bearer", "token": names[0]}
    await caller.ok(f"POST /v1/vaults/{id}/services", {"host": host, "auth_config": auth})
    return id


async def opening(served: Served, vm: Json, host: str) -> Opening | None:
    """What is done to the VM's requests to that host."""
    network = served.parts.engine.bindings._openings
    assert network is not None
    return await network.opening(InstanceId(vm["vm_id"].split("-")[1]), host)


async def env_of(caller: Caller, vm: Json) -> dict[str, str]:
    """The variables of what is executed."""
    ask = {"session_id": vm["session_id"], "command": "env", "language": "bash"}
    said = (await caller.ok("POST /execute", ask))["stdout"]
    return dict(line.split("=", 1) for line in said.splitlines())


async def test_the_sdks_way_through_a_vault(sdk: InstaVM, root: Caller) -> None:
    name = fresh("vault")
    vault = await away(lambda: sdk.create_vault(name, "of tests"))
    assert vault["id"].startswith("vlt_") and (vault["name"], vault["description"]) == (name, "of tests")
    assert vault in await away(sdk.list_vaults) and await away(lambda: sdk.get_vault(vault["id"])) == vault
    assert (await away(lambda: sdk.update_vault(vault["id"], description="else")))["description"] == "else"
    made = await away(lambda: sdk.add_vault_credential(vault["id"], name="OPENAI_KEY", value=SECRET, description="d"))
    assert (made["name"], made["credential_type"], made["enabled"], made["description"]) == (
        "OPENAI_KEY", "api_key", True, "d",
    )  # fmt: skip
    assert await away(lambda: sdk.list_vault_credentials(vault["id"])) == [made]
    assert await away(lambda: sdk.rotate_vault_credential(vault["id"], made["id"], value=OTHER)) == made
    auth = {"type": "header", "header": "X-API-Key", "key": "OPENAI_KEY"}
    service = await away(lambda: sdk.add_vault_service(vault["id"], host="API.Example.com", auth_config=auth))
    assert (service["host"], service["auth_config"]) == ("api.example.com", auth | {"type": "api-key"})
    bound = await away(lambda: sdk.add_vault_services_from_templates(vault["id"], ["telegram", "openai"]))
    assert [one["host"] for one in bound["services"]] == ["api.telegram.org", "api.openai.com"]
    assert len(await away(lambda: sdk.list_vault_services(vault["id"]))) == 3
    found = await away(lambda: sdk.discover_vault(vault["id"]))
    assert found["credentials"] == ["OPENAI_KEY"] and "api.telegram.org" in found["hosts"]
    assert await away(lambda: sdk.get_vault_request_logs(vault["id"])) == []
    assert await away(lambda: sdk.delete_vault_service(vault["id"], service["id"]))
    assert await away(lambda: sdk.delete_vault_credential(vault["id"], made["id"]))
    assert await away(lambda: sdk.delete_vault(vault["id"]))
    assert await root.refused(404, f"GET /v1/vaults/{vault['id']}") == f"Vault {vault['id']} not found"


async def test_the_catalogue(sdk: InstaVM) -> None:
    catalog = {one["id"]: one for one in await away(sdk.get_vault_catalog)}
    assert len(catalog) == len(TEMPLATES) == 25
    assert catalog["openai"] == {
        "id": "openai", "name": "OpenAI", "host": "api.openai.com", "auth_type": "bearer",
        "credential_key": "OPENAI_API_KEY",
    }  # fmt: skip
    assert catalog["anthropic"]["header"] == "x-api-key"
    assert catalog["telegram"]["path_placeholder"] == "TELEGRAM_BOT_TOKEN"


async def test_a_vm_has_placeholders_and_what_it_uses_follows_its_bindings(root: Caller, served: Served) -> None:
    vault = await filled(root, "OPENAI_KEY")
    vm = await root.vm(vault_ids=[vault])
    assert (await root.ok(f"GET /v1/vms/{vm['vm_id']}"))["vault_ids"] == [vault]
    env = await env_of(root, vm)
    assert (env["OPENAI_KEY"], env["OPENAI_API_KEY"]) == ("OPENAI_KEY", "OPENAI_KEY")
    bundle = served.vm(vm["vm_id"].split("-")[1])._guest.files[env["SSL_CERT_FILE"]]
    assert bundle.rstrip().endswith(b"-----END CERTIFICATE-----") and b"PRIVATE" not in bundle
    used = await opening(served, vm, "api.openai.com")
    assert used is not None and dict(used.headers)["Authorization"] == f"Bearer {SECRET}".encode()
    assert SECRET not in repr(used)
    assert await opening(served, vm, "example.com") is None

    (credential,) = (await root.ok(f"GET /v1/vaults/{vault}/credentials"))["credentials"]
    await root.ok(f"POST /v1/vaults/{vault}/credentials/{credential['id']}/rotate", {"value": OTHER})
    used = await opening(served, vm, "api.openai.com")
    assert used is not None and dict(used.headers)["Authorization"] == f"Bearer {OTHER}".encode()

    copy = await root.ok(f"POST /v1/vms/{vm['vm_id']}/clone")
    assert (await root.ok(f"GET /v1/vms/{copy['vm_id']}"))["vault_ids"] == [vault]
    told = await root.ok(f"PATCH /v1/vms/{vm['vm_id']}", {"vault_ids": []})
    assert told["vault_ids"] == [] and await opening(served, vm, "api.openai.com") is None
    assert "OPENAI_KEY" not in await env_of(root, vm)
    await root.ok(f"PATCH /v1/vms/{vm['vm_id']}", {"vault_ids": [vault, vault]})
    assert await opening(served, vm, "api.openai.com") is not None

    await root.ok(f"DELETE /v1/vaults/{vault}")
    for one in (vm, copy):
        assert await opening(served, one, "api.openai.com") is None
        assert (await root.ok(f"GET /v1/vms/{one['vm_id']}"))["vault_ids"] == []
    await root.ok("POST /kill", {"session_id": vm["session_id"]})
    ask = {"session_id": vm["session_id"], "command": "true", "language": "bash"}
    assert (await root.ok("POST /execute", ask))["exit_code"] == 0  # its next VM is without what is gone


async def test_an_execution_has_vaults_of_its_own_as_long_as_it_runs(root: Caller, served: Served) -> None:
    vault, vm = await filled(root, "GROQ_API_KEY", host="api.groq.com"), await root.vm()
    ask: Json = {"session_id": vm["session_id"], "command": "env", "language": "bash"}
    assert "GROQ_API_KEY=GROQ_API_KEY" in (await root.ok("POST /execute", ask | {"vault_ids": [vault]}))["stdout"]
    assert "GROQ_API_KEY" not in (await root.ok("POST /execute", ask))["stdout"]
    assert await opening(served, vm, "api.groq.com") is None
    python = ask | {"command": "print(os.environ.get('GROQ_API_KEY'))", "language": "python", "vault_ids": [vault]}
    assert (await root.ok("POST /execute", python))["stdout"] == "GROQ_API_KEY\n"
    assert await root.refused(404, "POST /execute", ask | {"vault_ids": ["vlt_none"]}) == "Vault vlt_none not found"


async def test_nobody_sees_or_binds_anothers(root: Caller, tenant: Caller, served: Served) -> None:
    vault, theirs = await filled(root, "A_KEY"), await filled(tenant, "B_KEY")
    assert [one["id"] for one in (await tenant.ok("GET /v1/vaults"))["vaults"]] == [theirs]
    vm = await tenant.vm()
    missing = f"Vault {vault} not found"
    (credential,) = (await root.ok(f"GET /v1/vaults/{vault}/credentials"))["credentials"]
    for line, body in (
        (f"GET /v1/vaults/{vault}", None), (f"GET /v1/vaults/{vault}/discover", None),
        (f"GET /v1/vaults/{vault}/credentials", None), (f"GET /v1/vaults/{vault}/services", None),
        (f"GET /v1/vaults/{vault}/request-logs", None), (f"DELETE /v1/vaults/{vault}", None),
        (f"PATCH /v1/vaults/{vault}", {"name": "mine"}),
        (f"POST /v1/vaults/{vault}/credentials", {"name": "X", "value": "x"}),
        (f"POST /v1/vaults/{vault}/credentials/{credential['id']}/rotate", {"value": "x"}),
        (f"DELETE /v1/vaults/{vault}/credentials/{credential['id']}", None),
        (f"POST /v1/vaults/{vault}/services", {"host": "a.example.com", "auth_config": {"type": "passthrough"}}),
        (f"POST /v1/vaults/{vault}/services:from_template", {"template_ids": ["slack"]}),
        ("POST /v1/vms", {"vault_ids": [vault]}), (f"PATCH /v1/vms/{vm['vm_id']}", {"vault_ids": [vault]}),
        ("POST /execute", {"session_id": vm["session_id"], "command": "true", "vault_ids": [vault]}),
    ):  # fmt: skip
        assert await tenant.refused(404, line, body) == missing, line
    wrong = f"POST /v1/vaults/{theirs}/credentials/{credential['id']}/rotate"
    assert "not found" in await tenant.refused(404, wrong, {"value": "x"})
    assert [one["vm_id"] for one in await tenant.ok("GET /v1/vms")] == [vm["vm_id"]]  # nothing half-made
    assert await root.refused(404, f"PATCH /v1/vms/{vm['vm_id']}", {"vault_ids": [vault]}) == missing


@pytest.mark.parametrize(
    ("field", "auth"),
    [
        ("auth_config.type", {"type": "magic"}),
        ("auth_config.token", {"type": "bearer"}),
        ("auth_config.token", {"type": "bearer", "token": "no name"}),
        ("auth_config.header", {"type": "api-key", "key": "K"}),
        ("auth_config.header", {"type": "api-key", "key": "K", "header": "Content-Length"}),
        ("auth_config.header", {"type": "api-key", "key": "K", "header": "a b"}),
        ("auth_config.prefix", {"type": "api-key", "key": "K", "header": "X", "prefix": "a\r\nb"}),
        ("auth_config.username", {"type": "basic", "password": "K"}),
        ("auth_config.headers", {"type": "custom", "headers": {"X-A": "nothing"}}),
        ("auth_config.headers.Host", {"type": "custom", "headers": {"Host": "{{ K }}"}}),
        ("auth_config.placeholder", {"type": "url-path", "token": "K", "placeholder": "a/b"}),
        ("auth_config.token", {"type": "passthrough", "token": "K"}),
    ],
)
async def test_what_is_wrong_with_a_service_is_named(root: Caller, field: str, auth: dict[str, Any]) -> None:
    vault = await filled(root, "K")
    await root.wrong(field, f"POST /v1/vaults/{vault}/services", {"host": "b.example.com", "auth_config": auth})
    assert len((await root.ok(f"GET /v1/vaults/{vault}/services"))["services"]) == 1


async def test_what_is_wrong_is_named(root: Caller) -> None:
    vault = await filled(root, "K", host="*.example.com")
    for host in ("localhost", "https://a.example.com", "a.example.com:443", "10.0.0.1", "*", "a..b"):
        auth = {"type": "passthrough"}
        await root.wrong("host", f"POST /v1/vaults/{vault}/services", {"host": host, "auth_config": auth})
    credentials = f"POST /v1/vaults/{vault}/credentials"
    for name in ("1A", "A-B", "PATH", "LD_PRELOAD", "ssl_cert_file", ""):
        await root.wrong("name", credentials, {"name": name, "value": SECRET})
    for value in ("", "a\nb", " a", "é", "a\x00b", "x" * 20_000):
        said = await root.ask(credentials, {"name": "OTHER", "value": value})
        assert said.status_code == 422 and said.json()["detail"][0]["loc"] == ["body", "value"]
        assert len(value) < 3 or value not in said.text
    await root.wrong(
        "template_ids.1", f"POST /v1/vaults/{vault}/services:from_template", {"template_ids": ["openai", "x"]}
    )
    await root.wrong("template_ids", f"POST /v1/vaults/{vault}/services:from_template", {"template_ids": []})
    await root.wrong("name", "POST /v1/vaults", {"name": " "})
    await root.wrong("vault_ids", "POST /v1/vms", {"vault_ids": "x"})
    many = [await filled(root, "K") for _ in range(17)]
    await root.wrong("vault_ids", "POST /v1/vms", {"vault_ids": many})
    assert "taken" in await root.refused(409, credentials, {"name": "K", "value": "x"})
    again = {"host": "*.EXAMPLE.com", "auth_config": {"type": "passthrough"}}
    assert "already" in await root.refused(409, f"POST /v1/vaults/{vault}/services", again)
    name = (await root.ok(f"GET /v1/vaults/{vault}"))["name"]
    assert "taken" in await root.refused(409, "POST /v1/vaults", {"name": name})
    await root.ok(f"POST /v1/vaults/{vault}/services:from_template", {"template_ids": ["slack", "slack"]})
    await root.refused(409, f"POST /v1/vaults/{vault}/services:from_template", {"template_ids": ["vercel", "slack"]})
    hosts = [one["host"] for one in (await root.ok(f"GET /v1/vaults/{vault}/services"))["services"]]
    assert hosts == ["*.example.com", "slack.com"]


async def test_a_value_is_nowhere_to_be_read(root: Caller, served: Served) -> None:
    vault = await filled(root, "HIDDEN_KEY")
    vm = await root.vm(vault_ids=[vault])
    told = [await root.ok(f"GET /v1/vaults/{vault}{more}") for more in ("", "/credentials", "/services", "/discover")]
    told += [await root.ok("GET /v1/vaults"), await root.ok(f"GET /v1/vms/{vm['vm_id']}"), await env_of(root, vm)]
    told += [(await served.http.get("/api/v1/audit", params={"limit": 200})).json()]
    assert SECRET not in json.dumps(told)
    data = served.parts.config.data
    for path in data.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    for path in (data / "vaults").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


async def test_the_log_of_requests_is_of_the_vault(root: Caller, served: Served) -> None:
    vault = await filled(root, "LOG_KEY", host="api.example.com")
    vm = await root.vm(vault_ids=[vault])
    used = await opening(served, vm, "api.example.com")
    openings = served.parts.engine.bindings._openings
    assert used is not None and openings is not None
    for status in (200, 404):
        openings.note(used, "api.example.com", status)
    logs = (await root.ok(f"GET /v1/vaults/{vault}/request-logs"))["logs"]
    assert [(one["host"], one["status"], one["credential_name"]) for one in logs] == [
        ("api.example.com", 404, "LOG_KEY"), ("api.example.com", 200, "LOG_KEY"),
    ]  # fmt: skip
    assert logs[0]["timestamp"]
    assert len((await root.ok(f"GET /v1/vaults/{vault}/request-logs", limit=1))["logs"]) == 1
    await root.wrong("limit", f"GET /v1/vaults/{vault}/request-logs", place="query", limit=0)
