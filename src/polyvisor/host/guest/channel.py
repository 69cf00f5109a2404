"""One command or transfer on an agent's connection: streams with credit each, and a result."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from polyvisor.host.guest import pairs
from polyvisor.host.guest.frames import CHUNK, WINDOW, Frame, Kind
from polyvisor.model.faults import (
    Busy,
    Fault,
    Internal,
    Invalid,
    NoCapacity,
    NotFound,
    Unavailable,
    Unsupported,
)
from polyvisor.model.guest import Exit, Output
from polyvisor.model.units import Seconds

_STDIN = 0
_LOST = "the connection to the guest's agent is gone"
_FAULTS: dict[str, type[Fault]] = {
    "notfound": NotFound,
    "invalid": Invalid,
    "busy": Busy,
    "nospace": NoCapacity,
    "unsupported": Unsupported,
    "unavailable": Unavailable,
}


class Channel:
    """A Process. The connection puts frames in; `send` is the way back."""

    def __init__(self, number: int, send: Callable[[Frame], None], drained: Callable[[], asyncio.Future[None]]) -> None:
        self.number = number
        self._send = send
        self._drained = drained
        self._said: deque[Output] = deque()
        self._credit = WINDOW
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._lost = False
        self.result: dict[str, str] | None = None

    # -- from the connection -----------------------------------------------------------------------------------

    def take(self, frame: Frame) -> None:
        """A frame for this channel."""
        if frame.kind == Kind.DATA:
            self._said.append(Output(frame.fd, frame.payload))
        elif frame.kind == Kind.CREDIT:
            self._credit += int.from_bytes(frame.payload, "little")
            self._room.set()
            return
        elif frame.kind == Kind.RESULT:
            self.result = dict(pairs.unpack(frame.payload))
            self._room.set()
        self._news.set()

    def lose(self) -> None:
        """The connection is gone."""
        self._lost = True
        self._news.set()
        self._room.set()

    # -- output ------------------------------------------------------------------------------------------------

    async def output(self) -> Output | None:
        """The next piece of output; None once there is a result. :raise Unavailable:"""
        while not self._said:
            if self.result is not None:
                return None
            if self._lost:
                raise Unavailable(_LOST)
            self._news.clear()
            await self._news.wait()
        said = self._said.popleft()
        if self.result is None and not self._lost:
            self._send(Frame(Kind.CREDIT, self.number, len(said.data).to_bytes(4, "little"), said.fd))
        return said

    async def read(self) -> Output | Exit:
        """See Process."""
        said = await self.output()
        if said is not None:
            return said
        self.check()
        assert self.result is not None
        code, signal, cpu = (self.result.get(name) for name in ("code", "signal", "cpu_us"))
        return Exit(
            int(code) if code else None, int(signal) if signal else None, "timed_out" in self.result,
            Seconds(int(cpu) / 1e6) if cpu else None,
        )  # fmt: skip

    async def finished(self) -> dict[str, str]:
        """The result, output dropped. :raise Fault: the one it tells of."""
        while await self.output() is not None:
            pass
        self.check()
        assert self.result is not None
        return self.result

    def check(self) -> None:
        """:raise Fault: the result tells of one."""
        result = self.result or {}
        if error := result.get("error"):
            text = result.get("text", "the guest's agent failed")
            fault = _FAULTS.get(error)
            if fault is None:
                raise Internal("the guest's agent failed", private=text)
            raise fault(text, field=result.get("field", "path" if fault in (NotFound, Invalid) else None))

    # -- input -------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing that is written would be read."""
        return self.result is not None or self._lost

    async def write(self, data: bytes) -> None:
        """See Process."""
        view = memoryview(data)
        while view and not self.over:
            if self._credit <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            piece = view[: min(CHUNK, self._credit)]
            self._credit -= len(piece)
            self._send(Frame(Kind.DATA, self.number, bytes(piece), _STDIN))
            view = view[len(piece) :]
            await self._drained()
        if self._lost and self.result is None:
            raise Unavailable(_LOST)

    async def eof(self) -> None:
        """See Process."""
        self._tell(Kind.END)

    async def signal(self, number: int) -> None:
        """See Process."""
        self._tell(Kind.SIGNAL, number.to_bytes(4, "little"))

    async def resize(self, cols: int, rows: int) -> None:
        """See Process."""
        self._tell(Kind.RESIZE, cols.to_bytes(2, "little") + rows.to_bytes(2, "little"))

    async def close(self) -> None:
        """See Process."""
        self._tell(Kind.CLOSE)
        self.lose()

    def _tell(self, kind: Kind, payload: bytes = b"") -> None:
        if not self.over:
            self._send(Frame(kind, self.number, payload))
