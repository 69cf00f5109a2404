"""Standby and restore through the API, each beside a save of all RAM by hand and going on from that."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.hand import Hand
from bench.machines import Times, true
from bench.raw import Twin
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.wire.native import CreateInstance, ExecRequest

SMALL, LARGE = 128, 1024
TOUCHED = {SMALL: 48, LARGE: 100}  # MiB of random bytes in the guest: a small one has no room for more
FASTER = Bound("ratio", 1 / 8)
STEADY = Bound("ratio", 1.3)
RUNNING, ANSWERED = Bound("p50", 80.0), Bound("p50", 300.0)
_HAND = "all RAM through migrate, by hand"
_FULL = "-incoming of all RAM, by hand"
_START = "QEMU by hand until it speaks: no more"
_FLUSH_LIMIT = 60.0


@dataclass
class _Pair:
    """A machine of ours and one by hand that hold the same, and what their changes took."""

    client: Client
    id: str
    hand: Hand
    ours: Times = field(default_factory=Times)
    raw: Times = field(default_factory=Times)

    async def standby(self, name: str = "standby") -> None:
        begun = time.monotonic()
        asleep = await self.client.instances.standby(self.id)
        self.ours.add(name, begun)
        assert asleep.pid is None

    async def restore(self, name: str) -> None:
        begun = time.monotonic()
        await self.client.instances.restore(self.id)
        self.ours.add(f"{name} running", begun)
        await true(self.client, self.id)
        self.ours.add(f"{name} answered", begun)

    async def by_hand(self) -> None:
        """Saved and ended, then started anew from the file."""
        state = self.hand.folder / "state"
        saved = await self.hand.save(state)
        self.raw.of.setdefault("standby", []).append(saved + await self.hand.quit())
        self.hand = await Hand.wake(self.hand.twin, state, self.hand.folder)
        self.raw.of.setdefault("running", []).append(self.hand.running)
        self.raw.of.setdefault("answered", []).append(self.hand.answered)
        self.raw.of.setdefault("start", []).append(await Hand.start_alone(self.hand.twin))


async def standby(client: Client, data: Path, work: Path, runs: int) -> list[Row]:
    """Small and large in turn; then the large one again and again from the disk."""
    async with _pair(client, data, work, SMALL) as small, _pair(client, data, work, LARGE) as large:
        for _ in range(runs):
            for pair in (small, large):
                await pair.standby()
                await pair.restore("at once")
                await pair.by_hand()
        for turn in range(runs + 1):  # from the second on, what was restored from the disk is put to sleep
            await large.standby("standby again" if turn else "the last of its own memory")
            await _on_disk(data)
            await large.restore("from disk")
        running, answered = large.raw.of["running"], large.raw.of["answered"]
        ours = large.ours.of
        return [
            Row("standby, 128 MiB", "ms", small.ours.of["standby"], small.raw.of["standby"], _HAND),
            Row("standby, 1 GiB", "ms", ours["standby"], large.raw.of["standby"], _HAND, FASTER),
            Row("standby, 1 GiB to 128 MiB", "ms", ours["standby"], small.ours.of["standby"], "ours, 128 MiB", STEADY),
            Row("standby again, 1 GiB restored from disk", "ms", ours["standby again"], large.raw.of["standby"], _HAND),
            Row("restore at once, 1 GiB → running", "ms", ours["at once running"], running, _FULL, RUNNING),
            Row("restore at once, beside QEMU's start alone", "ms", ours["at once running"], large.raw.of["start"],
                _START),
            Row("restore at once, 1 GiB → first exec", "ms", ours["at once answered"], answered, _FULL, ANSWERED),
            Row("restore from disk, 1 GiB → running", "ms", ours["from disk running"][:runs], running, _FULL, RUNNING),
            Row("restore from disk, 1 GiB → first exec", "ms", ours["from disk answered"][:runs], answered, _FULL,
                ANSWERED),
        ]  # fmt: skip


@asynccontextmanager
async def _pair(client: Client, data: Path, work: Path, size: int) -> AsyncIterator[_Pair]:
    request = CreateInstance(image="busybox", name="s" + secrets.token_hex(5), memory=f"{size}M")
    made = await client.instances.create(request, wait="ready", timeout=60)
    try:
        assert made.pid
        hand = await Hand.boot(Twin.of(made.pid, data, made.id, work))
        pair = _Pair(client, made.id, hand)
        try:
            words = ["sh", "-c", fill(TOUCHED[size])]
            async with client.instances.exec(made.id, ExecRequest(argv=words)) as process:
                result = await process.result()
                assert result.code == 0, result
            await hand.run(*words)
            yield pair
        finally:
            await pair.hand.end()
    finally:
        await client.instances.delete(made.id, force=True)


def fill(size: int) -> str:
    """Random bytes in a guest's memory, so many MiB."""
    count = size * 1024 * 1024
    return (
        f"mkdir -p /run/fill && mount -t tmpfs -o size=90% none /run/fill && head -c {count} /dev/urandom >/run/fill/it"
    )


async def _on_disk(data: Path) -> None:
    """Until every image of memory is there; what waits longer than a moment is restored from there."""
    async with asyncio.timeout(_FLUSH_LIMIT):
        while not all(_is_on_disk(folder) for folder in (data / "memory").iterdir()):
            await asyncio.sleep(0.02)


def _is_on_disk(image: Path) -> bool:
    try:
        return not json.loads((image / "facts.json").read_text())["host_boot"]
    except FileNotFoundError:  # it is being made, or taken away
        return not image.exists()
