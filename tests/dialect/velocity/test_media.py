"""`/m`: pools and media: every row of the specification's table and each of its refusals."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from dialect.velocity.conftest import Caller

pytestmark = pytest.mark.asyncio(loop_scope="session")
NOBODY = 999_999
MIB = 2**20


async def managed(root: Caller, quota: int = 0) -> int:
    """A new group that may do everything in the default pool."""
    gid = await root.group()
    await root.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=quota, write=True, manage=True)
    return gid


async def send(caller: Caller, content: Any, **headers: Any) -> httpx.Response:
    """An upload. Headers are without their prefix; None: left out."""
    usual = {"mpid": 0, "gid": 0, "name": fresh("m"), "type": "ISO", "readonly": "true"} | headers
    given = {f"x-velocity-{name}": str(value) for name, value in usual.items() if value is not None}
    given["Authorization"] = f"Bearer {caller.authkey}"
    return await caller.http.put("/m/media/upload", content=content, headers=given)


async def test_pools_are_assigned_to_groups(root: Caller) -> None:
    assert (await root.ok("POST /m/pool/list", gid=0))["pools"] == [
        {"mpid": 0, "name": "default", "write": True, "manage": True}
    ]
    gid = await root.group()
    assert await root.ok("POST /m/pool/list", gid=gid) == {"pools": []}
    wanted: dict[str, Any] = {"gid": gid, "mpid": 0, "quota": 0, "write": True, "manage": False}
    assert await root.ok("PUT /m/pool/assign", **wanted) is None
    await root.ok("PUT /m/pool/assign", **{**wanted, "write": False, "manage": True})  # in the place of what was
    assert (await root.ok("POST /m/pool/list", gid=gid))["pools"] == [
        {"mpid": 0, "name": "default", "write": False, "manage": True}
    ]
    user = await root.user((gid, "vm.view"))
    await user.refused(6200, 403, "PUT /m/pool/assign", **wanted)
    await root.refused(6210, 404, "PUT /m/pool/assign", **{**wanted, "gid": NOBODY})
    await root.refused(6211, 404, "PUT /m/pool/assign", **{**wanted, "mpid": NOBODY})
    assert (await root.ask("PUT /m/pool/assign", **{**wanted, "quota": -1})).status_code == 400
    await user.refused(6300, 403, "DELETE /m/pool/assign", gid=gid, mpid=0)
    await root.refused(6310, 404, "DELETE /m/pool/assign", gid=NOBODY, mpid=0)
    await root.refused(6311, 404, "DELETE /m/pool/assign", gid=gid, mpid=NOBODY)
    await user.refused(7100, 403, "POST /m/pool/list", gid=gid)
    await root.refused(7110, 404, "POST /m/pool/list", gid=NOBODY)
    assert await root.ok("DELETE /m/pool/assign", gid=gid, mpid=0) is None
    assert await root.ok("POST /m/pool/list", gid=gid) == {"pools": []}


async def test_a_medium_of_zeros_is_made_listed_and_removed(root: Caller) -> None:
    gid, name = await managed(root), "My disk, number 1"
    made = await root.ok("PUT /m/media/create", mpid=0, gid=gid, name=name, type="DISK", size=MIB)
    assert made["size"] == MIB
    assert re.fullmatch(r"[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", made["mid"])
    assert await root.ok("POST /m/media/list", gid=gid) == {
        "media": [{"mid": made["mid"], "mpid": 0, "name": name, "type": "DISK", "size": MIB, "readonly": False}]
    }
    await root.ok("PUT /m/pool/assign", gid=gid, mpid=0, quota=0, write=False, manage=True)
    assert (await root.ok("POST /m/media/list", gid=gid))["media"][0]["readonly"] is True
    user = await root.user((gid, "vm.view"))
    await user.refused(10100, 403, "POST /m/media/list", gid=gid)
    await root.refused(10110, 404, "POST /m/media/list", gid=NOBODY)
    await user.refused(18300, 403, "DELETE /m/media", mid=made["mid"])
    await root.refused(18310, 404, "DELETE /m/media", mid="nonesuch")
    assert await root.ok("DELETE /m/media", mid=made["mid"].lower()) is None
    assert await root.ok("POST /m/media/list", gid=gid) == {"media": []}


async def volumes(served: Served, gid: int) -> list[str]:
    """Our ids of a group's media, those that are being made as well."""
    project = next(one.id for one in await served.parts.engine.projects.tree() if one.number == gid)
    async with served.parts.store.read() as unit:
        return [one.id for one in (await unit.volumes.page([project], None, 100)).items]


