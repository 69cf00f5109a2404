"""`polyvisor serve`: in the foreground until told to stop; the machines run on."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from polyvisor.dialects import hanzo, hypeman, instavm, native, velocity, vergeos
from polyvisor.server.bootstrap import ensure_certificate, tell_addresses, write_private
from polyvisor.server.config import Config
from polyvisor.server.listeners import bind, serve, url_of
from polyvisor.server.wiring import Parts, running

if TYPE_CHECKING:
    from polyvisor.gateway.listener import Gateway

log = logging.getLogger("polyvisor.server")


def application(parts: Parts) -> ASGIApp:
    """All dialects behind one door, told apart by path; what is nobody else's is the native one's."""
    doors: list[tuple[Callable[[str], bool], ASGIApp]] = [
        (hypeman.is_ours, hypeman.make_app(parts.engine)),
        (instavm.is_ours, instavm.make_app(parts.engine, parts.config.sandboxes())),
        (velocity.is_ours, velocity.make_app(parts.engine, parts.config.velocity.lifetime())),
        (vergeos.is_ours, vergeos.make_app(parts.engine)),
        (hanzo.is_ours, hanzo.make_app(parts.engine, parts.config.hanzo_settings())),
    ]
    own = native.make_app(parts.engine)

    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        app = next((app for is_ours, app in doors if is_ours(path)), own)
        await app(scope, receive, send)

    return choose


def _collect_seldom() -> None:
    """Keep old objects out of garbage collection: nobody is to wait while all of them are looked through for cycles.

    With a thousand instances that takes a quarter of a second. Code and tables, which stay, are left out; of the rest,
    what is young is looked at as ever, what is old seldom.
    """
    gc.freeze()
    gc.set_threshold(10_000, 10, 100)


def _have_room_for_files() -> None:
    """As many descriptors as this user may have: a connection is one, or two, and guests begin those as well."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _gateway(parts: Parts, sock: socket.socket) -> Gateway:
    from polyvisor.gateway.listener import open_gateway  # asyncssh takes a moment, which most servers can do without

    return await open_gateway(parts.engine, sock, parts.config.data, parts.config.ssh.limits(), write_private)


async def serve_forever(config: Config) -> None:
    """Start, print the one `ready` line, answer until SIGTERM.

    :raise Fault: it cannot start; nothing is left running.
    """
    _have_room_for_files()
    plain = bind(config.server.listen, "server.listen")
    tls = bind(config.server.tls_listen, "server.tls_listen")
    ssh = bind(config.ssh.listen, "ssh.listen") if config.ssh.listen else None
    async with running(config) as parts:
        certificate = ensure_certificate(config.data)
        url, tls_url = url_of(plain, "http"), url_of(tls, "https")
        gateway = await _gateway(parts, ssh) if ssh else None
        tell_addresses(config.data, parts.facts, url, tls_url, url_of(ssh, "ssh")[6:] if ssh else "")
        ready = asyncio.Event()
        serving = asyncio.create_task(serve(application(parts), plain, tls, certificate, ready))
        await ready.wait()
        _collect_seldom()
        sys.stdout.write(f"ready {url} {tls_url}\n")
        sys.stdout.flush()
        try:
            await serving
        finally:
            if gateway is not None:
                await gateway.close()
