"""One server for all tests of a worker, and callers of its Hanzo side."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, fresh, serving
from polyvisor.access.credentials import new_key
from polyvisor.model.identity import User
from polyvisor.model.ids import ProjectId, UserId, mint

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGZha2VmYWtlZmFrZWZha2VmYWtlZmFrZWZha2VmYWtl someone@somewhere"


def settings(folder: Path) -> Path:
    """A settings file with further systems: one of a name that this host knows, one in a file, two that are not so."""
    disk = folder / "disk.raw"
    disk.write_bytes(b"a disk")
    sum = hashlib.sha256(b"a disk").hexdigest()
    file = folder / "polyvisor.toml"
    file.write_text(
        f'[os_images.busybox]\nimage = "busybox"\n'
        f'[os_images."ubuntu-22.04"]\nfile = "{disk}"\nsha256 = "{sum}"\n'
        f'[os_images."rocky-9"]\nfile = "{disk}"\nsha256 = "{"0" * 64}"\n'
        f'[os_images.gone]\nfile = "{disk}.gone"\nsha256 = "{sum}"\n'
    )
    return file


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server."""
    folder = tmp_path_factory.mktemp("served")
    async with serving(folder / "data", file=settings(folder)) as running:
        yield running


@dataclass(frozen=True)
class Caller:
    """Somebody with a token."""

    http: httpx.AsyncClient
    token: str
    user: str = ""

    async def ask(self, line: str, **fields: Any) -> httpx.Response:
        """`METHOD procedure`, with its input where the documents have it."""
        method, name = line.split()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        how = {"params": fields} if method == "GET" else {"json": fields}
        answer = await self.http.request(method, f"/api/{name}", headers=headers, **how)  # type: ignore[arg-type]
        assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"} <= set(answer.headers)
        return answer

    async def ok(self, line: str, status: int = 200, **fields: Any) -> Any:
        """What a call that succeeds says."""
        answer = await self.ask(line, **fields)
        assert answer.status_code == status, answer.text
        if status == 204:
            assert answer.content == b""
            return None
        assert set(answer.json()) == {"result"}
        return answer.json()["result"]["data"]

    async def refused(self, status: int, code: str, line: str, **fields: Any) -> str:
        """The call is refused with that status and code; the message."""
        answer = await self.ask(line, **fields)
        return said(answer, status, code, line.split()[1])

    async def organization(self) -> str:
        """A new one."""
        return str((await self.ok("POST organization.create", 201, name=fresh("org")))["id"])

    async def launch(self, organization: str, **fields: Any) -> dict[str, Any]:
        """A machine that is on its way."""
        body = {"name": fresh("vm"), "plan": "nano", "region": "us-east", "os": "busybox", **fields}
        found: dict[str, Any] = await self.ok("POST vm.launch", 201, organizationId=organization, **body)
        return found

    async def running(self, organization: str, **fields: Any) -> dict[str, Any]:
        """A machine that runs."""
        return await self.until((await self.launch(organization, **fields))["id"], "running")

    async def until(self, id: str, status: str) -> dict[str, Any]:
        """Until it is of that status."""
        async with asyncio.timeout(20):
            while (found := await self.ok("GET vm.one", vmId=id))["status"] != status:
                await asyncio.sleep(0.02)
        return dict(found)

    async def volume(self, organization: str, **fields: Any) -> dict[str, Any]:
        """A new volume."""
        body = {"name": fresh("data"), "sizeGb": 10, "region": "us-east", "organizationId": organization, **fields}
        found: dict[str, Any] = await self.ok("POST volume.create", 201, **body)
        return found


def said(answer: httpx.Response, status: int, code: str, path: str) -> str:
    """The message of an error that is of the documented form, with tRPC's `data`."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    told = {"code": code, "httpStatus": status}
    assert error == {"message": error["message"], **told, "data": {**told, "path": path}}, error
    return str(error["message"])


@pytest_asyncio.fixture(loop_scope="session")
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any token."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=30) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def root(served: Served, http: httpx.AsyncClient) -> Caller:
    """The operator's key."""
    return Caller(http, served.key)


@pytest_asyncio.fixture(loop_scope="session")
async def org(root: Caller) -> str:
    """An organization of the test's own."""
    return await root.organization()


async def member(served: Served, root: Caller, organization: str, role: str | None) -> Caller:
    """A user with that role there, and a token of his own. He has no password: to hash one takes long."""
    now = datetime.now(UTC)
    user = User(UserId(mint()), fresh("user"), "", project(organization), False, now)
    token, key = new_key("own", project(organization), now)
    async with served.parts.store.write() as unit:
        await unit.identities.add_user(user)
        await unit.identities.add_key(replace(key, user=user.id))
    if role is not None:
        await root.ok("PATCH orgTeam.update", organizationId=organization, userId=f"user_{user.id}", role=role)
    return Caller(root.http, token, f"user_{user.id}")


def project(organization: str) -> ProjectId:
    """Ours."""
    return ProjectId(organization.removeprefix("org_"))
