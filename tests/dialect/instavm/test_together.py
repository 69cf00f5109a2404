"""`POST /v1/vms` with all of its fields at once: all that is wrong is named, and all that is right is done (seed)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dialect.instavm.conftest import Caller, Json, fresh
from dialect.served import Served, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")
WRONG: Json = {
    "session_id": 1, "vm_lifetime_seconds": "long", "memory_mb": "512x", "vcpu_count": 0, "metadata": [],
    "env": {"A": 1}, "snapshot_id": {}, "snapshot_on_terminate": "perhaps", "snapshot_name": 3,
    "egress_policy": {"allow_http": 7, "allow_https": [], "allowed_domains": "x", "allowed_cidrs": [1]},
    "share": {"port": 70000, "is_public": "maybe"},
    "custom_domain": {"domain": 1, "dns_provider": [], "dns_credentials": {"a": 1}}, "image_variant": False,
    "volumes": [{"volume_id": 1, "mount_path": 2, "mode": "x", "checkpoint_id": 3}], "vault_ids": [1, "v", None],
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def near(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """A server that takes domains."""
    settings = {"instavm.image": "busybox", "instavm.domains": "vms.test"}
    async with serving(tmp_path_factory.mktemp("near") / "data", settings) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def here(near: Served) -> AsyncIterator[Caller]:
    """Its operator."""
    async with httpx.AsyncClient(base_url=near.url, trust_env=False, timeout=60) as client:
        yield Caller(client, near.key)


def leaves(value: Any, where: str = "") -> list[str]:
    """The places of all values in it."""
    if isinstance(value, dict) and value:
        return [one for key, inner in value.items() for one in leaves(inner, f"{where}.{key}")]
    if isinstance(value, list) and value:
        return [one for key, inner in enumerate(value) for one in leaves(inner, f"{where}.{key}")]
    return [where.removeprefix(".")]


async def test_everything_that_is_wrong_is_named_at_once(here: Caller) -> None:
    told = await here.refused(422, "POST /v1/vms", WRONG)
    found = {".".join(map(str, one["loc"])).removeprefix("body.") for one in told}
    wanted = {*leaves(WRONG)} - {"vault_ids.1"}  # which is a text
    assert found == wanted
    assert await here.ok("GET /v1/vms/") == []


async def valid(here: Caller, path: str = "/data") -> Json:
    """A value of each field, which are good together; but for those that name what there is already."""
    volume = await here.ok("POST /v1/volumes", {"name": fresh("vol"), "quota_bytes": 1 << 26})
    vault = await here.ok("POST /v1/vaults", {"name": fresh("vault")})
    return {
        "vm_lifetime_seconds": 3600, "memory_mb": 256, "vcpu_count": 1, "metadata": {"a": [1, {"b": None}]},
        "env": {"A": "1"}, "snapshot_on_terminate": True, "snapshot_name": fresh("last"), "image_variant": "standard",
        "egress_policy": {"allow_http": False, "allow_https": False, "allow_public_repos": False,
                          "allowed_domains": ["*.example.com"], "allowed_cidrs": ["192.0.2.0/24", "2001:db8::/32"]},
        "share": {"port": 8080, "is_public": True}, "custom_domain": {"domain": f"{fresh('a')}.example.org"},
        "volumes": [{"volume_id": volume["id"], "mount_path": path, "mode": "rw"}],
        "vault_ids": [vault["id"]], "auto_suspend": False, "auto_resume": True,
    }  # fmt: skip


async def test_all_that_is_right_is_done_at_once(here: Caller) -> None:
    body = await valid(here)
    made = await here.ok("POST /v1/vms", body | {"session_id": await here.session()})
    assert (made["status"], made["env_status"]) == ("active", "applied")
    assert made["share"]["is_public"] and made["custom_domain"]["domain"] == body["custom_domain"]["domain"]
    told = await here.ok(f"GET /v1/vms/{made['vm_id']}")
    for name in (
        "memory_mb", "vcpu_count", "metadata", "snapshot_on_terminate", "snapshot_name", "image_variant", "vault_ids",
        "auto_suspend", "auto_resume",
    ):  # fmt: skip
        assert told[name] == body[name], name
    policy = await here.ok(f"GET /v1/egress/vm/{made['vm_id']}")
    assert policy["allowed_domains"] == ["example.com"] and not policy["allow_http"]
    assert policy["allowed_cidrs"] == body["egress_policy"]["allowed_cidrs"]
    (mounted,) = await here.ok(f"GET /v1/vms/{made['vm_id']}/volumes")
    assert mounted["mount_path"] == "/data"
    await here.ok(f"DELETE /v1/vms/{made['vm_id']}")
    (kept,) = [one for one in await here.ok("GET /v1/snapshots") if one["name"] == body["snapshot_name"]]
    # Once more, of the snapshot that it ended in, which is of that image.
    body = await valid(here) | {"snapshot_id": kept["id"], "vm_lifetime_seconds": 60}
    assert (await here.ok("POST /v1/vms", body))["status"] == "active"


async def test_each_two_of_them_are_good_together_or_nothing_is_made(here: Caller) -> None:
    whole = await valid(here) | {"auto_suspend": True}
    for one, other in itertools.combinations(
        ("share", "custom_domain", "egress_policy", "vault_ids", "auto_suspend"), 2
    ):
        asked = {name: whole[name] for name in (one, other)}
        before = await left(here)
        answer = await here.ask("POST /v1/vms", asked)
        if answer.status_code == 200:
            await here.ok(f"DELETE /v1/vms/{answer.json()['vm_id']}")
            if answer.json()["custom_domain"] is not None:
                await here.ok(f"DELETE /v1/custom-domains/{answer.json()['custom_domain']['id']}")
        else:
            assert "custom_domain" in asked and "share" not in asked, (asked, answer.text)
            assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "custom_domain"])
            assert await left(here) == before


async def left(here: Caller) -> list[Any]:
    """All that may be made with a VM."""
    lines = ("GET /v1/vms", "GET /v1/custom-domains", "GET /v1/volumes", "GET /v1/vaults")
    return list(await asyncio.gather(*(here.ok(line) for line in lines)))
