"""Where the connections of guests with vaults arrive, in each one's own namespace, and how they go on from there.

The sockets are of the guest's namespace, so its rules decide about them as about the guest's own (ADR 51).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

from polyvisor.host.pids import Process
from polyvisor.host.spawn import spawn
from polyvisor.host.vaults import insider
from polyvisor.host.vaults.authority import Authority
from polyvisor.host.vaults.opener import Opener, believing
from polyvisor.model.faults import Unavailable, Unsupported
from polyvisor.model.host import Blueprint
from polyvisor.model.ids import InstanceId
from polyvisor.ports.vaults import Vaults

log = logging.getLogger("polyvisor.vaults")
_AT_ONCE = 256  # connections of one guest
_LIMIT = 10.0
_SO_BINDTODEVICE, _SO_MARK, _SO_ORIGINAL_DST = 25, 36, 80
Address = tuple[str, int]


class Insider:
    """The process that makes sockets in a namespace."""

    def __init__(self, line: socket.socket, process: Process) -> None:
        self._line = line
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def enter(cls, pid: int, mark: int) -> Insider:
        """Where that process is. :raise OSError: it is gone."""
        line, pid = await asyncio.to_thread(cls._spawn, pid, mark)
        return cls(line, Process(pid))

    @staticmethod
    def _spawn(pid: int, mark: int) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        opened = [os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)]
        try:
            for kind in ("user", "net"):
                opened.append(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
            fds = (theirs.fileno(), *opened[1:])
            line = [sys.executable, "-I", "-S", str(Path(insider.__file__)), *map(str, fds), str(mark)]
            child = spawn(line, fds=fds, output=opened[0])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            for fd in opened:
                os.close(fd)
        ours.settimeout(_LIMIT)
        return ours, child

    async def made(self) -> socket.socket:
        """A new one. :raise OSError: the process has ended."""
        async with self._turn:
            return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> socket.socket:
        self._line.send(b".")
        _, fds, _, _ = socket.recv_fds(self._line, 1, 1)
        if not fds:
            raise ConnectionError("nobody makes sockets there")
        made = socket.socket(fileno=fds[0])
        made.setblocking(False)
        return made

    def close(self) -> None:
        """It ends."""
        self._line.close()


class Door:
    """A listener, and the connections that came to it. `whose` says who does what is to be done for an address; None:
    nobody."""

    def __init__(
        self, listener: socket.socket, whose: Callable[[str], Opener | None], ends: Callable[[], None] = lambda: None
    ) -> None:
        self._listener = listener
        self._whose = whose
        self._ends = ends
        self._open: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)  # by who came
        self._accepting = asyncio.create_task(self._accept(), name="vault door")

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # who floods it is not to be all that is done
            try:
                guest, (address, _) = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("a vault's door: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._open[address]) >= _AT_ONCE:  # others are to find a place
                guest.close()
                continue
            task = asyncio.create_task(self._serve(guest, address), name="vault connection")
            self._open[address].add(task)
            task.add_done_callback(partial(self._left, address))

    async def _serve(self, guest: socket.socket, address: str) -> None:
        guest.setblocking(False)
        opener = self._whose(address)
        try:
            where = original(guest)
            if opener is None or where == guest.getsockname():  # nobody was led here
                guest.close()
                return
            await opener.serve(guest, where)
        except Exception:
            guest.close()
            log.exception("a vault's connection")

    def _left(self, address: str, task: asyncio.Task[None]) -> None:
        self._open[address].discard(task)
        if not self._open[address]:
            del self._open[address]

    def drop(self, address: str) -> None:
        """What came from there ends."""
        for task in self._open.get(address, ()):
            task.cancel()

    def shut(self) -> None:
        """Nobody comes in any more; who is in, goes on."""
        self._accepting.cancel()
        self._listener.close()
        if not self._open:
            self._ends()
        for task in self._those():
            task.add_done_callback(lambda _: self._open or self._ends())

    def _those(self) -> list[asyncio.Task[None]]:
        return [task for those in self._open.values() for task in those]

    async def close(self) -> None:
        """All of it ends."""
        self.shut()
        there = self._those()
        for task in there:
            task.cancel()
        await asyncio.gather(self._accepting, *there, return_exceptions=True)


def original(guest: socket.socket) -> Address:
    """Where the connection was to go."""
    said = guest.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    port, address = struct.unpack("!2xH4s8x", said)
    return socket.inet_ntoa(address), port


def require_gate(blueprint: Blueprint, there: bool) -> None:
    """:raise Unsupported: the machine uses vaults, and nobody is there to put credentials in."""
    if blueprint.spec.vaults and not there:
        raise Unsupported("vaults: not in this network mode of this server", field="vaults")


class Gate:
    """All doors of user mode."""

    def __init__(self, vaults: Vaults, authority: Authority, more: str = "") -> None:
        """`more`: a file of certificates of authorities that are believed beside this host's."""
        self._vaults = vaults
        self._authority = authority
        self._more = more
        self._tls: ssl.SSLContext | None = None
        self._doors: dict[InstanceId, Door] = {}
        self._watched: dict[InstanceId, int] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def has(self, id: InstanceId) -> bool:
        """Whether its connections are taken."""
        return id in self._doors

    async def open(self, id: InstanceId, pid: int, where: Address, device: str, mark: int) -> None:
        """In the namespaces of that process, whose end is its own, at that address and device. `mark` is on all packets
        that are said there.

        :raise Unavailable: not at this moment.
        """
        if id in self._doors:
            return
        if self._tls is None:
            self._tls = await asyncio.to_thread(believing, self._more)
        try:
            inside = await Insider.enter(pid, mark)
            try:
                listener = await inside.made()
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device.encode() + b"\0")
                listener.bind(where)
                listener.listen(128)
            except BaseException:
                inside.close()
                raise
        except OSError as error:
            raise Unavailable("credentials cannot be put in at this moment", private=repr(error)) from error

        async def connect(to: Address) -> socket.socket:
            try:
                made = await inside.made()
            except OSError:  # it has ended; the next look finds no door, and makes another
                self.shut(id)
                raise
            try:
                await asyncio.get_running_loop().sock_connect(made, to)
            except BaseException:
                made.close()
                raise
            return made

        opener = Opener(id, self._vaults, self._authority, self._tls, connect)
        self._doors[id] = Door(listener, lambda _: opener, inside.close)
        self._watch(id, pid)

    def _watch(self, id: InstanceId, pid: int) -> None:
        """It ends with the namespace's first process: a socket of ours would keep the namespace."""
        try:
            fd = self._watched[id] = os.pidfd_open(pid)
        except OSError:  # it has ended meanwhile
            self.forget(id)
            return
        asyncio.get_running_loop().add_reader(fd, self.forget, id)

    def shut(self, id: InstanceId) -> None:
        """Nothing more is led there; what was, goes on as it is."""
        self._unwatch(id)
        if (door := self._doors.pop(id, None)) is not None:
            door.shut()

    def forget(self, id: InstanceId) -> None:
        """Its namespace is gone, or is about to go."""
        self._unwatch(id)
        if (door := self._doors.pop(id, None)) is not None:
            task = asyncio.create_task(door.close(), name="vault door closes")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _unwatch(self, id: InstanceId) -> None:
        if (fd := self._watched.pop(id, None)) is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    async def close(self) -> None:
        """This server goes. Those that come in the meantime are refused."""
        for id in list(self._doors):
            self.forget(id)
        await asyncio.gather(*self._closing, return_exceptions=True)


