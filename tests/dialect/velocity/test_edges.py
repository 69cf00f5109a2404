"""What clients run into at the edges of `/v` and `/m`: lesser permissions, odd names, pools that are gone, restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh, serving
from dialect.velocity.conftest import Caller, login
from dialect.velocity.test_machines import medium, wish
from dialect.velocity.test_media import managed, send, volumes
from dialect.velocity.test_vms import until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_who_may_only_create_creates(root: Caller) -> None:
    gid = await managed(root)
    user = await root.user((gid, "vm.create"))
    asked = wish(gid, name="Näme")
    assert set(await user.ok("PUT /v/vm/efi", **asked)) == {"vmid"}
    await user.refused(12223, 409, "PUT /v/vm/efi", **asked)


async def test_media_of_other_groups_are_not_there(root: Caller) -> None:
    above, beside = await managed(root), await managed(root)
    gid = await root.group(above)
    user = await root.user((gid, "vm.create"), (beside, "media.list"))

    def wanting(mid: str) -> dict[str, Any]:
        return wish(gid, media=[{"mid": mid, "mode": "USB", "readonly": True}])

    there, elsewhere = await medium(root, above), await medium(root, beside)
    await user.refused(12211, 404, "PUT /v/vm/efi", **wanting(elsewhere))
    await root.refused(12211, 404, "PUT /v/vm/efi", **wanting(elsewhere))
    await user.refused(12211, 404, "PUT /v/vm/efi", **wanting(there))
    await root.ok("PUT /v/vm/efi", **wanting(there))


async def test_a_medium_that_is_written_to_is_in_one_machine(root: Caller) -> None:
    gid = await managed(root)
    media = [{"mid": await medium(root, gid), "mode": "VIRTIO", "readonly": False}]
    vmid = (await root.ok("PUT /v/vm/efi", **wish(gid, media=media, nics=[{"type": "NAT", "host": 5}])))["vmid"]
    assert (await root.ok("POST /v/vm", vmid=vmid))["nics"] == [{"type": "NAT"}]
    await root.refused(12228, 409, "PUT /v/vm/efi", **wish(gid, media=media))
    await until(root, vmid, "STOPPED")
    await root.ok("DELETE /v/vm", vmid=vmid)
    await root.refused(16210, 404, "POST /v/vm", vmid=vmid)  # gone by then, and its medium free
    await root.ok("PUT /v/vm/efi", **wish(gid, media=media))


async def test_who_may_not_manage_a_pool_removes_nothing_there(root: Caller) -> None:
    gid = await managed(root)
    mid = await medium(root, gid)
    await root.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=True, manage=False)
    await root.refused(18301, 403, "DELETE /m/media", mid=mid)


async def test_nobody_widens_his_own_quota_in_a_pool(root: Caller) -> None:
    gid = await managed(root, quota=4096)
    user = await root.user((gid, "pool.assign"), (gid, "media.create"))
    rights: dict[str, Any] = {"gid": gid, "mpid": 0, "write": True, "manage": True}
    for quota in (0, 8192):
        await user.refused(6200, 403, "PUT /m/pool/assign", **rights, quota=quota)
    await user.ok("PUT /m/pool/assign", **rights, quota=1024)
    await root.ok("PUT /m/pool/assign", **rights, quota=0)


@pytest.mark.parametrize(("name", "bytes_"), [("Älter 日本", True), ("caf\u00e9", False)])
async def test_names_in_headers_are_what_their_sender_meant(root: Caller, name: str, bytes_: bool) -> None:
    gid = await managed(root)
    header = name.encode() if bytes_ else name.encode("latin-1")
    said = {"mpid": b"0", "gid": str(gid).encode(), "name": header, "type": b"ISO", "readonly": b"true"}
    headers = [(b"x-velocity-" + key.encode(), value) for key, value in said.items()]
    headers.append((b"authorization", b"Bearer " + root.authkey.encode()))
    assert (await root.http.put("/m/media/upload", content=b"x" * 512, headers=headers)).status_code == 200
    assert [one["name"] for one in (await root.ok("POST /m/media/list", gid=gid))["media"]] == [name]


@pytest.mark.parametrize(
    ("content", "headers", "code"),
    [(b"x", {"name": "n" * 300}, 9214), (b"x", {"type": "t" * 40}, 9215), (b"", {}, 9210)],
)
async def test_a_header_that_is_wrong_is_named(
    root: Caller, content: bytes, headers: dict[str, Any], code: int
) -> None:
    gid = await managed(root)
    answer = await send(root, content, gid=gid, **headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code), answer.text


async def test_a_browser_may_upload_and_empty_parts_of_a_path_are_nothing(root: Caller) -> None:
    allowed = (await root.http.options("/m/media/upload")).headers["access-control-allow-headers"]
    assert {"file-name", "x-velocity-authkey", "x-velocity-readonly"} <= set(allowed.split(", "))
    assert await root.ok("POST /v/nic/list/") == await root.ok("POST /v/nic/list")


async def test_another_name_given_elsewhere_is_the_name(served: Served, root: Caller) -> None:
    gid = await managed(root)
    vmid = (await root.ok("PUT /v/vm/efi", **wish(gid, name="two words")))["vmid"]
    async with served.client() as client:
        id = [one.id async for one in client.instances.list() if one.id == one.name and not one.image][-1]
    await until(root, vmid, "STOPPED")
    name = fresh("renamed")
    assert (await served.http.patch(f"/api/v1/instances/{id}", json={"name": name})).status_code == 200
    assert (await root.ok("POST /v/vm", vmid=vmid))["name"] == name


async def test_numbers_too_large_and_keys_that_are_no_users(served: Served, root: Caller) -> None:
    gid = await managed(root)
    await root.refused(12221, 406, "PUT /v/vm/efi", **wish(gid, memory_mib=2**63 - 1))
    key = Caller(root.http, served.key, -1, "key")
    await key.refused(2110, 404, "POST /u/user")
    member = (await root.ok("POST /u/user"))["name"]
    await root.ok("PUT /u/user/permission", uid=0, gid=0, permission="velocity.vm.view")
    shown = next(one for one in (await root.ok("POST /u/group", gid=0))["memberships"] if one["name"] == member)
    assert len(shown["permissions"]) > 20


async def administrator(served: Served) -> Caller:
    """Of a server of a test's own."""
    admin = served.parts.facts["admin"]
    http = httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30)
    return await login(http, admin["username"], admin["password"], 0)


