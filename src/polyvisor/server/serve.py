"""`polyvisor serve`: in the foreground until told to stop; the machines run on."""

from __future__ import annotations

import asyncio
import logging
import sys

from starlette.applications import Starlette
from starlette.routing import Mount

from polyvisor.dialects.native import make_app
from polyvisor.server.bootstrap import ensure_certificate, tell_addresses
from polyvisor.server.config import Config
from polyvisor.server.listeners import bind, serve, url_of
from polyvisor.server.wiring import Parts, running

log = logging.getLogger("polyvisor.server")


def application(parts: Parts) -> Starlette:
    """All dialects behind one door, told apart by path."""
    return Starlette(routes=[Mount("/", make_app(parts.engine))])


async def serve_forever(config: Config) -> None:
    """Start, print the one `ready` line, answer until SIGTERM.

    :raise Fault: it cannot start; nothing is left running.
    """
    plain = bind(config.server.listen, "server.listen")
    tls = bind(config.server.tls_listen, "server.tls_listen")
    async with running(config) as parts:
        certificate = ensure_certificate(config.data)
        url, tls_url = url_of(plain, "http"), url_of(tls, "https")
        tell_addresses(config.data, parts.facts, url, tls_url)
        ready = asyncio.Event()
        serving = asyncio.create_task(serve(application(parts), plain, tls, certificate, ready))
        await ready.wait()
        sys.stdout.write(f"ready {url} {tls_url}\n")
        sys.stdout.flush()
        await serving
