"""Who takes the connections of one guest, looks for whom they are, and opens those that credentials go to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable

from polyvisor.host.vaults.authority import Authority
from polyvisor.host.vaults.hello import LONGEST, More, host_in
from polyvisor.host.vaults.speech import CHUNK, Speech, Way, tell_failure
from polyvisor.model.ids import InstanceId
from polyvisor.ports.vaults import Vaults

log = logging.getLogger("polyvisor.vaults")
_CONNECT, _HANDSHAKE, _SILENCE, _FAREWELL = 30.0, 20.0, 300.0, 2.0  # seconds
_RESET = struct.pack("ii", 1, 0)
Connect = Callable[[tuple[str, int]], Awaitable[socket.socket]]


def believing(more: str = "") -> ssl.SSLContext:
    """As this host believes others, and those whose certificates are in the file `more`."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if more:
        context.load_verify_locations(more)
    return context


class Opener:
    """Of one instance. `connect` leads where the instance's own connections would."""

    def __init__(
        self, id: InstanceId, vaults: Vaults, authority: Authority, tls: ssl.SSLContext, connect: Connect
    ) -> None:
        self.id = id
        self._vaults = vaults
        self._authority = authority
        self._tls = tls
        self._connect = connect

    async def serve(self, guest: socket.socket, where: tuple[str, int]) -> None:
        """One connection, from its beginning to its end, that was to go there. Both sockets are closed."""
        with guest:
            _mind(guest)
            try:
                async with asyncio.timeout(_CONNECT):
                    onward = await self._connect(where)
            except (OSError, TimeoutError):  # as it would have been told
                with contextlib.suppress(OSError):
                    guest.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            with onward, contextlib.suppress(OSError, TimeoutError):
                _mind(onward)
                host = await _host(guest, onward)
                opening = None if host is None else await self._vaults.opening(self.id, host)
                if host is None or opening is None:
                    await _splice(guest, onward)
                else:
                    await self._open(host, guest, onward)

    async def _open(self, host: str, guest: socket.socket, onward: socket.socket) -> None:
        context = await self._authority.context(host)
        server, why = await self._onward(host, onward)
        ours: Way | None = None
        try:
            ours = await _accepted(guest, context)
            if server is None:
                await tell_failure(ours, why)
            else:
                await Speech(
                    host, ours, server, lambda: self._vaults.opening(self.id, host),
                    lambda opening, status: self._vaults.note(opening, host, status),
                ).run()  # fmt: skip
        except (ssl.SSLError, OSError, TimeoutError) as error:
            log.info("%s: the guest does not speak with us for %s: %s", self.id, host, error)
        finally:
            for way in (ours, server):
                if way is not None:
                    await _close(way[1])

    async def _onward(self, host: str, onward: socket.socket) -> tuple[Way | None, str]:
        """To the host itself, which has to prove that it is that; None: it did not, and why."""
        try:
            return await asyncio.open_connection(
                sock=onward, ssl=self._tls, server_hostname=host, ssl_handshake_timeout=_HANDSHAKE, limit=CHUNK
            ), ""
        except ssl.SSLCertVerificationError as error:
            return None, f"{host} is not believed: {error.verify_message}"
        except (ssl.SSLError, OSError, TimeoutError) as error:
            return None, f"{host} does not answer: {type(error).__name__}"


async def _accepted(guest: socket.socket, context: ssl.SSLContext) -> Way:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=CHUNK, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, guest, ssl=context, ssl_handshake_timeout=_HANDSHAKE
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        async with asyncio.timeout(_FAREWELL):
            await writer.wait_closed()
    except (OSError, TimeoutError):  # it does not say farewell
        with contextlib.suppress(AttributeError):  # of Python 3.11, where it is gone already
            writer.transport.abort()


async def _host(guest: socket.socket, onward: socket.socket) -> str | None:
    """Which host the guest means, without a byte taken; None: it says something else, or the other side speaks first.

    :raise TimeoutError: neither says anything, or the guest does not go on with what it began.
    """
    async with asyncio.timeout(_SILENCE):
        await _readable(guest, onward)
    try:
        async with asyncio.timeout(_HANDSHAKE):
            while True:
                data = guest.recv(LONGEST, socket.MSG_PEEK)
                try:
                    return host_in(data) if data else None
                except More:
                    if len(data) >= LONGEST or _over(guest):
                        return None
                guest.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(data) + 1
                )  # or it would be asked all the time
                await _readable(guest)
    except BlockingIOError:  # it is the other side
        return None
    finally:
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _mind(one: socket.socket) -> None:
    """It ends some time after the other side has gone without a word, as a guest does that is killed."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 600), (socket.TCP_KEEPINTVL, 60), (socket.TCP_KEEPCNT, 5)):
        one.setsockopt(socket.IPPROTO_TCP, option, value)


def _over(guest: socket.socket) -> bool:
    """Whether nothing more will come: the guest has closed its side."""
    state = guest.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] != 1  # TCP_ESTABLISHED


async def _readable(*those: socket.socket) -> None:
    """Once one of them is."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    for one in those:
        loop.add_reader(one.fileno(), came.set)
    try:
        await came.wait()
    finally:
        for one in those:
            loop.remove_reader(one.fileno())


async def _splice(one: socket.socket, other: socket.socket) -> None:
    """Bytes as they come, both ways, until both have said all."""
    pumps = [asyncio.create_task(_pass(one, other)), asyncio.create_task(_pass(other, one))]
    try:
        await asyncio.gather(*pumps)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pass(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
