"""The form of calls and answers: verbs, statuses, errors, limits, tokens. And the seed's own commands by curl."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from dialect.hanzo.conftest import Caller, said, settings
from dialect.served import Served, fresh, serving
from polyvisor.dialects.hanzo import wire
from polyvisor.dialects.hanzo.app import PROCEDURES
from polyvisor.dialects.hanzo.errors import CODES, STATUSES
from polyvisor.model.faults import FAULTS, Invalid, NoCapacity
from polyvisor.server.config import load

pytestmark = pytest.mark.asyncio(loop_scope="session")
SEED = ("all", "one", "launch", "start", "stop", "restart", "destroy", "volumes", "attachVolume", "detachVolume",
        "terminal")  # fmt: skip


def _proper(name: str) -> str:
    return PROCEDURES[name].methods[0]


async def test_every_procedure_of_the_seed_is_there_with_its_verb(root: Caller) -> None:
    for name in SEED:
        assert f"vm.{name}" in PROCEDURES
    assert {_proper(f"vm.{name}") for name in ("all", "one", "volumes", "terminal")} == {"GET"}
    assert _proper("vm.destroy") == "DELETE"
    assert {
        _proper(f"vm.{name}") for name in ("launch", "start", "stop", "restart", "attachVolume", "detachVolume")
    } == {"POST"}
    assert (PROCEDURES["vm.launch"].status, PROCEDURES["vm.destroy"].status) == (201, 204)


@pytest.mark.parametrize("name", PROCEDURES)
async def test_a_wrong_verb_is_told_the_right_one(root: Caller, name: str) -> None:
    methods = PROCEDURES[name].methods
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - set(methods):
        answer = await root.ask(f"{method} {name}")
        assert said(answer, 405, "METHOD_NOT_SUPPORTED", name)
        assert answer.headers["allow"] == ", ".join(methods)


@pytest.mark.parametrize("name", PROCEDURES)
async def test_nobody_is_let_in_without_a_token(http: httpx.AsyncClient, root: Caller, name: str) -> None:
    nobody = Caller(http, "")
    message = await nobody.refused(401, "UNAUTHORIZED", f"{_proper(name)} {name}")
    assert "Bearer" in message
    for token in ("wrong", "tk_wrong"):
        await Caller(http, token).refused(401, "UNAUTHORIZED", f"{_proper(name)} {name}")


@pytest.mark.parametrize("name", [n for n, p in PROCEDURES.items() if p.body is not wire.Nothing])
async def test_what_is_required_is_named(root: Caller, name: str) -> None:
    required = [field for field, about in PROCEDURES[name].body.model_fields.items() if about.is_required()]
    message = await root.refused(400, "BAD_REQUEST", f"{_proper(name)} {name}")
    assert message == f"{required[0]}: is required"


async def test_what_is_no_procedure(root: Caller) -> None:
    for path in ("vm.foo", "vm.", "vm.all/", "volume.x", "organization.", "orgTeam.all.x", "user.login", "vm.one%20"):
        answer = await root.ask(f"GET {path}")
        assert said(answer, 404, "NOT_FOUND", path.replace("%20", " ")).startswith("No procedure found on path")
    assert (await root.http.get("/api/vmx")).status_code != 200  # not ours


async def test_bodies_that_are_none(root: Caller, org: str) -> None:
    headers = {"Authorization": f"Bearer {root.token}", "Content-Type": "application/json"}
    for data in (b"{", b"[]", b"5", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"vmId": "\\ud800"}'):
        answer = await root.http.post("/api/vm.start", content=data, headers=headers)
        said(answer, 400, "BAD_REQUEST", "vm.start")
    answer = await root.http.post("/api/vm.start", content=b"x" * 300_000, headers=headers)
    said(answer, 413, "PAYLOAD_TOO_LARGE", "vm.start")
    other = headers | {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await root.http.post("/api/vm.start", content=b"vmId=x", headers=other)
    said(answer, 415, "UNSUPPORTED_MEDIA_TYPE", "vm.start")
    made = await root.launch(org, more="is ignored", count=7)  # fields that are not known
    assert made["status"] == "provisioning"


async def test_every_fault_has_a_code() -> None:
    assert STATUSES[CODES[NoCapacity]] == 409
    assert set(CODES) == set(FAULTS)
    assert set(CODES.values()) <= set(STATUSES)


async def test_quotas_are_minded(served: Served, root: Caller) -> None:
    stranger = Caller(root.http, await served.stranger(instances=1))
    (organization,) = await stranger.ok("GET organization.all")
    await stranger.launch(organization["id"])
    body = {"name": fresh("vm"), "plan": "nano", "region": "us-east", "os": "busybox"}
    message = await stranger.refused(403, "FORBIDDEN", "POST vm.launch", organizationId=organization["id"], **body)
    assert "quota" in message or "limit" in message or "1" in message


async def test_limits_are_told(root: Caller, org: str) -> None:
    token = (await root.ok("POST user.createToken", 201, name=fresh("t")))["token"]
    caller = Caller(root.http, token)
    first = await caller.ask("GET vm.all", organizationId=org)
    second = await caller.ask("GET vm.all", organizationId=org)
    assert first.headers["x-ratelimit-limit"] == "100"
    left = [int(one.headers["x-ratelimit-remaining"]) for one in (first, second)]
    assert left in ([99, 98], [98, 99], [99, 99])  # a minute may end in between
    assert (await caller.ask("POST vm.start")).headers["x-ratelimit-limit"] == "30"


async def test_limits_are_minded_where_the_settings_say_so(tmp_path: Path) -> None:
    flags = {"hanzo.limits": "enforced", "hanzo.writes_per_minute": "2", "hanzo.regions": "eu-west"}
    async with serving(tmp_path / "data", flags) as own:
        caller = Caller(own.http, own.key)
        answers = [await caller.ask("POST vm.start") for _ in range(6)]  # of two minutes at most
        statuses = [one.status_code for one in answers]
        assert set(statuses) == {400, 429}
        over = answers[statuses.index(429)]
        assert said(over, 429, "TOO_MANY_REQUESTS", "vm.start")
        assert over.headers["x-ratelimit-remaining"] == "0"
        assert 1 <= int(over.headers["retry-after"]) <= 60
        organization = (await caller.ok("GET organization.all"))[0]["id"]  # reads are counted by themselves
        other = Caller(own.http, await own.stranger())
        body = {"name": "x", "plan": "nano", "region": "us-east", "os": "debian-12"}
        message = await other.refused(403, "FORBIDDEN", "POST vm.launch", organizationId=organization, **body)
        assert "member" in message


async def test_tokens_have_scopes_and_are_revoked(root: Caller, org: str) -> None:
    made = await root.ok("POST user.createToken", 201, name=fresh("t"), scopes=["read:*"], organizationId=org)
    assert re.fullmatch(r"tk_[A-Za-z0-9_-]{40,}", made["token"]) and made["scopes"] == ["read:*"]
    reader = Caller(root.http, made["token"])
    vm = (await root.launch(org))["id"]
    assert (await reader.ok("GET vm.one", vmId=vm))["id"] == vm
    await reader.refused(403, "FORBIDDEN", "POST vm.stop", vmId=vm)
    await reader.refused(403, "FORBIDDEN", "DELETE vm.destroy", vmId=vm)
    await reader.refused(403, "FORBIDDEN", "GET vm.terminal", vmId=vm)
    await reader.refused(403, "FORBIDDEN", "POST user.createToken", name="more")
    listed = await root.ok("GET user.tokens")
    (found,) = [one for one in listed if one["tokenId"] == made["tokenId"]]
    assert made["token"] not in str(listed) and found["prefix"] == made["token"][:10]
    deployer = await root.ok("POST user.createToken", 201, name=fresh("t"), scopes=["deploy:*"], organizationId=org)
    assert deployer["scopes"] == ["deploy:*"]
    await root.until(vm, "running")
    await Caller(root.http, deployer["token"]).ok("POST vm.stop", vmId=vm)
    await Caller(root.http, deployer["token"]).refused(403, "FORBIDDEN", "POST organization.create", name="more")
    for token in (made, deployer):
        assert (await root.ok("POST user.revokeToken", tokenId=token["tokenId"]))["revoked"] is True
        await root.refused(404, "NOT_FOUND", "POST user.revokeToken", tokenId=token["tokenId"])
        await Caller(root.http, token["token"]).refused(401, "UNAUTHORIZED", "GET vm.one", vmId=vm)
    for field, value in (("scopes", ["deploy:prod"]), ("scopes", []), ("expiresAt", "soon"), ("name", "a b")):
        body = {"name": "x", field: value}
        assert (await root.refused(400, "BAD_REQUEST", "POST user.createToken", **body)).startswith(field[:6])
    await root.refused(404, "NOT_FOUND", "POST user.revokeToken", tokenId="bootstrap")


async def test_the_commands_of_the_seed(served: Served, root: Caller, tmp_path: Path) -> None:
    """Word for word, but for the address, the token and the ids."""
    organization = await root.organization()
    volume = (await root.volume(organization))["id"]
    script = Path(__file__).with_name("seed.sh")
    env = {"PATH": "/usr/bin:/bin", "URL": served.url, "TOKEN": served.key, "ORG": organization, "VOLUME": volume}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", str(script)], env=env, capture_output=True, text=True, timeout=120, check=False)

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["201", "200", "200", "200", "200", "200", "200", "200", "200", "200", "204"]


NASTY: list[Any] = [
    None, True, 0, 1.5, 2**80, "", "\0", "a" * 5000, "\u202e", "../../etc/passwd", [], [[]], {}, "vm_" + "a" * 24,
    "vol_" + "a" * 24, "org_" + "a" * 24, "/",
]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROCEDURES.keys() - {"vm.createVolume", "vm.deleteVolume"}))
async def test_nothing_makes_it_stumble(root: Caller, name: str) -> None:
    """Each field in turn is what it should not be, while the others are as they should."""
    procedure = PROCEDURES[name]
    organization = await root.organization()
    good: dict[str, Any] = {
        "organizationId": organization, "vmId": "vm_" + "b" * 24, "volumeId": "vol_" + "b" * 24, "plan": "nano",
        "region": "us-east", "os": "busybox", "sizeGb": 10, "tier": "ssd", "mountPath": "/data", "role": "Viewer",
        "userId": "root", "tokenId": "tok_" + "b" * 24, "scopes": ["read:*"], "description": "x", "sshKeys": [],
        "userData": None, "expiresAt": None,
    }  # fmt: skip
    method = procedure.methods[0]
    for field in procedure.body.model_fields:
        for value in NASTY:
            fields = {key: said for key, said in good.items() if key in procedure.body.model_fields}
            if "name" in procedure.body.model_fields:
                fields["name"] = fresh("nasty")
            fields[field] = value
            if method == "GET":
                fields = {"input": json.dumps(fields)}
            answer = await root.ask(f"{method} {name}", **fields)
            assert answer.status_code < 500, (field, value, answer.text)
            assert answer.status_code == 204 or set(answer.json()) in ({"result"}, {"error"})
            if name == "vm.launch" and answer.status_code == 201:
                await root.ok("DELETE vm.destroy", 204, vmId=answer.json()["result"]["data"]["id"])


async def test_settings_of_systems_are_checked(tmp_path: Path) -> None:
    file = settings(tmp_path)
    assert set(load(file, {}).hanzo_settings().systems) == {"debian-12", "busybox", "ubuntu-22.04", "rocky-9", "gone"}
    wrong = {
        'image = "busybox"\nurl = "https://x"': "os_images.bad",
        'url = "https://x"': "os_images.bad.sha256",
        f'url = "ftp://x"\nsha256 = "{"0" * 64}"': "os_images.bad.url",
        f'file = "x"\nsha256 = "{"0" * 64}"': "os_images.bad.file",
        "": "os_images.bad",
    }
    for text, field in wrong.items():
        file.write_text(f"[os_images.bad]\n{text}\n")
        with pytest.raises(Invalid) as caught:
            load(file, {})
        assert caught.value.field == field
    for setting, value in (("regions", "mars"), ("limits", "maybe"), ("reads_per_minute", "0")):
        with pytest.raises(Invalid, match=f"hanzo.{setting}"):
            load(None, {f"hanzo.{setting}": value})
