"""One server for all tests of a worker, with the fake hypervisor, and callers of its InstaVM side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, fresh, serving

Json = dict[str, Any]
LIMIT = 20.0


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server; its sandboxes are of the tiny image."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "settings.toml").write_text('[variants.other]\nimage = "debian-12"\n')
    settings = {"instavm.image": "busybox", "instavm.ssh_host": "vms.test"}
    async with serving(folder / "data", settings, folder / "settings.toml") as running:
        yield running


@dataclass(frozen=True)
class Caller:
    """Somebody with a key."""

    http: httpx.AsyncClient
    key: str

    async def ask(self, line: str, body: object = None, **query: Any) -> httpx.Response:
        """`METHOD /path` with a JSON body, if there is one."""
        method, path = line.split()
        headers = {"X-API-Key": self.key}
        return await self.http.request(method, path, json=body, params=query or None, headers=headers)

    async def ok(self, line: str, body: object = None, **query: Any) -> Any:
        """What a call that succeeds says."""
        answer = await self.ask(line, body, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, status: int, line: str, body: object = None, **query: Any) -> Any:
        """What is said to a call that is refused with that status."""
        answer = await self.ask(line, body, **query)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]

    async def wrong(self, field: str, line: str, body: object = None, place: str = "body", **query: Any) -> None:
        """The call is refused as FastAPI refuses it, for that field."""
        (first, *_) = await self.refused(422, line, body, **query)
        assert first.keys() == {"loc", "msg", "type"}, first
        assert ".".join(str(part) for part in first["loc"]) == f"{place}.{field}", first

    async def vm(self, **body: Any) -> Json:
        """A new VM, which runs."""
        found: Json = await self.ok("POST /v1/vms", body)
        assert found["status"] == "active", found
        return found

    async def session(self, **body: Any) -> str:
        """A new session, begun as the SDK does it."""
        answer = await self.http.post("/v1/sessions/session", json={"api_key": self.key, **body})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["session_id"])

    async def until(self, ask: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
        """What `ask` gives, once that is as it is wanted."""
        async with asyncio.timeout(LIMIT):
            while not wanted(found := await ask()):
                await asyncio.sleep(0.02)
        return found

    async def became(self, vm: str, word: str) -> Json:
        """The VM once its status is that."""
        found: Json = await self.until(lambda: self.ok(f"GET /v1/vms/{vm}"), lambda told: told["status"] == word)
        return found


@pytest_asyncio.fixture(loop_scope="session")
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any key."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def root(served: Served, http: httpx.AsyncClient) -> Caller:
    """The operator."""
    return Caller(http, served.key)


@pytest_asyncio.fixture(loop_scope="session")
async def tenant(served: Served, http: httpx.AsyncClient) -> Caller:
    """Somebody else, in a project of their own."""
    return Caller(http, await served.stranger())


__all__ = ["Caller", "Json", "Served", "fresh"]
