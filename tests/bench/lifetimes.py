"""Lifetimes of the InstaVM API: how punctual their ends are, also when the server ends before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from bench.table import Bound, Row
from polyvisor.wire.native import CreateTemplate
from serving import Server, await_gone, machines_of

ROWS = (
    "instavm: a lifetime of 20 s, off by", "instavm: a lifetime of 20 s, with a kill -9 and a start in it, off by",
    "instavm: start of the server after a lifetime's end → a snapshot, and the VM is gone",
)  # fmt: skip
_SECONDS = 20
_PUNCTUAL = Bound("p99", 2.0)
_AT_ONCE = 3  # snapshots that are due when the server starts
_LIMIT = 120.0
_TINY = {"memory_mb": 128, "vcpu_count": 1, "vm_lifetime_seconds": _SECONDS}
Doing = Callable[[], Awaitable[None]]


async def lifetimes(work: Path, runs: int) -> list[Row]:
    """Of machines that live beside each other, each from when it was asked for until its process was gone."""
    work.mkdir()
    (work / "settings.toml").write_text('[instavm]\nimage = "busybox"\n')
    server = Server(work / "data", "--config", str(work / "settings.toml")).start()
    try:
        async with server.client() as client:
            await client.templates.create(CreateTemplate(image="busybox", memory="128M", vcpus=1))
        figures = [
            await _off(server, runs, lambda: asyncio.sleep(0)),
            await _off(server, runs, lambda: _restart(server)),
            await _late(server, min(runs, _AT_ONCE)),
        ]
    finally:
        if server.process is None:
            server.start()
        server.cli("rm", "--all", "--force")
        server.stop()
        await_gone(machines_of(server.data))
    bounds = (_PUNCTUAL, _PUNCTUAL, None)  # the last one takes snapshots
    return [Row(name, "s", ours, bound=bound) for name, ours, bound in zip(ROWS, figures, bounds, strict=True)]


def _http(server: Server) -> httpx.AsyncClient:
    headers = {"X-API-Key": server.facts["api_key"]}
    return httpx.AsyncClient(base_url=server.facts["url"], headers=headers, trust_env=False, timeout=290)


async def _made(server: Server, count: int, **more: Any) -> dict[str, float]:
    """VMs, one after the other, and when each was asked for."""
    found = {}
    async with _http(server) as http:
        for _ in range(count):
            begun = time.monotonic()
            made = (await http.post("/v1/vms", json=_TINY | more)).raise_for_status().json()
            found[str(made["vm_id"])] = begun
    return found


async def _off(server: Server, count: int, meanwhile: Doing) -> list[float]:
    """Seconds by which the ends of so many are too early or too late."""
    begun = await _made(server, count)
    async with server.client() as client:
        pids = {vm: (await client.instances.get(vm.split("-")[1])).pid for vm in begun}
    await meanwhile()
    ended: dict[str, float] = {}
    async with asyncio.timeout(_LIMIT):
        while len(ended) < count:
            for vm, pid in pids.items():
                if vm not in ended and not _runs(pid):
                    ended[vm] = time.monotonic()
            await asyncio.sleep(0.02)
    await _until_told(server, begun)
    return [abs(ended[vm] - begun[vm] - _SECONDS) for vm in begun]


def _runs(pid: int | None) -> bool:
    """Whether that is a process. One that has ended may wait a while to be buried: its parent is no server of ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def _restart(server: Server) -> None:
    server.kill()
    server.start()


async def _late(server: Server, count: int) -> list[float]:
    """Seconds from the server's start, which was down at the end, until a snapshot is there and the VM is not."""
    begun = await _made(server, count, snapshot_on_terminate=True)
    server.kill()
    await asyncio.sleep(max(begun.values()) + _SECONDS + 1 - time.monotonic())
    server.start()
    started = time.monotonic()
    over = await _until_told(server, begun)
    async with _http(server) as http:
        listed = (await http.get("/v1/snapshots")).raise_for_status().json()
    kept = [one["id"] for one in listed if one["vm_id"] in begun and one["status"] == "ready"]
    assert len(kept) == count, listed
    return [moment - started for moment in over.values()]


async def _until_told(server: Server, vms: dict[str, float]) -> dict[str, float]:
    """When each was said to be terminated."""
    over: dict[str, float] = {}
    async with _http(server) as http, asyncio.timeout(_LIMIT):
        while len(over) < len(vms):
            for vm in vms:
                if vm not in over and (await http.get(f"/v1/vms/{vm}")).json()["status"] == "terminated":
                    over[vm] = time.monotonic()
            await asyncio.sleep(0.05)
    return over
