"""A server with the fake hypervisor in this process, on a real socket, and what tests want to do with it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from polyvisor.access.credentials import new_key
from polyvisor.client import Client
from polyvisor.host.hypervisor.fake.driver import FakeHypervisor, FakeVm
from polyvisor.model.identity import Project, Quotas
from polyvisor.model.ids import InstanceId, ProjectId, mint
from polyvisor.server.config import load
from polyvisor.server.listeners import _server, bind, url_of
from polyvisor.server.serve import application
from polyvisor.server.wiring import Parts, running

_numbers = itertools.count()


def fresh(word: str) -> str:
    """A name that no other test has."""
    return f"{word}-{next(_numbers)}"


@dataclass(frozen=True)
class Served:
    """The server, and an HTTP client with the operator's key."""

    url: str
    parts: Parts
    http: httpx.AsyncClient

    @property
    def key(self) -> str:
        """The operator's."""
        return str(self.parts.facts["api_key"])

    def client(self, key: str | None = None) -> Client:
        """Our own client."""
        return Client(self.url, key or self.key)

    async def stranger(self, **quotas: int) -> str:
        """The key of a new project, which is nobody's operator."""
        now = datetime.now(UTC)
        root = ProjectId(self.parts.facts["project"])
        project = Project(ProjectId(mint()), fresh("project"), now, root, Quotas(**quotas))
        key, record = new_key("stranger", project.id, now)
        async with self.parts.store.write() as unit:
            await unit.identities.add_project(project)
            await unit.identities.add_key(record)
        return key

    @property
    def hypervisor(self) -> FakeHypervisor:
        """What the machines run on."""
        hypervisor = self.parts.host._hypervisor  # type: ignore[attr-defined]
        assert isinstance(hypervisor, FakeHypervisor)
        return hypervisor

    def vm(self, id: str) -> FakeVm:
        """The machine behind a running instance."""
        return self.hypervisor.vms[InstanceId(id)]

    async def make(self, **fields: Any) -> dict[str, Any]:
        """A ready instance."""
        body = {"image": "busybox", "name": fresh("vm"), **fields}
        answer = await self.http.post("/api/v1/instances", json=body, params={"wait": "ready"})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def serving(
    data: Path, settings: dict[str, str] | None = None, file: Path | None = None
) -> AsyncIterator[Served]:
    """A server from its start to its end."""
    flags = {"server.data": str(data), "host.hypervisor": "fake", **(settings or {})}
    async with running(load(file, flags)) as parts:
        sock = bind("127.0.0.1:0", "server.listen")
        server = _server(application(parts))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        url = url_of(sock, "http")
        headers = {"Authorization": f"Bearer {parts.facts['api_key']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=20) as http:
            yield Served(url, parts, http)
        server.should_exit = True
        await serving
