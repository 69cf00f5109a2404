"""The real server as a process of its own, killed with -9 while much is under way."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

LIMIT = 20.0
_SERVE = """
import sys
from polyvisor.server.command import serve
sys.exit(serve(config=None, flags={
    "server.data": sys.argv[1], "server.listen": "127.0.0.1:0", "server.tls_listen": "127.0.0.1:0",
    "host.hypervisor": "fake"}, log_level="warning"))
"""


class Server:
    """`polyvisor serve --hypervisor fake` and a client of it."""

    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self.process, self.http = process, http

    async def instances(self) -> dict[str, dict[str, Any]]:
        """All of them, by name."""
        answer = await self.http.get("/api/v1/instances", params={"limit": 1000})
        return {row["name"]: row for row in answer.raise_for_status().json()["items"]}

    async def operations(self) -> list[dict[str, Any]]:
        """All of them."""
        answer = await self.http.get("/api/v1/operations", params={"limit": 1000})
        return list(answer.raise_for_status().json()["items"])

    async def kill(self) -> None:
        """As the kernel would when memory runs out."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def serving(data: Path) -> AsyncIterator[Server]:
    """A server on that data directory, from its `ready` on."""
    log = (data.parent / "server.log").open("ab")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SERVE, str(data), stdout=asyncio.subprocess.PIPE, stderr=log
    )
    log.close()
    try:
        assert process.stdout is not None
        async with asyncio.timeout(LIMIT):
            line = (await process.stdout.readline()).decode().split()
        assert line[:1] == ["ready"], (data.parent / "server.log").read_text()
        key = json.loads((data / "bootstrap.json").read_text())["api_key"]
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=line[1], headers=headers, timeout=LIMIT) as http:
            yield Server(process, http)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()


async def _busy(server: Server) -> None:
    """Twenty that run, and as many that are on their way somewhere."""
    await asyncio.gather(*(_create(server, f"run{n}", wait="launched") for n in range(20)))
    some = await asyncio.gather(*(_create(server, f"go{n}", wait="launched") for n in range(15)))
    ask = [
        *(server.http.delete(f"/api/v1/instances/{name}", params={"force": True}) for name in some[:5]),
        *(server.http.post(f"/api/v1/instances/{name}/stop") for name in some[5:10]),
        *(server.http.post(f"/api/v1/instances/{name}/restart") for name in some[10:]),
        *(_create(server, f"new{n}") for n in range(15)),
    ]
    await asyncio.gather(*ask)


async def _create(server: Server, name: str, wait: str = "accepted") -> str:
    body = {"name": name, "image": "busybox", "memory": "96M", "disk": "64M"}
    answer = await server.http.post("/api/v1/instances", json=body, params={"wait": wait})
    assert answer.status_code == 201, answer.text
    return name


async def test_a_server_killed_with_much_under_way_is_followed_by_one_that_finishes_all(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data) as server:
        await _busy(server)
        before = await server.instances()
        await server.kill()
    async with serving(data) as server:
        async with asyncio.timeout(5):
            while any(o["state"] == "open" for o in await server.operations()):
                await asyncio.sleep(0.05)
        after = await server.instances()
        assert all(o["state"] in ("done", "superseded") for o in await server.operations())
        ids = {row["id"] for row in after.values()}
        assert {p.name for p in (data / "instances").iterdir()} == ids
        for name, row in after.items():
            wanted = "stopped" if name in {f"go{n}" for n in range(5, 10)} else "running"
            assert row["state"] == wanted, row
        assert {f"run{n}" for n in range(20)} | {f"new{n}" for n in range(15)} <= set(after)
        assert not {f"go{n}" for n in range(5)} & set(after)
        for n in range(20):
            was, now = before[f"run{n}"], after[f"run{n}"]
            assert (was["id"], was["incarnation"]) == (now["id"], now["incarnation"])
