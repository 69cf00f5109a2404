"""One connection through a door, from the first byte of who came to the last one of the guest.

passt accepts in the guest's name before it asks the guest, and it asks once: a SYN that the guest drops, because its
backlog is full or it has just come back, is not repeated, and ten seconds later the connection is reset. So the first
byte goes alone. passt takes it when the guest has answered, and then the rest follows; until then the way can be given
up for another one, for nothing has been passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from time import monotonic

from polyvisor.host.network.unread import unread

CHUNK = 256 * 1024
_AT_REST = 1.0  # seconds without a byte
_LOOK, _LOOK_LEAST = 0.02, 0.001  # seconds between looks whether the first byte was taken
Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(eq=False)
class Flow:
    """A connection that was let through: when its last bytes passed, and whether they were the client's."""

    moved: float = field(default_factory=monotonic)
    asked: bool = False

    def passed(self, *, asked: bool) -> None:
        """Bytes of the client's, or of the guest's."""
        self.moved, self.asked = monotonic(), asked

    @property
    def at_rest(self) -> bool:
        """Nobody would miss an answer if it ended now."""
        return not self.asked and monotonic() - self.moved > _AT_REST


class Relay:
    """Who came, whatever way is found for it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._said: asyncio.Task[bytes] | None = None

    async def run(self, way: Way, flow: Flow, patience: float) -> bool:
        """Pass on what both say until both have said all, and close the way.

        False: nobody has answered for `patience` seconds, and of what the client says nothing has been passed on.
        :raise OSError: one side was cut off.
        """
        back, onward = way
        said = self._said = self._said or asyncio.create_task(self._reader.read(CHUNK))
        heard = asyncio.create_task(back.read(CHUNK))
        try:
            await asyncio.wait({said, heard}, return_when=asyncio.FIRST_COMPLETED)
            first = b""
            if said.done() and not heard.done() and (first := said.result()):
                flow.passed(asked=True)
                if not await _taken(onward, first[:1], heard, patience):
                    reset(onward)
                    return False
                said = asyncio.create_task(self._reader.read(CHUNK))
            await asyncio.gather(
                _pump(first[1:], said, self._reader, onward, flow, asked=True),
                _pump(b"", heard, back, self._writer, flow, asked=False),
            )
            return True
        except OSError:
            reset(onward)
            raise
        finally:
            heard.cancel()
            onward.close()

    def close(self) -> None:
        """Nothing more is expected of who came."""
        if self._said is not None:
            self._said.cancel()
        self._writer.close()

    def reset(self) -> None:
        """End it so that who came knows that it was not answered."""
        if self._said is not None:
            self._said.cancel()
        reset(self._writer)


async def _taken(onward: asyncio.StreamWriter, byte: bytes, heard: asyncio.Task[bytes], patience: float) -> bool:
    """Whether the byte was read within that time, in seconds, or something was heard; True where nobody can tell."""
    port, source = onward.get_extra_info("peername")[1], onward.get_extra_info("sockname")[1]
    onward.write(byte)
    await onward.drain()
    end, pause = monotonic() + patience, _LOOK_LEAST
    while not heard.done() and unread(port, source):
        if monotonic() > end:
            return False
        await asyncio.wait({heard}, timeout=pause)
        pause = min(2 * pause, _LOOK)
    return True


async def _pump(
    first: bytes, more: asyncio.Task[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow,
    *, asked: bool,
) -> None:  # fmt: skip
    """Bytes of one direction until its end, which is passed on."""
    data = first or await more
    if first:
        writer.write(first)
        data = await more
    while data:
        flow.passed(asked=asked)
        writer.write(data)
        await writer.drain()
        data = await reader.read(CHUNK)
    with contextlib.suppress(OSError):
        writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection so that the peer knows that it was not answered."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
