"""Nobody unknown gets past the door, on any route, and nobody gets at what is another project's."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from dialect.served import Served, fresh
from polyvisor.wire.native import Problem

pytestmark = pytest.mark.asyncio(loop_scope="session")
SOCKETS = ("exec", "console")


async def operations(served: Served) -> list[tuple[str, str]]:
    """(method, path) of every guarded operation of the published document."""
    document = (await served.http.get("/api/v1/openapi.json")).json()
    found = [
        (method.upper(), re.sub(r"\{\w+\}", "something", path))
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if operation.get("security") != []
    ]
    assert len(found) > 35
    return found


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}], ids=str)
async def test_no_route_answers_a_caller_who_is_unknown(served: Served, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as nobody:
        for method, path in await operations(served):
            answer = await nobody.request(method, path, headers=headers, content=b"not even JSON")
            assert (answer.status_code, answer.json()["kind"]) == (401, "Unauthenticated"), (method, path)
            assert "Bearer" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("name", SOCKETS)
async def test_a_socket_is_refused_with_401_before_the_upgrade(
    served: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws{served.url[4:]}/api/v1/instances/x/{name}", proxy=None)
    assert refused.value.response.status_code == 401
    assert Problem.model_validate_json(refused.value.response.body).kind == "Unauthenticated"
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("name", [*SOCKETS, "nothing"])
async def test_a_socket_that_leads_to_nothing_is_refused_with_404(served: Served, name: str) -> None:
    headers = {"Authorization": f"Bearer {served.key}"}
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws{served.url[4:]}/api/v1/instances/nope/{name}", additional_headers=headers, proxy=None)
    assert refused.value.response.status_code == 404
    assert Problem.model_validate_json(refused.value.response.body).kind == "NotFound"


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Basic", "Basic !!!", "Basic " + base64.b64encode(b"\0:x").decode(), "Digest x",
        "Basic " + base64.b64encode(b"root:wrong").decode(), "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Bearer " + "x" * 4000, "Bearer \xff",
    ],
)  # fmt: skip
async def test_a_credential_that_is_none_is_refused(served: Served, header: str) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as nobody:
        answer = await nobody.get("/api/v1/about", headers=[(b"Authorization", header.strip().encode("latin-1"))])
    assert answer.status_code == 401


async def test_key_and_password_both_open(served: Served) -> None:
    password = served.parts.facts["admin"]["password"]
    for how in ({"X-API-Key": served.key}, {"Authorization": f"bearer {served.key}"}):
        async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
            assert (await client.get("/api/v1/about", headers=how)).status_code == 200
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await client.get("/api/v1/about", auth=("root", password))).json()["principal"] == "root"


async def test_health_and_documents_need_no_key(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as nobody:
        for path in ("/livez", "/readyz", "/docs", "/api/v1/openapi.json"):
            assert (await nobody.get(path)).status_code == 200, path


async def test_another_projects_things_do_not_exist(served: Served) -> None:
    mine = await served.make()
    volume = (await served.http.post("/api/v1/volumes", json={"name": fresh("v"), "size": "1G"})).json()
    operation = (await served.http.get(f"/api/v1/instances/{mine['id']}/operations")).json()["items"][0]
    image = fresh("x.example/mine")
    assert (await served.http.put("/api/v1/images", params={"name": image}, content=b"x")).status_code == 201
    paths: list[tuple[str, str, Any]] = [
        ("GET", f"/volumes/{volume['id']}", None), ("PATCH", f"/volumes/{volume['id']}", {"size": "2G"}),
        ("DELETE", f"/volumes/{volume['id']}", None), ("GET", f"/operations/{operation['id']}", None),
        ("GET", f"/images/{image}", None), ("DELETE", f"/images/{image}", None),
    ]  # fmt: skip
    for key in (mine["id"], mine["name"]):
        paths += [
            ("GET", f"/instances/{key}{rest}", None) for rest in ("", "/wait", "/logs", "/vmm-log", "/operations")
        ]
        paths += [("GET", f"/instances/{key}/{rest}?path=/x", None) for rest in ("files", "stat", "archive")]
        paths += [("PUT", f"/instances/{key}/{rest}?path=/x", None) for rest in ("files", "archive")]
        verbs = ("start", "stop", "restart", "reset", "pause", "resume")
        paths += [("POST", f"/instances/{key}/{verb}", None) for verb in verbs]
        paths += [
            ("PATCH", f"/instances/{key}", {"labels": {}}), ("DELETE", f"/instances/{key}?force=true", None),
            ("PUT", f"/instances/{key}/volumes", {"volume": volume["id"]}),
            ("DELETE", f"/instances/{key}/volumes/{volume['id']}", None),
        ]  # fmt: skip
    stranger = await served.stranger()
    async with httpx.AsyncClient(base_url=served.url, headers={"X-API-Key": stranger}, trust_env=False) as other:
        for method, path, body in paths:
            answer = await other.request(method, f"/api/v1{path}", json=body)
            assert (answer.status_code, answer.json()["kind"]) == (404, "NotFound"), (method, path, answer.text)
        refused = await other.post(
            "/api/v1/instances", json={"image": "busybox", "volumes": [{"volume": volume["id"]}]}
        )
        assert refused.status_code == 404
        for what in ("instances", "volumes", "operations"):
            assert (await other.get(f"/api/v1/{what}")).json()["items"] == []
        events = await other.get("/api/v1/events", params={"after": 0, "follow": False})
        assert mine["id"] not in events.text
        assert "polyvisor_instances 0\n" in (await other.get("/metrics")).text
    for name in SOCKETS:
        with pytest.raises(InvalidStatus) as hidden:
            await connect(
                f"ws{served.url[4:]}/api/v1/instances/{mine['id']}/{name}", proxy=None,
                additional_headers={"X-API-Key": stranger},
            )  # fmt: skip
        assert hidden.value.response.status_code == 404
    assert (await served.http.get(f"/api/v1/instances/{mine['id']}")).json()["state"] == "running"


async def test_a_stranger_may_use_a_built_in_image_but_not_delete_it(served: Served) -> None:
    await served.make()
    stranger = await served.stranger()
    async with httpx.AsyncClient(base_url=served.url, headers={"X-API-Key": stranger}, trust_env=False) as other:
        assert (await other.get("/api/v1/images/busybox")).status_code == 200
        refused = await other.delete("/api/v1/images/busybox")
    assert (refused.status_code, refused.json()["kind"]) == (403, "Forbidden")


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["])
async def test_a_page_of_another_site_is_not_our_caller(served: Served, origin: str) -> None:
    headers = {"Origin": origin, "Authorization": f"Bearer {served.key}"}
    answer = await served.http.post("/api/v1/instances/x/stop", headers=headers)
    assert (answer.status_code, answer.json()["kind"]) == (403, "Forbidden")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws{served.url[4:]}/api/v1/instances/x/exec", additional_headers=headers, proxy=None)
    assert refused.value.response.status_code == 403


async def test_our_own_page_is(served: Served) -> None:
    assert (await served.http.get("/api/v1/about", headers={"Origin": served.url})).status_code == 200


async def test_a_head_without_end_is_cut_off(served: Served) -> None:
    """Nobody knows yet who sends it: it must not be kept."""
    host, port = served.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")
    with contextlib.suppress(ConnectionError):
        for _ in range(64):
            writer.write(b"x" * 65536)
            await writer.drain()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 10)
    assert not answer or answer.startswith(b"HTTP/1.1 431")
    writer.close()
    many = {f"X-{n}": "y" * 1000 for n in range(40)}
    assert (await served.http.get("/livez", headers=many)).status_code == 200
