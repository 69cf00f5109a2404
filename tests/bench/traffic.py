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
FILE = SIZE // 2  # a file that is overwritten is there twice for a moment, and the guest's memory is small
_PIECE = 64 * 1024
_PATH = "/dev/shm/bench"  # of the guest: memory, so that no disk is measured

Way = Callable[[], Awaitable[int]]


async def throughput(client: Client, twin: Twin, runs: int) -> list[Row]:
    """MB/s; a larger ratio is better."""
    made = await client.instances.create(CreateInstance(image="busybox"), wait="ready", timeout=60)
    try:
        async with twin.run() as run:
            ways: list[tuple[str, int, Way, Way]] = [
                ("exec: stdin → cat → stdout, 64 MiB", SIZE, lambda: _cat(client, made.id), lambda: _cat_by_hand(run)),
                ("file written, 32 MiB", FILE, lambda: _write(client, made.id), lambda: _write_by_hand(run)),
                ("file read, 32 MiB", FILE, lambda: _read(client, made.id), lambda: _read_by_hand(run)),
            ]
            return [await _measured(name, size, ours, beside, runs) for name, size, ours, beside in ways]
    finally:
        await client.instances.delete(made.id, force=True)


async def _measured(name: str, size: int, ours: Way, beside: Way, runs: int) -> Row:
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(1, runs // 3)):
        for way, kept in zip((ours, beside), found, strict=True):
            begun = time.monotonic()
            assert await way() == size
            kept.append(size / 1e6 / (time.monotonic() - begun))
    return Row(name, "MB/s", *found, "the agent asked directly")


async def _pieces(size: int = SIZE) -> AsyncIterator[bytes]:
    piece = bytes(range(256)) * (_PIECE // 256)
    for _ in range(size // _PIECE):
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
    await client.files.write(id, _PATH, _pieces(FILE))
    return FILE


async def _write_by_hand(run: HandRun) -> int:
    await run.agent.write_file(_PATH, _pieces(FILE), mode=0o644)
    return FILE


async def _read(client: Client, id: str) -> int:
    return sum([len(piece) async for piece in client.files.read(id, _PATH)])


async def _read_by_hand(run: HandRun) -> int:
    return sum([len(piece) async for piece in run.agent.read_file(_PATH)])
