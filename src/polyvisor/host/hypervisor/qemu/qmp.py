"""One QMP connection, always with a time limit.

QMP has one client: a second one gets no greeting and hangs, and events raised while nobody listens are lost. So one
owner per machine, state by query, events as hints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError

from polyvisor.host.sockets import connect_unix
from polyvisor.model.faults import Internal, TimedOut, Unavailable, Unsupported

_UNDERSCORED = frozenset({"bps_rd", "bps_wr", "iops_rd", "iops_wr"})  # arguments from before QEMU said it with dashes
QUERY_LIMIT = 3.0
COMMAND_LIMIT = 20.0

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a vanished QEMU is ordinary here, we say it our way


class Qmp:
    """A connected monitor."""

    def __init__(self, client: QMPClient, sock: socket.socket) -> None:
        self._client = client
        self._sock = sock
        self._turn = asyncio.Lock()
        self._ends = EventListener("SHUTDOWN")
        client.register_listener(self._ends)

    @classmethod
    async def connect(cls, path: Path, limit: float) -> Qmp:
        """:raise Unavailable: nobody listens. :raise TimedOut: no greeting within `limit` seconds."""
        try:
            sock = connect_unix(path)
        except OSError as error:
            raise Unavailable("the machine's control socket cannot be reached", private=str(error)) from error
        client = QMPClient()
        kept = sock.dup()  # the client owns its socket; this one is for passing descriptors
        try:
            await asyncio.wait_for(client.connect(sock), limit)
        except (TimeoutError, QMPError, EOFError, OSError) as error:
            kept.close()
            sock.close()
            if isinstance(error, TimeoutError):
                raise TimedOut("the machine's control socket does not answer") from error
            raise Unavailable("the machine's control connection failed", private=repr(error)) from error
        return cls(client, kept)

    async def ask(self, command: str, limit: float = QUERY_LIMIT, **arguments: Any) -> Any:
        """Run one command and return its answer.

        :raise TimedOut: no answer in time. :raise Unavailable: the connection is gone.
        :raise Internal: QEMU refused, with its words in `private`.
        """
        args = {key if key in _UNDERSCORED else key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            return await asyncio.wait_for(self._client.execute(command, args or None), limit)
        except TimeoutError as error:
            raise TimedOut("the machine does not answer its control socket") from error
        except ExecuteError as error:
            raise Internal("the hypervisor refused", private=f"{command}: {error}") from error
        except (QMPError, EOFError, OSError) as error:
            raise Unavailable("the machine's control connection is gone", private=repr(error)) from error

    async def give(self, fd: int, fdset: int) -> None:
        """Pass a descriptor into the machine's fd set. :raise Unsupported: it cannot take one."""
        await self._pass(fd, "add-fd", fdset_id=fdset)

    async def lend(self, fd: int, name: str) -> None:
        """Pass a descriptor that the machine knows by this name. :raise Unsupported: it cannot take one."""
        await self._pass(fd, "getfd", fdname=name)

    async def _pass(self, fd: int, command: str, **arguments: Any) -> None:
        async with self._turn:
            try:
                socket.send_fds(self._sock, [b" "], [fd])
            except OSError as error:
                raise Unsupported("the machine cannot take a descriptor", private=str(error)) from error
            await self.ask(command, COMMAND_LIMIT, **arguments)

    def ends(self) -> list[str]:
        """Why the machine shut down, for each time since this was last asked."""
        told: list[dict[str, Any]] = [dict(event) for event in self._ends.clear()]
        return [str(event["data"]["reason"]) for event in told]

    async def events(self, *names: str) -> AsyncIterator[dict[str, Any]]:
        """Events of those names from now on, until the connection ends."""
        listener = EventListener(names=set(names))
        with self._client.listen(listener):
            async for event in listener:
                yield dict(event)

    async def close(self) -> None:
        """Disconnect; the machine goes on."""
        self._sock.close()
        with contextlib.suppress(QMPError, EOFError, OSError, TimeoutError):
            await asyncio.wait_for(self._client.disconnect(), 2.0)
