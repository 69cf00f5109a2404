"""Pushes to other registries in upstream's words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypeman import AsyncHypeman, NotFoundError

from dialect.served import Served, fresh
from polyvisor.host.hypervisor.fake.host import FakeImages
from polyvisor.model.faults import Upstream
from polyvisor.model.push import Login

pytestmark = pytest.mark.asyncio(loop_scope="session")
BUSYBOX = "docker.io/library/busybox:latest"


def images(served: Served) -> FakeImages:
    """The images of the server."""
    found = served.parts.host.images
    assert isinstance(found, FakeImages)
    return found


async def here(sdk: AsyncHypeman, name: str = "busybox") -> None:
    """Once the image is on the host."""
    await until(lambda: sdk.images.create(name=name), lambda image: image.status == "ready")


async def until(ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """The first answer that is as wanted."""
    async with asyncio.timeout(20):
        while not wanted(found := await ask()):
            await asyncio.sleep(0.02)
    return found


async def test_a_push_from_its_queue_to_its_end(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    await here(sdk)
    images(served).gate.clear()
    target = f"registry.example.com/me/{fresh('app')}:v1"
    body = {"image": "busybox", "target": target, "credentials": {"username": "u", "password": "secret"}}
    made = [await http.post("/pushes", json=body) for _ in range(4)]
    try:
        first = made[0]
        assert (first.status_code, first.headers["retry-after"]) == (202, "1")
        id = first.json()["id"]
        assert first.headers["location"] == f"/pushes/{id}"
        digest, created = first.json()["digest"], first.json()["created_at"]
        assert first.text == (
            f'{{"completed_at":null,"created_at":"{created}","digest":"{digest}","error":null,"id":"{id}",'
            f'"image":"{BUSYBOX}","queue_position":1,"status":"queued","target":"{target}"}}\n'
        )
        ids = [one.json()["id"] for one in made]
        await until(lambda: sdk.pushes.get(ids[1]), lambda push: push.status == "pushing")
        waiting = [await sdk.pushes.get(id) for id in ids]
        assert [(one.status, one.queue_position) for one in waiting] == [
            ("pushing", None), ("pushing", None), ("queued", 1), ("queued", 2)
        ]  # fmt: skip
    finally:
        images(served).gate.set()
    for id in ids:
        done = await until(lambda id=id: sdk.pushes.get(id), lambda push: push.status == "pushed")  # type: ignore[misc]  # of this round
        assert (done.layers, done.bytes, done.error) == (1, 1, None)
        assert done.completed_at is not None
    assert images(served).pushed.count((target, Login("u", "secret"))) == 4
    listed = [one.id for one in await sdk.pushes.list()]
    assert [id for id in listed if id in ids] == ids[::-1]
    assert "secret" not in (await http.get("/pushes")).text


async def test_a_push_that_fails_says_why(served: Served, sdk: AsyncHypeman) -> None:
    await here(sdk)
    images(served).refuse.append(Upstream("target: could not be pushed", private="inner"))
    made = await sdk.pushes.create(image=BUSYBOX, target="registry.example.com/a:1")
    done = await until(lambda: sdk.pushes.get(made.id), lambda push: push.status == "failed")
    assert (done.error, done.layers) == ("target: could not be pushed", None)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"image": "busybox"}, 400, "Bad Request"),
        ({"image": "nothing", "target": "r.example.com/a:1"}, 404, "not_found"),
        ({"image": "UPPER", "target": "r.example.com/a:1"}, 400, "invalid_name"),
        ({"image": "busybox", "target": "a:1"}, 400, "invalid_target"),
        ({"image": "busybox", "target": "r.example.com/A"}, 400, "invalid_target"),
        ({"image": "busybox", "target": "r.example.com/a@sha256:" + "0" * 64}, 400, "invalid_target"),
        ({"image": "debian-12", "target": "r.example.com/a:1"}, 400, "not_supported"),
        ({"credentials": {"username": "u"}}, 400, "invalid_request"),
        ({"credentials": {"password": "p"}}, 400, "invalid_request"),
        ({"credentials": {"username": "u:v", "password": "p"}}, 400, "invalid_request"),
        ({"credentials": {"registry_token": "t"}}, 400, "invalid_request"),
        ({"credentials": {"registry_token": "t", "username": "u", "password": "p"}}, 409, "credential_conflict"),
    ],
)
async def test_what_is_wrong_has_its_code(
    served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient, body: dict[str, Any], status: int, code: str
) -> None:
    await here(sdk)
    await here(sdk, "debian-12")
    before = len(await sdk.pushes.list())
    asked = {"image": "busybox", "target": "r.example.com/a:1"} | body if "credentials" in body else body
    answer = await http.post("/pushes", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(await sdk.pushes.list()) == before


async def test_strangers_are_strangers(served: Served, sdk: AsyncHypeman, http: httpx.AsyncClient) -> None:
    await here(sdk)
    made = await sdk.pushes.create(image="busybox", target="r.example.com/a:1")
    async with AsyncHypeman(api_key=await served.stranger(), base_url=served.url, max_retries=0) as stranger:
        assert await stranger.pushes.list() == []
        with pytest.raises(NotFoundError, match="push not found"):
            await stranger.pushes.get(made.id)
        plain = await http.post(
            "/pushes",
            json={"image": "busybox", "target": "r.example.com/a:1", "insecure": True},
            headers={"Authorization": f"Bearer {stranger.api_key}"},
        )
        assert (plain.status_code, plain.json()["code"]) == (400, "invalid_request")
