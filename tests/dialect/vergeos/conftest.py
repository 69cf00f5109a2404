"""One server for all tests of a worker, and callers of its VergeOS side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dialect.served import Served, fresh, serving

GIB = 2**30


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """The server."""
    async with serving(tmp_path_factory.mktemp("served") / "data") as running:
        yield running


@dataclass(frozen=True)
class Vm:
    """A VM's keys and name."""

    key: int
    machine: int
    name: str


@dataclass(frozen=True)
class Api:
    """Somebody who calls `/api/v4`."""

    http: httpx.AsyncClient
    headers: dict[str, str]

    async def ask(self, method: str, path: str, body: Any = None, **params: Any) -> httpx.Response:
        """One request; `params` are its query."""
        return await self.http.request(
            method, f"/api/v4/{path}", json=body, params=params or None, headers=self.headers
        )

    async def get(self, path: str, **params: Any) -> Any:
        """What a GET answers."""
        answer = await self.ask("GET", path, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, **body: Any) -> Any:
        """The receipt of a POST."""
        answer = await self.ask("POST", path, body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def made(self, table: str, **body: Any) -> int:
        """The key of a new row."""
        return int((await self.post(table, **body))["$key"])

    async def put(self, path: str, **body: Any) -> None:
        """A PUT answers nothing at all."""
        answer = await self.ask("PUT", path, body)
        assert (answer.status_code, answer.content) == (200, b""), answer.text

    async def delete(self, path: str) -> None:
        """Likewise."""
        answer = await self.ask("DELETE", path)
        assert (answer.status_code, answer.content) == (200, b""), answer.text

    async def refused(self, status: int, text: str, method: str, path: str, body: Any = None, **params: Any) -> None:
        """A refusal with a text, told twice."""
        answer = await self.ask(method, path, body, **params)
        assert answer.status_code == status, answer.text
        told = answer.json()
        assert told["err"] == told["error"]
        assert text in told["err"], told

    async def vm(self, **more: Any) -> Vm:
        """A new VM."""
        name = more.pop("name", fresh("vm"))
        made = await self.post("vms", name=name, ram=512, **more)
        return Vm(int(made["$key"]), int(made["response"]["machine"]), name)

    async def act(self, vm: Vm | int, action: str, **params: Any) -> Any:
        """An action of a VM that succeeds."""
        return await self.post("vm_actions", vm=vm if isinstance(vm, int) else vm.key, action=action, params=params)

    async def status(self, vm: Vm) -> str:
        """The word for what its machine does."""
        return str((await self.get(f"machine_status/{vm.machine}", fields="status"))["status"])

    async def until(self, vm: Vm, word: str) -> None:
        """Once its machine does that."""
        async with asyncio.timeout(20):
            while await self.status(vm) != word:
                await asyncio.sleep(0.02)

    async def running(self, **more: Any) -> Vm:
        """A VM that runs."""
        vm = await self.vm(**more)
        await self.act(vm, "poweron")
        await self.until(vm, "running")
        return vm

    async def drive(self, vm: Vm, **more: Any) -> int:
        """A new disk of a VM."""
        told = {"machine": vm.machine, "media": "disk", "disksize": 4 * 2**20, **more}
        return await self.made("machine_drives", **told)


@pytest_asyncio.fixture(loop_scope="session")
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client without any credential."""
    async with httpx.AsyncClient(base_url=served.url, trust_env=False, timeout=60) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def api(served: Served, http: httpx.AsyncClient) -> Api:
    """The administrator."""
    return Api(http, {"Authorization": f"Bearer {served.key}"})


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(served: Served, http: httpx.AsyncClient) -> Api:
    """Somebody of another project."""
    return Api(http, {"Authorization": f"Bearer {await served.stranger()}"})
