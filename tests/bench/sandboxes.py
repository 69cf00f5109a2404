"""Sandboxes of the InstaVM API, made of a template, each beside the same by our own API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from bench.machines import Times
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.wire.native import CodeRequest, CreateInstance, CreateTemplate, Egress
from serving import Server, await_gone, machines_of

ROWS = ("instavm: create of a template → active", "instavm: create of a template → first execute")
_MEMORY_MB, _VCPUS = 256, 1
_NATIVE = "our own API"
_NOT_MORE = Bound("ratio", 1.2)


async def sandboxes(work: Path, runs: int) -> list[Row]:
    """In turn, so that both have the same of what else goes on. Ours has an open policy too, as every sandbox."""
    work.mkdir()
    (work / "settings.toml").write_text('[instavm]\nimage = "busybox"\n')
    server = Server(work / "data", "--config", str(work / "settings.toml")).start()
    theirs, ours = Times(), Times()
    headers = {"X-API-Key": server.facts["api_key"]}
    try:
        async with (
            server.client() as client,
            httpx.AsyncClient(base_url=server.facts["url"], headers=headers, trust_env=False, timeout=290) as http,
        ):
            wanted = CreateTemplate(image="busybox", memory=f"{_MEMORY_MB}M", vcpus=_VCPUS)
            await client.templates.create(wanted)
            sides: list[Callable[[], Awaitable[None]]] = [
                lambda: _by_upstream(http, theirs),
                lambda: _by_us(client, ours),
            ]
            for turn in range(runs + 1):
                for side in sides if turn % 2 else reversed(sides):
                    await side()
                if turn == 0:
                    theirs.of.clear()
                    ours.of.clear()
    finally:
        server.cli("rm", "--all", "--force")
        server.stop()
        await_gone(machines_of(server.data))
    kept = (("ready", None), ("first", _NOT_MORE))
    return [
        Row(row, "ms", theirs.of[name], ours.of[name], _NATIVE, bound)
        for row, (name, bound) in zip(ROWS, kept, strict=True)
    ]


async def _by_upstream(http: httpx.AsyncClient, times: Times) -> None:
    begun = time.monotonic()
    made = (await http.post("/v1/vms", json={"memory_mb": _MEMORY_MB, "vcpu_count": _VCPUS})).raise_for_status().json()
    times.add("ready", begun)
    body = {"session_id": made["session_id"], "command": "true", "language": "bash"}
    assert (await http.post("/execute", json=body)).raise_for_status().json()["exit_code"] == 0
    times.add("first", begun)
    (await http.delete(f"/v1/vms/{made['vm_id']}")).raise_for_status()


async def _by_us(client: Client, times: Times) -> None:
    begun = time.monotonic()
    wanted = CreateInstance(
        image="busybox", memory=f"{_MEMORY_MB}M", vcpus=_VCPUS, name="s" + secrets.token_hex(5), egress=Egress(),
        command=["sleep", "infinity"], entrypoint=[],
    )  # fmt: skip
    vm = await client.instances.create(wanted, wait="ready", timeout=60)
    times.add("ready", begun)
    assert (await client.instances.code(vm.id, CodeRequest(code="true", language="bash"))).exit_code == 0
    times.add("first", begun)
    await client.instances.delete(vm.id, force=True)
