"""The screen of a running QEMU: pictures of it, and viewers.

QEMU has a VNC server that listens nowhere. A picture is written into, and a viewer speaks over, a descriptor that is
ours and handed over by QMP, so there is no socket to find, no port to guess and no password to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from polyvisor.host.hypervisor.qemu.argv import SCREEN
from polyvisor.host.hypervisor.qemu.qmp import COMMAND_LIMIT, Qmp
from polyvisor.model.faults import Fault

_FDSET = 901
_LARGEST = 64 * 2**20
_CHUNK = 64 * 1024
_numbers = itertools.count()
Ask = Callable[..., Awaitable[Any]]


async def picture(qmp: Qmp, ask: Ask) -> bytes:
    """PNG. One at a time: the descriptor set is the same each time."""
    memory = os.memfd_create("screen", os.MFD_CLOEXEC)
    try:
        out = os.open(f"/proc/self/fd/{memory}", os.O_WRONLY | os.O_CLOEXEC)  # QEMU takes one of that very mode
        try:
            await qmp.give(out, _FDSET)
        finally:
            os.close(out)
        try:
            name = f"/dev/fdset/{_FDSET}"
            await ask("screendump", COMMAND_LIMIT, filename=name, format="png", device=SCREEN)
        finally:
            with contextlib.suppress(Fault):
                await ask("remove-fd", COMMAND_LIMIT, fdset_id=_FDSET)
        return os.pread(memory, _LARGEST, 0)
    finally:
        os.close(memory)


async def view(qmp: Qmp, ask: Ask) -> SocketViewer:
    """A viewer that QEMU has let in."""
    ours, theirs = socket.socketpair()
    name = f"viewer-{next(_numbers)}"
    try:
        with theirs:
            await qmp.lend(theirs.fileno(), name)
        await ask("add_client", COMMAND_LIMIT, protocol="vnc", fdname=name, skipauth=True)
        reader, writer = await asyncio.open_connection(sock=ours)
    except BaseException:
        ours.close()
        raise
    return SocketViewer(reader, writer)


class SocketViewer:
    """A Viewer over a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """See Viewer."""
        try:
            return await self._reader.read(_CHUNK)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """See Viewer."""
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def close(self) -> None:
        """See Viewer."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