class SharedGate:
    """The one door of bridge mode, in the host's own namespace. Rules know the guests' connections that go on from here
    by a mark for each, and decide about them as about the guest's own."""

    def __init__(self, vaults: Vaults, authority: Authority, more: str = "") -> None:
        """See Gate."""
        self._vaults = vaults
        self._authority = authority
        self._more = more
        self._tls: ssl.SSLContext | None = None
        self._guests: dict[str, Opener] = {}
        self._door: Door | None = None
        self.port = 0

    async def start(self, address: str) -> None:
        """Listen there, at a port that is free."""
        self._tls = await asyncio.to_thread(believing, self._more)
        listener = socket.create_server((address, 0), backlog=512)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._door = Door(listener, self._guests.get)

    def admit(self, address: str, id: InstanceId, mark: int) -> None:
        """Who comes from there is that one; `mark` is on what goes on for it."""
        if address in self._guests and self._guests[address].id == id:
            return
        assert self._tls is not None  # it was started

        async def connect(to: Address) -> socket.socket:
            made = socket.socket()
            try:
                made.setblocking(False)
                made.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
                await asyncio.get_running_loop().sock_connect(made, to)
            except BaseException:
                made.close()
                raise
            return made

        self._guests[address] = Opener(id, self._vaults, self._authority, self._tls, connect)

    def dismiss(self, address: str) -> None:
        """Nobody comes from there any more; what came goes on as it is."""
        self._guests.pop(address, None)

    def forget(self, address: str) -> None:
        """The guest that was there is gone."""
        self.dismiss(address)
        if self._door is not None:
            self._door.drop(address)

    async def close(self) -> None:
        """This server goes. Those that come in the meantime are refused."""
        if self._door is not None:
            await self._door.close()
