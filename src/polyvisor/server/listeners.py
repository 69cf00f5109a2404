"""Listening: one application on two sockets, plain and TLS, told apart by nothing but the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from polyvisor.model.faults import Busy, Invalid

HEAD_LIMIT = 64 * 1024  # bytes, and one piece of the stream more
UNBOUNDED = 2**62
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def bind(address: str, setting: str) -> socket.socket:
    """A bound socket for HOST:PORT. :raise Invalid: malformed. :raise Busy: taken."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"{setting}: {address!r} is not HOST:PORT", field=setting)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio sets no TCP_NODELAY
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)):
        sock.setsockopt(socket.IPPROTO_TCP, option, seconds)  # connections inherit them
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        sock.bind((host, int(port)))
    except OSError as error:
        sock.close()
        raise Busy(f"{setting}: cannot listen on {address}: {error.strerror}", field=setting) from error
    sock.setblocking(False)
    return sock


def url_of(sock: socket.socket, scheme: str) -> str:
    """The address a client uses."""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if sock.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


def _is_news(record: logging.LogRecord) -> bool:
    """Not uvicorn's complaint about a WebSocket that was refused with a status and a body: that is an answer."""
    return "without completing handshake" not in record.msg


logging.getLogger("uvicorn.error").addFilter(_is_news)


class _Protocol(HttpToolsProtocol):
    """HTTP whose requests have a head of a bounded size: it is held in memory before anybody knows who asks."""

    _head = 0  # bytes of a request so far; far below zero once it is past its head

    def data_received(self, data: bytes) -> None:
        """A piece of the stream. What is too long is cut off, with a word if there is still somebody to read it."""
        if self._head > HEAD_LIMIT:
            self.transport.write(_TOO_LONG)
            self.transport.close()
            return
        self._head += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is over; what follows is the body's business."""
        self._head = -UNBOUNDED
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """Another request."""
        self._head = 0
        super().on_message_begin()


class _WithoutQueries(logging.Filter):
    """Addresses are told without what is behind their `?`: a browser can show a token of a WebSocket's only there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Cut it off."""
        if isinstance(record.args, tuple):
            record.args = tuple(said.partition("?")[0] if isinstance(said, str) else said for said in record.args)
        return True


_WITHOUT_QUERIES = _WithoutQueries()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: two of them share one process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, **more: str) -> _Server:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", http=_Protocol, ws="websockets-sansio",
        timeout_graceful_shutdown=3, timeout_keep_alive=75, ws_max_size=4 * 1024 * 1024, server_header=False,
        ws_ping_interval=None,  # a client that takes its time is alive: TCP itself tells who is not
        **more,  # type: ignore[arg-type]  # of many types
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_WITHOUT_QUERIES)
    return _Server(config)


async def serve(
    app: ASGIApp, plain: socket.socket, tls: socket.socket, certificate: tuple[Path, Path], ready: asyncio.Event
) -> None:
    """Answer on both sockets until SIGTERM or SIGINT; `ready` is set once both accept."""
    cert, key = certificate
    servers = [
        (_server(app), plain),
        (_server(app, ssl_certfile=str(cert), ssl_keyfile=str(key)), tls),
    ]
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for server, _ in servers:
            server.should_exit = True

    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, stop)
    tasks = [asyncio.create_task(server.serve(sockets=[sock])) for server, sock in servers]
    try:
        while not all(server.started for server, _ in servers):
            if any(task.done() for task in tasks):
                break
            await asyncio.sleep(0.005)
        ready.set()
        await asyncio.gather(*tasks)
    finally:
        stop()
        with contextlib.suppress(Exception):
            await asyncio.gather(*tasks)
