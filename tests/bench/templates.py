"""Creates that a template spares the boot, without and with copies that run already, beside a boot by hand."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from bench.machines import Times, true, true_by_hand
from bench.raw import Twin
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, CreateTemplate
from serving import Server, machines_of

SIZE = "256M"
POOL = 2
COPIED, TAKEN_OVER = Bound("ratio", 1 / 7), Bound("ratio", 1 / 30)
_COLD = "cold boot by hand → first exec"
_REST = 3.0  # seconds between creates: a pool that is emptied faster than it is filled is no pool


async def templates(client: Client, data: Path, work: Path, runs: int) -> list[Row]:
    """A server without a pool and one with; the boots by hand in turn with the former's creates."""
    made = await client.templates.create(CreateTemplate(image="busybox", memory=SIZE))
    times, raw = Times(), []
    try:
        twin = await _twin(client, data, work)
        for _ in range(runs):
            async with twin.run() as run:
                begun = time.monotonic() - run.seconds
                await true_by_hand(run)
                raw.append((time.monotonic() - begun) * 1000)
            await _create(client, times, "copied")
    finally:
        await client.templates.delete(made.id)
    await _pooled(work, runs, times)
    return [
        Row("create of a template → ready", "ms", times.of["copied ready"], raw, _COLD),
        Row("create of a template → first exec", "ms", times.of["copied"], raw, _COLD, COPIED),
        Row("create from the pool → ready", "ms", times.of["taken over ready"], raw, _COLD),
        Row("create from the pool → first exec", "ms", times.of["taken over"], raw, _COLD, TAKEN_OVER),
    ]


async def _twin(client: Client, data: Path, work: Path) -> Twin:
    cold = await client.instances.create(
        CreateInstance(image="busybox", memory=SIZE, template=False), wait="ready", timeout=60
    )
    assert cold.pid
    try:
        return Twin.of(cold.pid, data, cold.id, work)
    finally:
        await client.instances.delete(cold.id, force=True)


async def _create(client: Client, times: Times, name: str) -> None:
    begun = time.monotonic()
    wanted = CreateInstance(image="busybox", memory=SIZE, name="t" + secrets.token_hex(5))
    vm = await client.instances.create(wanted, wait="ready", timeout=60)
    times.add(f"{name} ready", begun)
    await true(client, vm.id)
    times.add(name, begun)
    await client.instances.delete(vm.id, force=True)


async def _pooled(work: Path, runs: int, times: Times) -> None:
    config = work / "pool.toml"
    config.write_text(f"[templates]\npool = {POOL}\n")
    server = Server(work / "pooled", "--config", str(config)).start()
    try:
        async with server.client() as client:
            made = await client.templates.create(CreateTemplate(image="busybox", memory=SIZE))
            try:
                for _ in range(runs):
                    async with asyncio.timeout(60):
                        while len(machines_of(server.data)) < POOL:
                            await asyncio.sleep(0.1)
                    await asyncio.sleep(_REST)
                    await _create(client, times, "taken over")
            finally:
                await client.templates.delete(made.id)
            async with asyncio.timeout(60):
                while machines_of(server.data):
                    await asyncio.sleep(0.1)
    finally:
        server.stop()
