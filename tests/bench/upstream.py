"""Standby, restore and forks through the Hypeman endpoints, each beside the same of the same machine by our own API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

import httpx
from hypeman import AsyncHypeman
from hypeman.lib import exec_async

from bench.machines import Times, true
from bench.table import Row
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ForkInstance
from serving import Server

_SIZE = "256M"
_NATIVE = "our own API"
ROWS = (
    "hypeman: standby", "hypeman: restore → its guest answers", "hypeman: restore → first exec",
    "hypeman: fork → its guest answers", "hypeman: fork → first exec",
)  # fmt: skip


async def upstream(server: Server, client: Client, runs: int) -> list[Row]:
    """In turn, so that both have the same of what else goes on."""
    theirs, ours = Times(), Times()
    request = CreateInstance(image="busybox", name="u" + secrets.token_hex(5), memory=_SIZE)
    made = await client.instances.create(request, wait="ready", timeout=60)
    async with httpx.AsyncClient(trust_env=False) as http:
        sdk = AsyncHypeman(
            api_key=server.facts["api_key"], base_url=server.facts["url"], http_client=http, timeout=120, max_retries=0
        )
        sides: list[Callable[[], Awaitable[None]]] = [
            lambda: _by_upstream(sdk, made.id, theirs),
            lambda: _by_us(client, made.id, ours),
        ]
        try:
            for turn in range(runs + 1):
                for side in sides if turn % 2 else reversed(sides):
                    await side()
                if turn == 0:  # the guest's code is translated by then
                    theirs.of.clear()
                    ours.of.clear()
        finally:
            await client.instances.delete(made.id, force=True)
    kept = ("standby", "restore ready", "restore exec", "fork ready", "fork exec")
    return [Row(row, "ms", theirs.of[name], ours.of[name], _NATIVE) for row, name in zip(ROWS, kept, strict=True)]


async def _by_upstream(sdk: AsyncHypeman, id: str, times: Times) -> None:
    async def command(id: str) -> None:
        assert (await exec_async(sdk, id, ["true"])).exit_code == 0

    begun = time.monotonic()
    await sdk.instances.standby(id)
    now = times.add("standby", begun)
    await sdk.instances.restore(id)
    times.add("restore ready", now)
    await command(id)
    times.add("restore exec", now)
    begun = time.monotonic()
    child = await sdk.instances.fork(id, name="u" + secrets.token_hex(5), from_running=True)
    times.add("fork ready", begun)
    await command(child.id)
    times.add("fork exec", begun)
    await sdk.instances.delete(child.id, graceful_shutdown=False)


async def _by_us(client: Client, id: str, times: Times) -> None:
    begun = time.monotonic()
    await client.instances.standby(id)
    now = times.add("standby", begun)
    await client.instances.restore(id, wait="ready")
    times.add("restore ready", now)
    await true(client, id)
    times.add("restore exec", now)
    begun = time.monotonic()
    child = await client.instances.fork(id, ForkInstance(), wait="ready")
    times.add("fork ready", begun)
    await true(client, child.id)
    times.add("fork exec", begun)
    await client.instances.delete(child.id, force=True)
