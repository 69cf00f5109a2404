"""Media over HTTP: volumes of raw bytes, and the pools that they are in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dialect.served import Served, fresh
from polyvisor.host.paths import Paths
from polyvisor.model.faults import Invalid
from polyvisor.model.ids import ProjectId
from polyvisor.model.principal import Action, Principal

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _some(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _upload(
    http: httpx.AsyncClient, name: str, *chunks: bytes, length: int | None = None, **asked: Any
) -> httpx.Response:
    said = sum(map(len, chunks)) if length is None else length
    headers = {"Content-Length": str(said)}
    return await http.put("/api/v1/media", params={"name": name, **asked}, content=_some(*chunks), headers=headers)


async def test_an_upload_is_kept_byte_for_byte(served: Served, http: httpx.AsyncClient) -> None:
    data = bytes(range(256)) * 9000 + b"\0" * 2**21 + b"end"
    answer = await _upload(http, name := fresh("m"), data[:1000], data[1000:], kind="ISO", read_only="true")
    assert answer.status_code == 201, answer.text
    volume = answer.json()
    assert (volume["name"], volume["kind"], volume["read_only"], volume["pool"]) == (name, "ISO", True, "default")
    assert (volume["state"], volume["size"]) == ("ready", -(-len(data) // 512) * 512)
    file = Paths(served.parts.config.data).volume(volume["id"])
    assert file.read_bytes() == data + b"\0" * (volume["size"] - len(data))
    assert file.stat().st_blocks * 512 < len(data)  # zeros take no room
    vm = await served.make(volumes=[{"volume": name, "bus": "usb"}])
    assert [(m["read_only"], m["bus"]) for m in vm["volumes"]] == [(True, "usb")]
    grown = await http.patch(f"/api/v1/volumes/{name}", json={"size": "64M"})
    assert (grown.status_code, grown.json()["field"]) == (422, "volume")


async def test_a_cut_off_or_overlong_upload_leaves_nothing(served: Served, http: httpx.AsyncClient) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise OSError("the client is gone")

    name = fresh("m")
    with pytest.raises(OSError, match="gone"):
        await http.put("/api/v1/media", params={"name": name}, content=cut(), headers={"Content-Length": "3000000"})
    media = served.parts.engine.media
    key = Principal("root", ProjectId(served.parts.facts["project"]), frozenset(Action), operator=True)
    with pytest.raises(Invalid, match="more than 1000"):
        await media.upload(key, name, _some(b"x" * 1001), 1000, kind="disk")
    with pytest.raises(Invalid, match="ended after 999 of 1000"):
        await media.upload(key, name, _some(b"x" * 999), 1000, kind="disk")
    while (await http.get(f"/api/v1/volumes/{name}")).status_code != 404:
        await asyncio.sleep(0.02)
    assert not list(Paths(served.parts.config.data).volumes.glob("*.part"))
    assert (await _upload(http, name, b"x" * 1000)).status_code == 201


async def test_what_cannot_be_is_refused_before_a_byte_is_taken(served: Served, http: httpx.AsyncClient) -> None:
    name = fresh("m")
    assert (await _upload(http, name, b"x")).status_code == 201
    refused: list[tuple[dict[str, Any], int, str]] = [
        ({"name": name}, 409, "name"),
        ({"name": "a b"}, 422, "name"),
        ({"kind": "data"}, 422, "kind"),
        ({"kind": "k" * 33}, 422, "kind"),
        ({"pool": "nowhere"}, 404, "pool"),
    ]
    for asked, status, field in refused:
        answer = await _upload(http, asked.pop("name", fresh("m")), b"x", **asked)
        assert (answer.status_code, answer.json()["field"]) == (status, field)
    unknown = await http.put("/api/v1/media", params={"name": fresh("m")}, content=_some(b"x"))
    assert (unknown.status_code, unknown.json()["field"]) == (422, "Content-Length")
    empty = await _upload(http, fresh("m"), length=0)
    assert (empty.status_code, empty.json()["field"]) == (422, "size")


async def test_a_blank_medium_is_zeros_without_a_file_system(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/volumes", json={"name": fresh("m"), "size": 1000, "kind": "disk"})
    volume = answer.json()
    assert (answer.status_code, volume["size"], volume["kind"]) == (201, 1024, "disk")
    assert Paths(served.parts.config.data).volume(volume["id"]).read_bytes() == bytes(1024)


async def test_pools_are_listed_and_only_operators_see_where_they_are(served: Served, http: httpx.AsyncClient) -> None:
    first = (await http.get("/api/v1/pools")).json()["items"][0]
    assert (first["name"], first["number"], first["path"]) == ("default", 0, str(served.parts.config.data))
    assert 0 < first["free"] <= first["total"]


async def test_a_medium_of_a_project_above_is_used_below_and_one_beside_is_not(
    served: Served, http: httpx.AsyncClient
) -> None:
    one, other = [(await http.post("/api/v1/projects", json={"name": fresh("p")})).json()["id"] for _ in range(2)]
    asked = {"name": fresh("m"), "size": "1M", "kind": "DISK"}
    above = await _upload(http, fresh("m"), b"x", read_only="true")
    beside = await http.post("/api/v1/volumes", json=asked, headers={"X-Project": other})
    for volume, status in [(above, 201), (beside, 404)]:
        answer = await http.post(
            "/api/v1/instances", headers={"X-Project": one},
            json={"name": fresh("vm"), "blank": True, "power": "off", "volumes": [{"volume": volume.json()["id"]}]},
        )  # fmt: skip
        assert answer.status_code == status, answer.text
