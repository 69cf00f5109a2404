"""Terminals in VMs: begun by a request, used over a WebSocket, and there until they end or are ended (instavm.md
§1.14).

A terminal hangs on this server's connection to its guest, so it ends with either. What it says while nobody listens is
kept, up to a limit, and the oldest goes first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from polyvisor.dialects.instavm.vms import now, stamp
from polyvisor.engine.streams import Process
from polyvisor.model.faults import Exists, Fault, NotFound, OverQuota
from polyvisor.model.guest import Exit, Output

_HELD = 1 << 20  # bytes for whoever comes next
_OF_ONE_VM = 64
_AFTER = 300.0  # seconds for which it is told how one ended


@dataclass(eq=False)
class Pty:
    """One terminal. `ended`: how, once it has."""

    id: str
    instance: str
    process: Process
    cols: int
    rows: int
    began: datetime
    ended: Exit | None = None
    lost: bool = False
    held: deque[bytes] = field(default_factory=deque, repr=False)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    reading: asyncio.Task[None] | None = None
    size: int = 0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.ended is None and not self.lost

    async def follow(self) -> None:
        """Hear what it says, until its end."""
        try:
            while isinstance(said := await self.process.read(), Output):
                self.held.append(said.data)
                self.size += len(said.data)
                while self.size > _HELD and len(self.held) > 1:
                    self.size -= len(self.held.popleft())
                self.news.set()
            self.ended = said
        except Fault:
            self.lost = True
        finally:
            self.news.set()

    async def next(self) -> bytes | None:
        """What it said since; None: it has ended and said all."""
        while not self.held:
            if not self.alive:
                return None
            self.news.clear()
            await self.news.wait()
        data = b"".join(self.held)
        self.held.clear()
        self.size = 0
        return data

    @property
    def exit_code(self) -> int | None:
        """As a shell tells it."""
        if self.ended is None:
            return -1 if self.lost else None
        return self.ended.code if self.ended.code is not None else 128 + (self.ended.signal or 0)


class Ptys:
    """Those of one application, by VM and id."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str], Pty] = {}

    def admit(self, instance: str, id: str | None) -> str:
        """The id of a new one. :raise Exists: :raise OverQuota:"""
        mine = [pty for pty in self.of(instance) if pty.alive]
        if id is not None and any(pty.id == id for pty in mine):
            raise Exists(f"id: there is a terminal {id} already")
        if len(mine) >= _OF_ONE_VM:
            raise OverQuota(f"a VM has at most {_OF_ONE_VM} terminals")
        return id or f"pty-{uuid4().hex[:12]}"

    def add(self, pty: Pty) -> None:
        """It is there from now on."""
        self._all[pty.instance, pty.id] = pty
        pty.reading = asyncio.create_task(pty.follow(), name=f"terminal {pty.id}")
        pty.reading.add_done_callback(lambda _: asyncio.get_running_loop().call_later(_AFTER, self._forget, pty))

    def _forget(self, pty: Pty) -> None:
        if self._all.get((pty.instance, pty.id)) is pty:
            del self._all[pty.instance, pty.id]

    def of(self, instance: str) -> list[Pty]:
        """A VM's, oldest first."""
        return [pty for pty in self._all.values() if pty.instance == instance]

    def find(self, instance: str, id: str) -> Pty:
        """:raise NotFound:"""
        try:
            return self._all[instance, id]
        except KeyError:
            raise NotFound(f"PTY session {id[:80]} not found") from None

    async def end(self, pty: Pty) -> None:
        """It is no more, and what runs in it neither."""
        self._forget(pty)
        await pty.process.close()
        if pty.reading is not None:
            pty.reading.cancel()
            await asyncio.gather(pty.reading, return_exceptions=True)
        pty.lost = pty.ended is None
        pty.news.set()

    async def close(self) -> None:
        """End all."""
        for pty in list(self._all.values()):
            await self.end(pty)


def new(id: str, instance: str, process: Process, size: tuple[int, int]) -> Pty:
    """A terminal of that size (columns, rows) that has just begun."""
    return Pty(id, instance, process, *size, now())


def told(pty: Pty) -> dict[str, Any]:
    """As its routes have it."""
    return {
        "session_id": pty.id,
        "id": pty.id,
        "alive": pty.alive,
        "exit_code": pty.exit_code,
        "cols": pty.cols,
        "rows": pty.rows,
        "created_at": stamp(pty.began),
    }