async def test_a_machine_starts_with_the_server_and_a_pool_may_go(tmp_path: Path) -> None:
    data = tmp_path / "data"
    settings = tmp_path / "polyvisor.toml"
    settings.write_text(f'[pools.extra]\nnumber = 1\npath = "{tmp_path / "extra"}"\n')
    (tmp_path / "extra").mkdir()
    async with serving(data, file=settings) as served:
        root = await administrator(served)
        await root.ok("PUT /m/pool/assign", gid=0, mpid=1, quota=0, write=True, manage=True)
        gone = await medium(root, 0, mpid=1)
        kept = await medium(root, 0)
        never = (await root.ok("PUT /v/vm/efi", **wish(0, autostart=True)))["vmid"]
        ended = (await root.ok("PUT /v/vm/efi", **wish(0, autostart=True)))["vmid"]
        await until(root, never, "STOPPED")
        await root.ok("PUT /v/vm/state", vmid=ended, state="RUNNING")
        await until(root, ended, "RUNNING")
        await root.ok("PUT /v/vm/state", vmid=ended, state="STOPPED", force=True)
        await until(root, ended, "STOPPED")
        await root.http.aclose()
    async with serving(data) as served:
        root = await administrator(served)
        await until(root, never, "RUNNING")
        assert (await root.ok("POST /v/vm/state", vmid=ended))["state"] == "STOPPED"
        assert [one["mid"] for one in (await root.ok("POST /m/media/list", gid=0))["media"]] == [kept]
        await root.refused(18310, 404, "DELETE /m/media", mid=gone)
        assert len(await volumes(served, 0)) == 2
        await root.http.aclose()
        await asyncio.sleep(0)
