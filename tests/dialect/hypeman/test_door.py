"""Who may: tokens, keys, scopes, and what is told to whom, byte by byte."""

from __future__ import annotations

import time
from typing import Any

import httpx
import jwt
import pytest
from hypeman import AsyncHypeman, AuthenticationError, PermissionDeniedError

from dialect.hypeman.making import make
from dialect.served import Served
from polyvisor.dialects.hypeman.app import ROWS
from polyvisor.dialects.hypeman.auth import SCOPES

pytestmark = pytest.mark.asyncio(loop_scope="session")


def signed(served: Served, secret: str | None = None, algorithm: str = "HS256", **claims: Any) -> dict[str, str]:
    """The header of a token."""
    usual = {"sub": "somebody", "iat": int(time.time()), "exp": int(time.time()) + 600}
    key = served.parts.facts["jwt_secret"] if secret is None else secret
    return {"Authorization": "Bearer " + jwt.encode(usual | claims, key, algorithm=algorithm)}


async def test_only_health_and_the_document_need_nobody(served: Served, http: httpx.AsyncClient) -> None:
    for row in ROWS:
        path = (
            row.path.replace("{name:path}", "x")
            .replace("{id}", "x")
            .replace("{snapshot}", "x")
            .replace("{volume}", "x")
        )
        answer = await http.request(row.method, path, headers={"Authorization": ""})
        if row.scope is None:
            assert answer.status_code == 200, path
            continue
        assert answer.status_code == 401, path
        assert answer.content == (
            b'{"code":"Unauthorized","message":"security requirements failed: authorization header required"}'
        )
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("Bearer", "invalid authorization header format"),
        ("Basic cm9vdDp4", "unsupported authorization scheme: Basic"),
        ("Bearer x.y.z", "invalid token"),
        ("Bearer pv_no_such_key", "invalid token"),
    ],
)
async def test_what_is_no_token_is_told_so(http: httpx.AsyncClient, header: str, why: str) -> None:
    answer = await http.get("/instances", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json() == {"code": "Unauthorized", "message": f"security requirements failed: {why}"}


async def test_a_token_of_another_secret_or_of_the_past_is_none(served: Served, http: httpx.AsyncClient) -> None:
    for headers in (
        signed(served, secret="x" * 40), signed(served, exp=int(time.time()) - 5),
        signed(served, nbf=int(time.time()) + 500),
        {"Authorization": "Bearer " + jwt.encode({"sub": "x"}, "", algorithm="none")},
    ):  # fmt: skip
        answer = await http.get("/instances", headers=headers)
        assert answer.json()["message"] == "security requirements failed: invalid token"


@pytest.mark.parametrize("claims", [{"repos": ["x"]}, {"scope": "push"}, {"build_id": "b"}, {"sub": "builder-7"}])
async def test_a_registry_token_is_none_here(served: Served, http: httpx.AsyncClient, claims: dict[str, Any]) -> None:
    answer = await http.get("/instances", headers=signed(served, **claims))
    assert answer.json()["message"] == "security requirements failed: invalid token type"


async def test_every_route_asks_for_a_scope_that_there_is() -> None:
    open_ones = {(row.method, row.path) for row in ROWS if row.scope is None}
    assert open_ones == {("GET", "/health"), ("GET", "/spec.json"), ("GET", "/spec.yaml")}
    assert {row.scope for row in ROWS if row.scope is not None} <= SCOPES


VERBS = {"GET": "read", "POST": "write", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
OTHERS = {
    "/instances/{id}/snapshots": "snapshot", "/instances/{id}/snapshots/{snapshot}/restore": "snapshot",
    "/instances/{id}/snapshot-schedule": "snapshot", "/instances/{id}/volumes/{volume}": "volume",
    "/resources": "resource", "/resources/memory/reclaim": "resource", "/capabilities": "resource",
}  # fmt: skip
NOUNS = {"pushes": "image", "ingresses": "ingress"}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.scope is not None], ids=lambda row: f"{row.method} {row.path}"
)
async def test_the_scope_is_the_contracts(row: Any) -> None:
    segment = row.path.split("/")[1]
    noun = OTHERS.get(row.path) or NOUNS.get(segment) or segment.removesuffix("s")
    verb = "write" if row.path == "/instances/{id}/volumes/{volume}" else VERBS[row.method]
    assert row.scope == f"{noun}:{verb}"