async def test_refusals_about_new_media(served: Served, root: Caller) -> None:
    gid = await managed(root, quota=3 * MIB)
    unmanaged = await root.group()
    wanted: dict[str, Any] = {"mpid": 0, "gid": gid, "name": fresh("m"), "type": "DISK", "size": 2 * MIB}
    user = await root.user((gid, "media.list"))
    await user.refused(8200, 403, "PUT /m/media/create", **wanted)
    await root.refused(8201, 403, "PUT /m/media/create", **{**wanted, "gid": unmanaged})
    await root.refused(8210, 404, "PUT /m/media/create", **{**wanted, "gid": NOBODY})
    await root.refused(8211, 404, "PUT /m/media/create", **{**wanted, "mpid": NOBODY})
    await root.ok("PUT /m/media/create", **wanted)
    await root.refused(8220, 409, "PUT /m/media/create", **{**wanted, "size": 512})
    await root.refused(8221, 406, "PUT /m/media/create", **{**wanted, "name": fresh("m")})
    grown = await served.http.patch(f"/api/v1/volumes/{(await volumes(served, gid))[0]}", json={"size": 16 * MIB})
    assert (grown.status_code, grown.json()["field"]) == (403, "pool")  # whoever makes it larger
    for field, value in (("size", 0), ("size", -1), ("name", ""), ("type", ""), ("type", "x" * 33)):
        answer = await root.ask("PUT /m/media/create", **{**wanted, "name": fresh("m"), field: value})
        assert answer.status_code == 400, (field, value)


async def test_media_are_uploaded_whole(root: Caller) -> None:
    gid = await managed(root)
    data = bytes(range(256)) * 4096

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 65536):
            yield data[at : at + 65536]

    made = await send(root, data, gid=gid, name="install.iso")
    assert (made.status_code, made.json()["size"]) == (200, len(data))
    assert (await root.ok("POST /m/media/list", gid=gid))["media"] == [
        {
            "mid": made.json()["mid"],
            "mpid": 0,
            "name": "install.iso",
            "type": "ISO",
            "size": len(data),
            "readonly": True,
        }
    ]
    again = await send(root, data, gid=gid, name="install.iso")
    assert (again.status_code, again.json()["code"]) == (409, 9220)
    chunked = await send(root, chunks(), gid=gid)  # without a length
    assert (chunked.status_code, chunked.json()["code"]) == (400, 9210)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"mpid": None}, 400, 9212), ({"mpid": "x"}, 400, 9212), ({"gid": None}, 400, 9213),
        ({"name": None}, 400, 9214), ({"type": None}, 400, 9215), ({"readonly": None}, 400, 9216),
        ({"readonly": "maybe"}, 400, 9216), ({"gid": NOBODY}, 404, 9217), ({"mpid": NOBODY}, 404, 9218),
    ],
)  # fmt: skip
async def test_an_upload_says_what_it_is(root: Caller, headers: dict[str, Any], status: int, code: int) -> None:
    answer = await send(root, b"x" * 1024, **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_refusals_about_uploads(root: Caller) -> None:
    gid, unmanaged = await managed(root, quota=MIB), await root.group()
    user = await root.user((gid, "media.list"))
    for caller, fields, status, code in (
        (user, {"gid": gid}, 403, 9200), (root, {"gid": unmanaged}, 403, 9201), (root, {"gid": gid}, 406, 9221),
    ):  # fmt: skip
        answer = await send(caller, b"x" * (MIB + 1), **fields)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    nobody = await root.http.put("/m/media/upload", content=b"x")
    assert (nobody.status_code, nobody.json()["code"]) == (401, 100)
    assert await root.ok("POST /m/media/list", gid=gid) == {"media": []}


async def test_an_upload_that_is_cut_off_leaves_nothing(served: Served, root: Caller) -> None:
    gid = await managed(root)
    port = httpx.URL(served.url).port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"PUT /m/media/upload HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {root.authkey}\r\n"
        f"Content-Length: {4 * MIB}\r\n"
        f"x-velocity-mpid: 0\r\nx-velocity-gid: {gid}\r\nx-velocity-name: half\r\nx-velocity-type: ISO\r\n"
        "x-velocity-readonly: true\r\n\r\n"
    )
    writer.write(head.encode() + b"x" * MIB)
    await writer.drain()
    async with asyncio.timeout(20):
        while not await volumes(served, gid):  # it is being taken
            await asyncio.sleep(0.02)
        assert await root.ok("POST /m/media/list", gid=gid) == {"media": []}  # and not there yet
        writer.close()
        while await volumes(served, gid):
            await asyncio.sleep(0.02)
    assert (await send(root, b"x" * 512, gid=gid, name="half")).status_code == 200
