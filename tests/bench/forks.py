"""Forks of running machines: how long the source stands still, how soon the child is there."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.hand import Hand
from bench.machines import Times, true
from bench.raw import Twin
from bench.table import Bound, Row
from polyvisor.client import Client
from polyvisor.host.hypervisor.qemu.ram import regions
from polyvisor.wire.native import CreateInstance, ForkInstance, Instance

PAUSE, RUNNING, ANSWERED = Bound("p50", 30.0), Bound("p50", 100.0), Bound("p50", 350.0)
_SIZE = "256M"
_PAGE = 4096
_DIGITS = 8
_EVERY = 0.0005
_FIND_LIMIT = 20.0
# Counts in a page of its own, about once a millisecond, without a process for each turn. Ends by itself.
_BEATS = (
    "mkdir -p /run/beat && mount -t tmpfs none /run/beat && mkfifo /run/beat/never && exec 3<>/run/beat/never && i=0; "
    "while [ $i -lt 9999999 ]; do i=$((i+1)); "
    "printf '{token} %0{digits}d' $i 1<>/run/beat/it; read -t 0.001 _ <&3; done"
)
_FULL = "all RAM through migrate, by hand"


class Beat:
    """A counter in a guest, read from its memory by the host's clock.

    Who asks over the network learns how busy the server is, and a guest's own clock stands still while it does.
    """

    def __init__(self, pid: int, token: str) -> None:
        self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._at = self._find(pid, token.encode() + b" ") + len(token) + 1

    def _find(self, pid: int, words: bytes) -> int:
        """The page that begins so, and whose count goes on; the guest may still be at the beginning."""
        end = time.monotonic() + _FIND_LIMIT
        while time.monotonic() < end:
            for region in regions(pid):
                memory = os.pread(self._mem, region.length, region.address)
                at = memory.find(words)
                while at >= 0:
                    if at % _PAGE == 0 and self._moves(region.address + at + len(words)):
                        return region.address + at
                    at = memory.find(words, at + 1)
            time.sleep(0.2)
        raise AssertionError("the guest's counter is not in its memory")

    def _moves(self, at: int) -> bool:
        before = os.pread(self._mem, _DIGITS, at)
        time.sleep(0.2)
        return before != os.pread(self._mem, _DIGITS, at)

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """What is in the list at the end is the longest time for which the count stood still, in milliseconds."""
        told: list[float] = []
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over, told))
        watcher.start()
        try:
            yield told
        finally:
            over.set()
            watcher.join()

    def _watch(self, over: threading.Event, told: list[float]) -> None:
        longest, since, last = 0.0, time.monotonic(), b""
        while not over.is_set():
            count, now = os.pread(self._mem, _DIGITS, self._at), time.monotonic()
            if count != last:
                longest = max(longest, now - since) if last else longest
                since, last = now, count
            time.sleep(_EVERY)
        told.append(max(longest, time.monotonic() - since) * 1000)

    def close(self) -> None:
        """Look no more."""
        os.close(self._mem)


@dataclass(frozen=True)
class _Sources:
    """A machine that does nothing, and one that counts, which is paused while it is not watched."""

    quiet: Instance
    counting: Instance


async def forks(client: Client, data: Path, work: Path, runs: int) -> list[Row]:
    """Of machines that were booted, and of such as are forks themselves; by hand each time."""
    token = secrets.token_hex(12)
    counts = ["sh", "-c", _BEATS.format(token=token, digits=_DIGITS)]
    made: list[str] = []

    async def boot(**more: Any) -> Instance:
        request = CreateInstance(image="busybox", name="f" + secrets.token_hex(5), memory=_SIZE, **more)
        booted = await client.instances.create(request, wait="ready", timeout=60)
        made.append(booted.id)
        return booted

    async def fork(source: Instance) -> Instance:
        child = await client.instances.fork(source.id, ForkInstance(), wait="ready")
        made.append(child.id)
        return child

    try:
        booted = _Sources(await boot(), await boot(command=counts))
        assert booted.quiet.pid
        hand = await Hand.boot(Twin.of(booted.quiet.pid, data, booted.quiet.id, work))
        try:
            first = await _of(client, booted, token, hand, runs)
            await client.instances.resume(booted.counting.id)
            forked = _Sources(await fork(booted.quiet), await fork(booted.counting))
            for id in (booted.counting.id, booted.quiet.id):
                await client.instances.delete(id, force=True)
                made.remove(id)
            second = await _of(client, forked, token, hand, runs)
        finally:
            await hand.end()
    finally:
        for id in made:
            await client.instances.delete(id, force=True)
    return [*_rows("a booted machine", *first), *_rows("a fork", *second)]


async def _of(client: Client, sources: _Sources, token: str, hand: Hand, runs: int) -> tuple[Times, Times]:
    assert sources.counting.pid
    ours, raw = Times(), Times()
    beat = await asyncio.to_thread(Beat, sources.counting.pid, token)
    await client.instances.pause(sources.counting.id)
    try:
        for turn in range(runs + 1):
            await _still(client, sources.counting.id, beat, ours)
            await _once(client, sources.quiet.id, ours)
            await _once_by_hand(hand, raw)
            if turn == 0:  # code is translated by then
                ours.of.clear()
                raw.of.clear()
    finally:
        beat.close()
    return ours, raw


async def _still(client: Client, source: str, beat: Beat, times: Times) -> None:
    """How long the source does, over all of the time until its fork is said to run; and as long without one."""
    await client.instances.resume(source)
    await asyncio.sleep(0.2)
    with beat.watched() as told:
        await asyncio.sleep(0.5)
    times.of.setdefault("noise", []).extend(told)
    with beat.watched() as told:
        child = await client.instances.fork(source, ForkInstance())
    times.of.setdefault("pause", []).extend(told)
    await client.instances.delete(child.id, force=True)
    await client.instances.pause(source)


async def _once(client: Client, source: str, times: Times) -> None:
    begun = time.monotonic()
    child = await client.instances.fork(source, ForkInstance())
    times.add("running", begun)
    try:
        await true(client, child.id)
        times.add("answered", begun)
    finally:
        await client.instances.delete(child.id, force=True)


async def _once_by_hand(hand: Hand, times: Times) -> None:
    state = hand.folder / "state"
    begun = time.monotonic()
    await hand.save(state)
    await hand.go_on()
    now = times.add("pause", begun)
    child = await hand.copy(state)
    took = (now - begun) * 1000
    times.of.setdefault("running", []).append(took + child.running)
    times.of.setdefault("answered", []).append(took + child.answered)
    await child.end()


def _rows(what: str, ours: Times, raw: Times) -> list[Row]:
    found = [
        Row(f"fork of {what}: → {then}", "ms", ours.of[kept], raw.of[kept], _FULL, bound)
        for then, kept, bound in (
            ("the child runs", "running", RUNNING), ("its first exec", "answered", ANSWERED),
        )
    ]  # fmt: skip
    pause = Row(f"fork of {what}: the source stands still", "ms", ours.of["pause"], raw.of["pause"], _FULL, PAUSE)
    noise = Row(f"fork of {what}: still with no fork", "ms", ours.of["noise"])
    return [pause, noise, *found]