async def test_a_token_may_do_what_it_says_and_no_more(served: Served, http: httpx.AsyncClient) -> None:
    reader = signed(served, permissions=["instance:read"])
    assert (await http.get("/instances", headers=reader)).status_code == 200
    body = {"name": "x", "image": "busybox"}
    answer = await http.post("/instances", json=body, headers=reader)
    assert answer.status_code == 403
    assert answer.content == b'{"code":"Forbidden","message":"missing required scope: instance:write"}'
    invalid = await http.post("/instances", json={}, headers=reader)  # the document is looked at before the scope
    assert invalid.status_code == 400
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    answer = await http.get("/instances/x/exec", headers=reader | upgrade | key)
    assert (answer.status_code, answer.json()["message"]) == (403, "missing required scope: instance:write")


@pytest.mark.parametrize("permissions", ["instance:read", [], ["nonsense"], [7], {"instance:read": True}, None])
async def test_permissions_that_cannot_be_understood_allow_nothing(
    served: Served, http: httpx.AsyncClient, permissions: Any
) -> None:
    answer = await http.get("/instances", headers=signed(served, permissions=permissions))
    assert answer.status_code == 403


async def test_a_token_lives_a_whole_life_by_its_scopes(served: Served) -> None:
    def client(*scopes: str) -> AsyncHypeman:
        token = signed(served, permissions=list(scopes))["Authorization"].removeprefix("Bearer ")
        return AsyncHypeman(api_key=token, base_url=served.url, max_retries=0)

    async with client("instance:write", "instance:read") as writer, client("instance:delete") as remover:
        made = await make(writer)
        copy = await writer.instances.fork(made.id, name=made.name + "-fork", from_running=True)
        with pytest.raises(PermissionDeniedError):
            await writer.instances.delete(made.id)
        with pytest.raises(PermissionDeniedError):
            await remover.instances.get(made.id)
        for one in (made, copy):
            await remover.instances.delete(one.id)


async def test_a_star_and_no_permissions_at_all_allow_everything(served: Served, http: httpx.AsyncClient) -> None:
    for headers in (signed(served, permissions=["*"]), signed(served)):
        assert (await http.get("/volumes", headers=headers)).status_code == 200


async def test_a_token_of_a_user_sees_what_the_user_does(served: Served, http: httpx.AsyncClient) -> None:
    answer = await http.get("/instances", headers=signed(served, sub="root"))
    assert answer.status_code == 200


async def test_a_stranger_sees_nothing_of_others(served: Served, sdk: AsyncHypeman) -> None:
    made = await make(sdk)
    async with AsyncHypeman(api_key=await served.stranger(), base_url=served.url, max_retries=0) as stranger:
        assert await stranger.instances.list() == []
        for key in (made.id, made.name, made.id[:10]):
            answer = await served.http.get(f"/instances/{key}", headers={"Authorization": f"Bearer {stranger.api_key}"})
            assert answer.status_code == 404


async def test_a_wrong_key_is_refused_to_the_sdk(served: Served) -> None:
    async with AsyncHypeman(api_key="nonsense", base_url=served.url, max_retries=0) as nobody:
        with pytest.raises(AuthenticationError):
            await nobody.instances.list()
        assert (await nobody.health.check()).status == "ok"


async def test_paths_and_methods_that_are_none(http: httpx.AsyncClient) -> None:
    nothing = await http.get("/instances/x/nonsense")
    assert (nothing.status_code, nothing.content) == (404, b"404 page not found\n")
    assert nothing.headers["content-type"].startswith("text/plain")
    wrong = await http.put("/instances")
    assert (wrong.status_code, wrong.content) == (405, b"")
    assert wrong.headers["allow"] == "GET, POST"
