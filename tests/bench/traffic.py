"""Bytes through a command and through files, beside the same bytes given to an agent directly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from bench.raw import HandRun, Twin
from bench.table import Row
from polyvisor.client import Client
from polyvisor.model.guest import Exec, Output
from polyvisor.wire.native import CreateInstance, ExecRequest

SIZE = 64 * 1024 * 1024
_PIECE = 64 * 1024
_PATH = "/dev/shm/bench"  # of the guest: memory, so that no disk is measured
_MEMORY = "256M"


async def throughput(client: Client, twin: Twin, runs: int) -> list[Row]:
    """MB/s; a larger ratio is better."""
    made = await client.instances.create(CreateInstance(image="busybox", memory=_MEMORY), wait="ready", timeout=60)
    try:
        async with twin.run() as run:
            ways: list[tuple[str, Callable[[], Awaitable[int]], Callable[[], Awaitable[int]]]] = [
                ("exec: stdin → cat → stdout", lambda: _cat(client, made.id), lambda: _cat_by_hand(run)),
                ("file written", lambda: _write(client, made.id), lambda: _write_by_hand(run)),
                ("file read", lambda: _read(client, made.id), lambda: _read_by_hand(run)),
            ]
            return [await _measured(name, ours, beside, runs) for name, ours, beside in ways]
    finally:
        await client.instances.delete(made.id, force=True)


async def _measured(
    name: str, ours: Callable[[], Awaitable[int]], beside: Callable[[], Awaitable[int]], runs: int
) -> Row:
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(1, runs // 3)):
        for way, kept in zip((ours, beside), found, strict=True):
            begun = time.monotonic()
            assert await way() == SIZE
            kept.append(SIZE / 1e6 / (time.monotonic() - begun))
    return Row(f"{name}, 64 MiB", "MB/s", *found, "the agent asked directly")


async def _pieces() -> AsyncIterator[bytes]:
    piece = bytes(range(256)) * (_PIECE // 256)
    for _ in range(SIZE // _PIECE):
        yield piece


async def _cat(client: Client, id: str) -> int:
    async with client.instances.exec(id, ExecRequest(argv=["cat"])) as process:

        async def pour() -> None:
            async for piece in _pieces():
                await process.write(piece)
            await process.eof()

        pouring = asyncio.create_task(pour())
        size = 0
        async for said in process:
            size += len(said.data)
        await pouring
        return size


async def _cat_by_hand(run: HandRun) -> int:
    process = await run.agent.execute(Exec(("cat",)))

    async def pour() -> None:
        async for piece in _pieces():
            await process.write(piece)
        await process.eof()

    pouring = asyncio.create_task(pour())
    size = 0
    while isinstance(said := await process.read(), Output):
        size += len(said.data)
    await pouring
    await process.close()
    return size


async def _write(client: Client, id: str) -> int:
    await client.files.write(id, _PATH, _pieces())
    return SIZE


async def _write_by_hand(run: HandRun) -> int:
    await run.agent.write_file(_PATH, _pieces(), mode=0o644)
    return SIZE


async def _read(client: Client, id: str) -> int:
    return sum([len(piece) async for piece in client.files.read(id, _PATH)])


async def _read_by_hand(run: HandRun) -> int:
    return sum([len(piece) async for piece in run.agent.read_file(_PATH)])
