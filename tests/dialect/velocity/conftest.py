"""One server for all tests of a worker, and callers of its Velocity side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, fresh, serving


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server."""
    async with serving(tmp_path_factory.mktemp("served") / "data") as running:
        yield running


@dataclass(frozen=True)
class Caller:
    """Somebody with an authkey; `uid` is the user's."""

    http: httpx.AsyncClient
    authkey: str
    uid: int
    name: str

    async def ask(self, line: str, **body: Any) -> httpx.Response:
        """`METHOD /path` with a JSON body."""
        method, path = line.split()
        headers = {"Authorization": f"Bearer {self.authkey}"}
        return await self.http.request(method, path, json=body, headers=headers)

    async def ok(self, line: str, **body: Any) -> Any:
        """What a call that succeeds says."""
        answer = await self.ask(line, **body)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def refused(self, code: int, status: int, line: str, **body: Any) -> None:
        """The call is refused with that code and status."""
        answer = await self.ask(line, **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert isinstance(answer.json()["message"], str)

    async def group(self, parent: int = 0) -> int:
        """A new group."""
        return int((await self.ok("PUT /u/group", name=fresh("g"), parent_gid=parent))["gid"])

    async def user(self, *grants: tuple[int, str]) -> Caller:
        """A new user who is logged in and has these permissions on these groups."""
        name = fresh("user")
        uid = (await self.ok("PUT /u/user", name=name, password="secret"))["uid"]
        for gid, permission in grants:
            await self.ok("PUT /u/user/permission", uid=uid, gid=gid, permission=f"velocity.{permission}")
        return await login(self.http, name, "secret", uid)


async def login(http: httpx.AsyncClient, name: str, password: str, uid: int) -> Caller:
    """A caller with a key."""
    answer = await http.post("/u/auth", json={"username": name, "password": password})
    assert answer.status_code == 200, answer.text
    return Caller(http, answer.json()["authkey"], uid, name)


@pytest_asyncio.fixture(loop_scope="session")
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any key."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def root(served: Served, http: httpx.AsyncClient) -> Caller:
    """The administrator."""
    admin = served.parts.facts["admin"]
    return await login(http, admin["username"], admin["password"], 0)
